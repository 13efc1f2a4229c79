//! What does not make the model better is not published.

use std::fs;
use std::path::Path;

use fieldfare_tests::binaries::fieldfare;
use fieldfare_tests::quickstart::{Finished, Quickstart};

/// As many rounds as pass every gate where nothing is wrong: the run on etcd shows that.
const ROUNDS: [&str; 2] = ["--rounds", "3"];

/// The exit code of a refusal by a gate.
const REFUSED: i32 = 3;

pub(crate) fn assert_refused(run: &Finished) {
    assert_eq!(run.code(), REFUSED, "{}", run.progress.join("\n"));
    assert_eq!(run.summary["outcome"], "refused");
    assert!(
        run.summary["release"].is_null(),
        "published all the same: {}",
        run.summary["release"]
    );
    let reason = run.summary["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("loss") || reason.contains("exact"),
        "no reason: {reason:?}"
    );
    assert_eq!(
        run.survivors(),
        Vec::<&serde_json::Value>::new(),
        "processes outlived the run"
    );
}

#[test]
fn a_job_that_drowns_in_noise_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    assert_refused(&Quickstart::start(dir.path(), &["--noise-multiplier", "50", ROUNDS[0], ROUNDS[1]]).finish());
}

#[test]
fn completions_permuted_among_the_prompts_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    farm_data(&data);
    for file in fs::read_dir(&data).expect("the farm's data").flatten() {
        permute_completions(&file.path());
    }
    let data = data.to_str().expect("UTF-8");
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/farm-alert/farm-alert-f16.gguf");
    assert_refused(
        &Quickstart::start(
            &dir.path().join("run"),
            &["--model", model, "--data", data, ROUNDS[0], ROUNDS[1]],
        )
        .finish(),
    );
}

/// The five devices' own examples of the farm-gateway task.
fn farm_data(folder: &Path) {
    let trainer = fieldfare().with_file_name("fieldfare-trainer");
    let status = std::process::Command::new(trainer)
        .args(["farm", "--out"])
        .arg(folder)
        .status();
    assert!(status.expect("the trainer starts").success());
}

/// Gives every prompt the completion of a prompt far from it; prompts and completions stay the same sets.
fn permute_completions(file: &Path) {
    let text = fs::read_to_string(file).expect("JSONL");
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let shift = lines.len() / 2 + 1;
    let permuted = lines.iter().enumerate().map(|(index, line)| {
        let completion = &lines[(index * 7 + shift) % lines.len()]["completion"];
        serde_json::json!({"prompt": line["prompt"], "completion": completion}).to_string()
    });
    fs::write(file, permuted.collect::<Vec<_>>().join("\n")).expect("written");
}
