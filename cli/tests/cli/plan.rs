//! `plan`: the four named models and the five reference devices, as text and as JSON; profiles that cannot be.

use std::path::Path;

use fieldfare_fleet::{ByteSize, CapabilityProfile, reference_profile};

use crate::binary::Home;

/// Compares with a committed file. `FIELDFARE_BLESS=1` writes it instead.
#[allow(
    clippy::disallowed_methods,
    reason = "the switch that renews the files is read here only"
)]
fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cli/golden")
        .join(name);
    if std::env::var("FIELDFARE_BLESS").is_ok() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == found, "{name} differs; found:\n{found}");
}

#[tokio::test]
async fn the_four_named_models_are_planned_for_the_five_devices() {
    golden("plan.txt", &Home::new().ok("plan").await);
}

#[tokio::test]
async fn one_device_and_its_reasons_as_json() {
    let line = "plan llama-2-7b --profile raspberry-pi-5 --output json";
    golden("plan.json", &Home::new().ok(line).await);
}

#[tokio::test]
async fn text_and_json_say_the_same() {
    let home = Home::new();
    for model in ["tinyllama-1.1b", "phi-2", "mistral-7b-instruct", "llama-2-7b"] {
        let text = home.ok(&format!("plan {model}")).await;
        let plans = home.json(&format!("plan {model}")).await;
        assert_eq!(plans.as_array().unwrap().len(), 1);
        let devices = plans[0]["devices"].as_array().unwrap();
        assert_eq!(devices.len(), 5, "{model}");
        for device in devices {
            let name = device["device"].as_str().unwrap();
            let row = text.lines().find(|line| line.starts_with(name));
            let row = row.unwrap_or_else(|| panic!("{name} is not in\n{text}"));
            let chosen = device["chosen"].as_str().unwrap_or("nothing");
            assert!(row.split_whitespace().any(|word| word == chosen), "{chosen}: {row}");
            for variant in device["variants"].as_array().unwrap() {
                let why = variant["why"].as_array().unwrap();
                let is_chosen = variant["variant"] == device["chosen"];
                assert_eq!(variant["verdict"] == "chosen", is_chosen, "{variant}");
                assert_eq!(
                    why.is_empty(),
                    is_chosen,
                    "every other variant has its reasons: {variant}"
                );
            }
        }
    }
}

#[tokio::test]
async fn what_is_asked_for_changes_the_plan() {
    let home = Home::new();
    let chosen = async |more: &str| {
        let line = format!("plan tinyllama-1.1b --profile raspberry-pi-5 {more}");
        home.json(&line).await[0]["devices"][0]["chosen"].clone()
    };
    assert_eq!(chosen("").await, "f16");
    assert_eq!(chosen("--model-memory 1GiB").await, "q6-k");
    assert_eq!(chosen("--min-tokens-per-second 20").await, "q4-k-m");
    assert_eq!(chosen("--max-memory 100MiB").await, serde_json::Value::Null);
}

fn pi() -> CapabilityProfile {
    reference_profile("raspberry-pi-5").unwrap()
}

#[tokio::test]
async fn a_profile_from_a_file_is_planned_for() {
    let home = Home::new();
    let file = home.write("pi.json", serde_json::to_vec(&pi()).unwrap());
    let named = home.json("plan phi-2 --profile raspberry-pi-5").await;
    assert_eq!(home.json(&format!("plan phi-2 --profile {file}")).await, named);
}

#[tokio::test]
async fn an_impossible_profile_is_refused_with_its_field() {
    let home = Home::new();
    let mut profiles = [pi(), pi(), pi()];
    profiles[0].cores = 0;
    profiles[1].model_memory = ByteSize::from_gib(9);
    profiles[2].memory = ByteSize::new(u64::MAX);
    for (profile, field) in profiles.iter().zip(["`cores`", "model_memory", "`memory`"]) {
        let file = home.write("impossible.json", serde_json::to_vec(profile).unwrap());
        home.fails(1, &format!("plan phi-2 --profile {file}"), &[field, "raspberry-pi-5"])
            .await;
    }
    let no_json = home.write("broken.json", "{");
    home.fails(
        1,
        &format!("plan --profile {no_json}"),
        &["broken.json", "expected a capability profile"],
    )
    .await;
    home.fails(1, "plan --profile toaster", &["toaster", "intel-npu"]).await;
}

#[tokio::test]
async fn a_model_that_is_none_is_named_with_those_there_are() {
    let home = Home::new();
    home.fails(1, "plan llama-9", &["llama-9", "next:", "tinyllama-1.1b"])
        .await;
    for number in ["NaN", "-1", "inf", "fast"] {
        let line = format!("plan --min-tokens-per-second {number}");
        home.fails(2, &line, &["--min-tokens-per-second", number, "a finite number"])
            .await;
    }
    home.fails(2, "plan --model-memory much", &["is no size"]).await;
}
