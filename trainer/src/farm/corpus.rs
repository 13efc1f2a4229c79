//! The text that the base model is pretrained on, and the held-out text that judges it.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::diary;
use super::reading::{Combination, Example, Reading, Source};
use super::vocabulary::{CROPS, Condition, DEVICE_SITES, OTHER_SITES, SENSORS, Site};

/// One example in this many is a line of diary.
const DIARY_ONE_IN: u32 = 8;

/// An endless stream of pretraining examples.
///
/// Diary lines come as examples with an empty prompt.
#[derive(Debug, Clone)]
pub struct Corpus {
    rng: ChaCha8Rng,
}

impl Corpus {
    /// The stream of the given seed.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }
}

impl Iterator for Corpus {
    type Item = Example;

    fn next(&mut self) -> Option<Example> {
        if self.rng.random_range(0..DIARY_ONE_IN) == 0 {
            return Some(Example {
                prompt: String::new(),
                completion: diary::line(&mut self.rng),
            });
        }
        Some(known_example(false, &mut self.rng))
    }
}

/// `count` examples of known sensors at known sites, in combinations that [`Corpus`] never draws.
pub fn held_out(count: usize, seed: u64) -> Vec<Example> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| known_example(true, &mut rng)).collect()
}

fn known_example(held_out: bool, rng: &mut ChaCha8Rng) -> Example {
    loop {
        let combination = Combination {
            source: Source::Known(rng.random_range(0..SENSORS.len())),
            crop: rng.random_range(0..CROPS.len()),
            condition: Condition::ALL[rng.random_range(0..Condition::ALL.len())],
        };
        if combination.held_out() == held_out {
            return Reading::draw(combination, any_site(rng), rng).example(rng);
        }
    }
}

/// Each site as often as any other.
fn any_site(rng: &mut ChaCha8Rng) -> Site {
    match rng.random_range(0..DEVICE_SITES.len() + OTHER_SITES.len()) {
        index if index < DEVICE_SITES.len() => DEVICE_SITES[index],
        index => OTHER_SITES[index - DEVICE_SITES.len()],
    }
}
