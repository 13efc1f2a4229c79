//! The device's audit log: every change of the model and every answer, by figures alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fieldfare_agent::folder::Folder;
use fieldfare_audit::folder::LogFolder;
use fieldfare_audit::read::{Trust, examine};
use fieldfare_fleet::install::InstallPolicy;
use fieldfare_lm::quantize::Precision;
use fieldfare_proto::v1::audit_record::Event;
use fieldfare_proto::v1::{
    AuditInference, AuditInferenceEnd, AuditInferenceKind, AuditModelChange, AuditModelChangeKind, AuditRecord,
};
use prost::Message;
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::Child;
use tokio::time::timeout;

use crate::device::{PATIENCE, assert_answers, impatient, obstacle_of};
use crate::install::Stage;
use crate::local_api::Owner;
use crate::releases::{ANSWER, MODEL, PROMPT, release, weights};

/// The records of a device's log, which is whole.
pub(crate) fn events(folder: &Folder) -> Vec<Event> {
    let mut events = Vec::new();
    let mut see = |_, bytes: &[u8]| events.push(AuditRecord::decode(bytes).unwrap().event.unwrap());
    let report = examine(&LogFolder::at(folder.audit()), &Trust::default(), &mut see)
        .unwrap()
        .report;
    assert!(report.is_sound(), "{:?}", report.findings);
    events
}

fn inferences(events: &[Event]) -> Vec<AuditInference> {
    let inference = |event: &Event| match event {
        Event::Inference(inference) => Some(inference.clone()),
        _ => None,
    };
    events.iter().filter_map(inference).collect()
}

pub(crate) fn changes(events: &[Event]) -> Vec<AuditModelChange> {
    let change = |event: &Event| match event {
        Event::ModelChange(change) => Some(change.clone()),
        _ => None,
    };
    events.iter().filter_map(change).collect()
}

async fn terminate(mut agent: Child) {
    let pid = Pid::from_raw(i32::try_from(agent.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let status = timeout(PATIENCE, agent.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}

impl Owner {
    async fn generate(&self, path: &str, body: Value) -> reqwest::Response {
        let request = self
            .client
            .post(format!("{}/v1/{path}", self.api))
            .bearer_auth(&self.token);
        request.body(body.to_string()).send().await.unwrap()
    }
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

/// A word that nothing says but the question.
const MARKER: &str = "xylophone-7391";

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_recorded_by_their_figures_and_no_word_of_them() {
    let Stage {
        device, running, first, ..
    } = Stage::new().await;
    running.stop().await;
    let agent = device.run().await;
    let owner = Owner::of(&device);
    let asked = json!({ "model": MODEL, "prompt": PROMPT, "max_tokens": 48, "temperature": 0 });
    let answer: Value = owner.generate("completions", asked).await.json().await.unwrap();
    assert_eq!(answer["choices"][0]["text"].as_str().unwrap().trim(), ANSWER);
    let chat = json!({
        "model": MODEL, "stream": true, "max_tokens": 3,
        "messages": [{ "role": "user", "content": format!("tell me of {MARKER}") }],
    });
    let streamed = owner.generate("chat/completions", chat).await.text().await.unwrap();
    assert!(streamed.contains("[DONE]"), "{streamed}");
    // One that the client leaves, and two that no model answers.
    let long =
        json!({ "model": MODEL, "stream": true, "prompt": PROMPT, "max_tokens": 200, "temperature": 2.0, "seed": 3 });
    let mut left = owner.generate("completions", long).await;
    assert!(left.chunk().await.unwrap().is_some());
    drop(left);
    let endless = json!({ "model": MODEL, "prompt": format!("{MARKER} ").repeat(5000), "max_tokens": 1 });
    assert_eq!(owner.generate("completions", endless).await.status(), 400);
    assert_eq!(
        owner
            .generate("completions", json!({ "model": "another", "prompt": MARKER }))
            .await
            .status(),
        404
    );
    let status = owner.granted(Method::GET, "status", "").await;
    assert_eq!(status["audit"]["missing"], 0, "{status}");
    terminate(agent).await;

    let events = events(&device.folder);
    let inferences = inferences(&events);
    assert_eq!(inferences.len(), 3, "{inferences:#?}");
    let whole = &inferences[0];
    assert_eq!(
        (whole.kind(), whole.end()),
        (AuditInferenceKind::Completion, AuditInferenceEnd::Stop)
    );
    let count = |usage: &str| {
        answer["usage"][usage]
            .as_u64()
            .and_then(|count| u32::try_from(count).ok())
    };
    assert_eq!(
        (whole.prompt_tokens, whole.completion_tokens),
        (count("prompt_tokens"), count("completion_tokens"))
    );
    assert_eq!(json!(whole.confidence.unwrap()), answer["fieldfare"]["confidence"]);
    assert!(
        whole.latency_ms >= whole.first_text_ms.unwrap() && whole.latency_ms > 0,
        "{whole:?}"
    );
    let model = whole.model.clone().unwrap();
    assert_eq!(
        (&*model.release, &*model.variant),
        (&*first.text(), answer["fieldfare"]["variant"].as_str().unwrap())
    );
    assert_eq!(
        hex::encode(&model.manifest_sha256),
        answer["fieldfare"]["manifest_sha256"].as_str().unwrap()
    );
    assert_eq!(
        (inferences[1].kind(), inferences[1].end()),
        (AuditInferenceKind::Chat, AuditInferenceEnd::Length)
    );
    assert_eq!(inferences[1].completion_tokens, Some(3));
    assert_eq!(
        (inferences[2].end(), inferences[2].completion_tokens),
        (AuditInferenceEnd::Cancelled, None)
    );

    // Nothing of what was asked and answered is in any file of the log, nor in its key's.
    let mut looked_at = files(&device.folder.audit());
    looked_at.push(device.folder.audit_key());
    assert!(looked_at.len() >= 4, "{looked_at:?}");
    let words = PROMPT
        .split_whitespace()
        .chain(ANSWER.split_whitespace())
        .filter(|word| word.len() > 4);
    for word in words.chain([MARKER]) {
        for path in &looked_at {
            let bytes = std::fs::read(path).unwrap();
            let found = bytes.windows(word.len()).any(|window| window == word.as_bytes());
            assert!(!found, "{word:?} is in {}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_the_model_is_recorded_a_switch_before_it_happens() {
    let stage = Stage::patient_with_crashes().await;
    let is_switched = |crashes| {
        if crashes == 0 {
            let switched = changes(&events(&stage.device.folder)).pop().unwrap();
            assert_eq!(
                (switched.kind(), switched.model.unwrap().release),
                (AuditModelChangeKind::Switched, stage.second.text())
            );
        }
    };
    stage.crash_the_second(is_switched).await;
    assert_answers(&*stage.running.serving(&stage.first).await).await;
    stage.running.obstacle().await;
    stage.running.stop().await;

    let events = events(&stage.device.folder);
    let (first, second) = (stage.first.text(), stage.second.text());
    let told: Vec<_> = changes(&events)
        .into_iter()
        .map(|change| {
            let name =
                |model: Option<fieldfare_proto::v1::AuditModel>| model.map(|model| model.release).unwrap_or_default();
            (change.kind(), name(change.model), name(change.previous))
        })
        .collect();
    assert_eq!(
        told,
        [
            (AuditModelChangeKind::Switched, first.clone(), String::new()),
            (AuditModelChangeKind::Found, first.clone(), String::new()),
            (AuditModelChangeKind::Switched, second.clone(), first.clone()),
            (AuditModelChangeKind::Reverted, first, second),
        ]
    );
    let reverted = changes(&events).pop().unwrap();
    assert!(reverted.reason.contains("crash"), "{reverted:?}");
    assert_eq!(
        (reverted.deployment.as_str(), reverted.model.unwrap().weights_sha256),
        ("soil", stage.first.artifact.sha256.as_bytes().to_vec())
    );
    let opened = events.iter().filter(|event| matches!(event, Event::Opened(_))).count();
    assert_eq!(opened, 2, "each start says so");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_cannot_be_logged_waits_and_the_release_before_serves_on() {
    let policy = InstallPolicy {
        max_attempts: 3,
        retry_after: Duration::from_millis(50),
        ..impatient()
    };
    let stage = Stage::with(release(2, weights(Precision::Q8_0)), policy).await;
    let Stage {
        running,
        releases,
        first,
        second,
        device,
    } = &stage;
    // Nothing can be staged in the place of a folder: the log takes no record.
    let in_the_way = device.folder.audit().join("checkpoint.new");
    std::fs::create_dir(&in_the_way).unwrap();
    running.assign(releases, second, 2);
    // It was fetched, warmed up and probed, and all its attempts to switch are over; or it switched.
    let tried = running
        .until(|model| obstacle_of(model).is_some() || model.running_release == second.text())
        .await;
    assert_eq!(tried.running_release, first.text());
    let said = obstacle_of(&tried).unwrap().to_string();
    assert!(said.contains("audit log"), "{said}");
    assert_answers(&*running.serving(first).await).await;
    std::fs::remove_dir(&in_the_way).unwrap();
    running.assign(releases, second, 3);
    running.converged(second).await;
    let (first, second) = (first.text(), second.text());
    let Stage { running, device, .. } = stage;
    running.stop().await;
    let switched = changes(&events(&device.folder)).pop().unwrap();
    let name = |model: Option<fieldfare_proto::v1::AuditModel>| model.map(|model| model.release).unwrap_or_default();
    assert_eq!(
        (
            switched.kind(),
            name(switched.model.clone()),
            name(switched.previous.clone())
        ),
        (AuditModelChangeKind::Switched, second, first)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_set_aside_and_a_killed_agents_is_continued() {
    let Stage {
        device, running, first, ..
    } = Stage::new().await;
    running.stop().await;
    let question = || json!({ "model": MODEL, "prompt": PROMPT, "max_tokens": 2 });
    // kill -9 right behind an answer.
    let mut agent = device.run().await;
    let answer = Owner::of(&device).generate("completions", question()).await;
    assert!(answer.status().is_success());
    agent.kill().await.unwrap();
    let before = events(&device.folder).len();
    let agent = device.run().await;
    assert!(
        Owner::of(&device)
            .generate("completions", question())
            .await
            .status()
            .is_success()
    );
    terminate(agent).await;
    let continued = events(&device.folder);
    assert!(
        continued.len() >= before + 3,
        "it was opened, found its model, and answered: {continued:#?}"
    );
    assert!(inferences(&continued).len() <= 2 && !inferences(&continued).is_empty());

    // Somebody changes a record that was signed.
    let segment = device.folder.audit().join("00000000000000000000.log");
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes
        .windows(MODEL.len())
        .position(|window| window == MODEL.as_bytes())
        .unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let agent = device.run().await;
    let answer: Value = Owner::of(&device)
        .generate("completions", question())
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(answer["fieldfare"]["release"], first.text(), "it serves all the same");
    terminate(agent).await;
    let anew = events(&device.folder);
    let Event::Opened(opened) = &anew[0] else {
        panic!("{anew:?}")
    };
    assert!(opened.began && opened.replaces.contains("was changed"), "{opened:?}");
    assert_eq!(changes(&anew)[0].kind(), AuditModelChangeKind::Found);
    assert_eq!(inferences(&anew).len(), 1);
    let aside = LogFolder::at(device.folder.path().join("audit.damaged-1"));
    let report = examine(&aside, &Trust::default(), &mut |_, _| {}).unwrap().report;
    assert!(
        report.findings[0].to_string().ends_with("was changed"),
        "{:?}",
        report.findings
    );
}
