//! A model and data of one's own: stories260K as the base, eight real senders of text messages as the devices.

use std::fs;

use fieldfare_tests::data;
use fieldfare_tests::quickstart::Quickstart;

/// Messages of each sender that take part.
const MESSAGES: usize = 250;

#[test]
#[ignore = "deep tier: a whole run"]
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
    ];
    let run = Quickstart::start(&dir.path().join("run"), &arguments).finish();
    assert_eq!(run.code(), 0, "{}", run.progress.join("\n"));

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
