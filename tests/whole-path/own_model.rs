//! A model and data of one's own: stories260K as the base, eight real senders of text messages as the devices.

use std::fs;
use std::path::Path;
use std::process::Command;

use fieldfare_tests::binaries::fieldfare;
use fieldfare_tests::data;
use fieldfare_tests::quickstart::Quickstart;

/// Messages of each sender that take part.
const MESSAGES: usize = 250;

#[test]
fn eight_senders_improve_a_story_model() {
    let Some(shared) = data::shared("eight_senders_improve_a_story_model") else {
        return;
    };
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("sms");
    fs::create_dir(&folder).expect("a folder for the data");
    let mut senders: Vec<_> = data::sms_by_sender(&shared).into_iter().collect();
    senders.sort_by_key(|(sender, messages)| (std::cmp::Reverse(messages.len()), sender.clone()));
    for (sender, messages) in senders.into_iter().take(8) {
        let lines = messages
            .iter()
            .take(MESSAGES)
            .map(|text| serde_json::json!({ "text": text }).to_string());
        // Senders are known by hashes; a device's name is shorter than one.
        let name: String = sender.chars().take(8).collect();
        fs::write(
            folder.join(format!("sender-{name}.jsonl")),
            lines.collect::<Vec<_>>().join("\n"),
        )
        .expect("written");
    }

    let model = shared.join("models/stories260K/stories260K-f32.gguf");
    let arguments = [
        "--model",
        model.to_str().expect("UTF-8"),
        "--data",
        folder.to_str().expect("UTF-8"),
        "--keep",
    ];
    let run = Quickstart::start(&dir.path().join("run"), &arguments).finish();
    assert_eq!(run.code(), 0, "{}", run.progress.join("\n"));

    // The fleet is still there, and an operator finds it by what the run said.
    let kept = run.kept();
    assert_eq!(kept.count(), 8 + 2, "eight devices, the controller and the trainer");
    assert_eq!(run.summary["kept"], true);
    let operator = Path::new(run.summary["dir"].as_str().expect("the run's folder")).join("operator");
    let listed = Command::new(fieldfare())
        .args(["devices", "list", "--output", "json", "--config"])
        .arg(&operator)
        .output()
        .expect("fieldfare starts");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(listed.as_array().map(Vec::len), Some(8), "{listed}");

    let devices = run.array("devices");
    assert_eq!(devices.len(), 8);
    for device in devices {
        let (before, after) = (device["loss_before"].as_f64(), device["loss_after"].as_f64());
        assert!(
            after.expect("a loss after") < before.expect("a loss before"),
            "{device}"
        );
    }
}
