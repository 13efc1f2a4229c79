use std::collections::BTreeSet;

use super::corpus::{Corpus, held_out};
use super::datasets::{DatasetSizes, FarmDatasets, to_jsonl};
use super::vocabulary::{CROPS, Condition, DEVICE_SITES, SENSORS};
use super::{Combination, Example, Source};

#[test]
fn a_seed_gives_the_same_text_and_another_seed_another() {
    let text = |seed| Corpus::new(seed).take(200).collect::<Vec<_>>();
    assert_eq!(text(1), text(1));
    assert_ne!(text(1), text(2));
    let sizes = DatasetSizes::default();
    assert_eq!(FarmDatasets::generate(7, sizes), FarmDatasets::generate(7, sizes));
    assert_ne!(FarmDatasets::generate(7, sizes), FarmDatasets::generate(8, sizes));
}

/// The combination that a prompt states, found by its words.
fn combination_of(prompt: &str) -> Option<(String, &'static str, Condition)> {
    let crop = CROPS
        .into_iter()
        .filter(|crop| prompt.contains(crop))
        .max_by_key(|crop| crop.len())?;
    let names = SENSORS.iter().map(|sensor| sensor.name).chain(["leaf wetness"]);
    // "light" is also part of "slight", so the longest name that fits wins and a severity is no sensor.
    let prompt = prompt.replace("slight", "");
    let sensor = names
        .filter(|name| prompt.contains(name))
        .max_by_key(|name| name.len())?;
    let condition = Condition::ALL
        .into_iter()
        .flat_map(|condition| condition.phrases().iter().map(move |phrase| (phrase, condition)))
        .filter(|(phrase, _)| prompt.contains(*phrase))
        .max_by_key(|(phrase, _)| phrase.len())?
        .1;
    Some((sensor.to_owned(), crop, condition))
}

#[test]
fn held_out_prompts_share_no_combination_with_any_training_text() {
    let data = FarmDatasets::generate(3, DatasetSizes::default());
    let seen: BTreeSet<_> = Corpus::new(5)
        .take(20_000)
        .filter(|example| !example.prompt.is_empty())
        .chain(data.devices.iter().flat_map(|device| device.training.clone()))
        .map(|example| format!("{:?}", combination_of(&example.prompt).unwrap()))
        .collect();
    assert!(
        seen.len() > 2_000,
        "{} combinations are too few for a language task",
        seen.len()
    );
    let judged: Vec<Example> = data
        .devices
        .iter()
        .flat_map(|device| device.held_out.clone())
        .chain(data.evaluation.clone())
        .chain(held_out(2_000, 9))
        .collect();
    for example in judged {
        let combination = format!("{:?}", combination_of(&example.prompt).unwrap());
        assert!(
            !seen.contains(&combination),
            "{combination} of {:?} is also trained on",
            example.prompt
        );
    }
}

#[test]
fn every_pair_of_a_held_out_combination_is_seen_in_training() {
    for (crop, condition) in (0..CROPS.len()).flat_map(|crop| Condition::ALL.map(|condition| (crop, condition))) {
        let open = (0..SENSORS.len()).filter(|sensor| {
            !Combination {
                source: Source::Known(*sensor),
                crop,
                condition,
            }
            .held_out()
        });
        assert!(open.count() >= 14);
    }
}

#[test]
fn pretraining_text_never_mentions_the_novel_sensor_but_knows_every_site() {
    let text: String = Corpus::new(11)
        .take(20_000)
        .map(|example| example.prompt + &example.completion)
        .collect();
    assert!(!text.contains("leaf wetness"));
    for finding in [
        "dry leaves on the",
        "wet leaves on the",
        "drying leaves on the",
        "dripping leaves on the",
    ] {
        let alert = CROPS.iter().any(|crop| text.contains(&format!("{finding} {crop}, ")));
        assert!(!alert, "{finding} is the wording of the novel sensor");
    }
    for site in DEVICE_SITES {
        assert!(text.contains(site.name), "{}", site.name);
    }
}

#[test]
fn devices_and_the_evaluation_set_share_no_example() {
    let data = FarmDatasets::generate(4, DatasetSizes::default());
    let mut used = BTreeSet::new();
    let all = data
        .devices
        .iter()
        .flat_map(|device| device.training.iter().chain(&device.held_out));
    for example in all.chain(&data.evaluation) {
        assert!(used.insert(example.clone()), "{example:?} occurs twice");
    }
    let sizes = DatasetSizes::default();
    assert_eq!(
        used.len(),
        DEVICE_SITES.len() * (sizes.training + sizes.held_out) + sizes.evaluation
    );
}

#[test]
fn json_lines_give_the_examples_back() {
    let data = FarmDatasets::generate(
        1,
        DatasetSizes {
            training: 5,
            held_out: 2,
            evaluation: 1,
        },
    );
    let lines = to_jsonl(&data.devices[0].training);
    let back: Vec<Example> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(back, data.devices[0].training);
}
