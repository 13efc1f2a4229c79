//! Sentences of a farm diary: ordinary language around the readings, so that the base model knows the words of a farm
//! beyond those of its alerts.

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::vocabulary::{CROPS, OTHER_SITES, ZONES};

const WORKERS: [&str; 8] = ["Ada", "Ben", "Chloe", "Dan", "Eva", "Finn", "Grace", "Hugo"];
const DAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];
const WEATHER: [&str; 6] = [
    "dry and warm",
    "wet and cold",
    "foggy until noon",
    "windy all day",
    "clear after rain",
    "mild with dew",
];
const SIGHTS: [&str; 10] = [
    "mildew on the leaves",
    "dry leaves",
    "wet leaves",
    "drying leaves",
    "dripping leaves",
    "slugs under the leaves",
    "new shoots",
    "a broken drip line",
    "weeds between the plants",
    "a noisy fan",
];
const WORK: [&str; 11] = [
    "start the fans",
    "stop the fans",
    "delay the spray",
    "scout for aphids",
    "scout for mildew",
    "start the misters",
    "wipe the plate of the scale",
    "replace a lost label",
    "clean the filter",
    "thin the fruit",
    "move the sprinklers",
];

/// One line of diary, ending with a full stop.
pub(super) fn line(rng: &mut ChaCha8Rng) -> String {
    let worker = pick(&WORKERS, rng);
    let day = pick(&DAYS, rng);
    let crop = pick(&CROPS, rng);
    let place = place(rng);
    match rng.random_range(0..6) {
        0 => format!(
            "{day} was {}. {worker} looked at the {crop} in {place} and found {}.",
            pick(&WEATHER, rng),
            pick(&SIGHTS, rng)
        ),
        1 => format!(
            "{worker} asked the team to {} and to {} before {day}.",
            pick(&WORK, rng),
            pick(&WORK, rng)
        ),
        2 => format!(
            "In {place} the leaves of the {crop} are drying after a {} {day}.",
            pick(&WEATHER, rng)
        ),
        3 => format!(
            "In {place} the dew is wetting the leaves of the {crop}, so {worker} will {}.",
            pick(&WORK, rng)
        ),
        4 => format!("{worker} saw {} on the way to {place}.", pick(&SIGHTS, rng)),
        _ => format!(
            "Note for {day}: {} near the {crop}, then {}.",
            pick(&WORK, rng),
            pick(&WORK, rng)
        ),
    }
}

/// A word for a zone and its number; the words are those of all sites.
fn place(rng: &mut ChaCha8Rng) -> String {
    let word = OTHER_SITES[rng.random_range(0..OTHER_SITES.len())].zone_word;
    format!("{word} {}", rng.random_range(1..=ZONES))
}

fn pick(words: &[&'static str], rng: &mut ChaCha8Rng) -> &'static str {
    words.choose(rng).copied().unwrap_or_default()
}
