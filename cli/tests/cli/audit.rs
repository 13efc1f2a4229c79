//! `fieldfare audit` on files, without a controller or a context.

use std::path::Path;

use fieldfare_audit::log::{Log, Settings};
use fieldfare_proto::v1::audit_record::Event;
use fieldfare_proto::v1::{
    AuditCall, AuditInference, AuditInferenceEnd, AuditInferenceKind, AuditModel, AuditOpened, AuditOutcome,
    AuditRecord, CreateTokenRequest, CreateTokenResponse, Token, TokenRole,
};
use prost::Message;
use ring::rand::SystemRandom;

use crate::binary::Home;

/// 2026-11-22T16:58:44Z.
const START: u64 = 1_795_366_724_000;

fn events() -> Vec<Event> {
    let request = CreateTokenRequest {
        name: "greenhouse".to_owned(),
        role: TokenRole::Device.into(),
        secret_hash: vec![7; 32],
        labels: [("site".to_owned(), "north".to_owned())].into(),
        ..CreateTokenRequest::default()
    };
    let answer = CreateTokenResponse {
        token: Some(Token {
            id: "0707".to_owned(),
            ..Token::default()
        }),
    };
    let inference = |tokens| {
        Event::Inference(AuditInference {
            kind: AuditInferenceKind::Chat.into(),
            model: Some(AuditModel {
                release: "farm-alert.r1".to_owned(),
                variant: "q4".to_owned(),
                ..AuditModel::default()
            }),
            end: AuditInferenceEnd::Stop.into(),
            latency_ms: 120,
            completion_tokens: Some(tokens),
            confidence: Some(0.5),
            ..AuditInference::default()
        })
    };
    vec![
        Event::Opened(AuditOpened {
            program: "fieldfare-agent".to_owned(),
            began: true,
            ..AuditOpened::default()
        }),
        Event::Call(AuditCall {
            spiffe_id: "spiffe://fleet.example/tenant/farm/operator/ada".to_owned(),
            method: "fieldfare.v1.Operator/CreateToken".to_owned(),
            request: request.encode_to_vec(),
            ..AuditCall::default()
        }),
        Event::Outcome(AuditOutcome {
            of_record: 1,
            response: answer.encode_to_vec(),
            ..AuditOutcome::default()
        }),
        inference(11),
        inference(12),
    ]
}

/// A log with these events, one a minute, in the folder `audit` of a process's folder.
fn write(folder: &Path, events: Vec<Event>) {
    let settings = Settings {
        folder: folder.join("audit"),
        key: folder.join("audit-key.pem"),
        owner: "fleet.example/tenant/farm/device/1".to_owned(),
        segment_bytes: 1 << 20,
        keep_bytes: 1 << 30,
    };
    let (mut log, opened) = Log::open(settings, START, SystemRandom::new()).unwrap();
    for (index, event) in (opened.records..).zip(events) {
        let at_unix_ms = i64::try_from(START + index * 60_000).unwrap();
        log.append(
            &AuditRecord {
                at_unix_ms,
                event: Some(event),
            }
            .encode_to_vec(),
        )
        .unwrap();
    }
    log.commit(START).unwrap();
}

fn logged() -> (Home, String) {
    let home = Home::new();
    let folder = home.path("device");
    std::fs::create_dir(&folder).unwrap();
    write(&folder, events());
    let log = folder.join("audit").to_str().unwrap().to_owned();
    (home, log)
}

const SEGMENT: &str = "00000000000000000000.log";

#[tokio::test]
async fn a_whole_log_is_said_to_be_whole_and_whether_its_key_was_pinned() {
    let (home, log) = logged();
    let text = home.ok(&format!("audit verify {log}")).await;
    assert!(text.contains(": whole"), "{text}");
    assert!(text.contains("records   0 to 4, signed up to 4"), "{text}");
    assert!(text.contains("found beside the log and NOT pinned"), "{text}");
    let pinned = home.ok(&format!("audit verify {log} --key {log}/log.pub")).await;
    assert!(pinned.contains("the one given with --key"), "{pinned}");
    // The folder of the device is as good as that of the log.
    let folder = log.strip_suffix("/audit").unwrap();
    let verdicts = home.json(&format!("audit verify {folder}")).await;
    let verdict = &verdicts[0];
    assert_eq!(
        (&verdict["whole"], &verdict["records"], &verdict["key_pinned"]),
        (&true.into(), &5.into(), &false.into())
    );
    assert_eq!(verdict["newest_head"]["at"], "2026-11-22T16:58:44Z");
    assert_eq!(verdict["path"], log);
}

#[tokio::test]
async fn a_changed_log_is_refused_with_the_record_named() {
    let (home, log) = logged();
    let segment = Path::new(&log).join(SEGMENT);
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(3).position(|window| window == b"ada").unwrap();
    bytes[at..at + 3].copy_from_slice(b"eve");
    std::fs::write(&segment, bytes).unwrap();
    for (words, finding) in [("verify", true), ("show", false)] {
        let finished = home.run(&format!("audit {words} {log}")).await;
        assert_eq!(finished.code, Some(3), "{finished:?}");
        assert!(
            finished.stderr.contains("is not whole: record 1 was changed"),
            "{finished:?}"
        );
        assert_eq!(
            finished.stdout.contains("found     record 1 was changed"),
            finding,
            "{finished:?}"
        );
    }
    let finished = home.run(&format!("audit verify {log} --output json")).await;
    let verdicts: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    let found = &verdicts[0]["findings"][0];
    assert_eq!((&found["code"], &found["record"]), (&"changed".into(), &1.into()));
}

#[tokio::test]
async fn another_key_and_a_head_of_another_history_are_refused() {
    let (home, log) = logged();
    let other = home.path("other");
    std::fs::create_dir(&other).unwrap();
    write(&other, events());
    let key = other.join("audit/log.pub");
    let finished = home.run(&format!("audit verify {log} --key {}", key.display())).await;
    assert_eq!(finished.code, Some(3));
    assert!(
        finished.stderr.contains("it is not the key that was given"),
        "{finished:?}"
    );
    // The log as it was is put back over the log as it is.
    let earlier = home.path("earlier");
    std::fs::create_dir(&earlier).unwrap();
    for entry in std::fs::read_dir(&log).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), earlier.join(entry.file_name())).unwrap();
    }
    write(Path::new(log.strip_suffix("/audit").unwrap()), events());
    let head = format!("{log}/checkpoint");
    home.ok(&format!(
        "audit verify {log} --head {}",
        earlier.join("checkpoint").display()
    ))
    .await;
    home.ok(&format!("audit verify {}", earlier.display())).await;
    let finished = home
        .run(&format!("audit verify {} --head {head}", earlier.display()))
        .await;
    assert_eq!(finished.code, Some(3));
    assert!(
        finished.stderr.contains("covers 10 records and only 5 are here"),
        "{finished:?}"
    );
}

#[tokio::test]
async fn records_are_shown_with_their_requests_and_by_time_and_kind() {
    let (home, log) = logged();
    let text = home.ok(&format!("audit show {log}")).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{text}");
    let call = "1  2026-11-22T16:59:44Z  call         method=fieldfare.v1.Operator/CreateToken";
    assert!(
        lines[2].contains(call) && lines[2].contains("request.name=greenhouse"),
        "{text}"
    );
    assert!(lines[2].contains("request.labels.site=north"), "{text}");
    assert!(lines[3].contains("response.token.id=0707"), "{text}");
    let shown = home.json(&format!("audit show {log}")).await;
    assert_eq!(shown[1]["event"]["request"]["role"], "TOKEN_ROLE_DEVICE");
    assert_eq!(shown[1]["event"]["request"]["secret_hash"], "07".repeat(32));
    assert_eq!(shown[4]["event"]["completion_tokens"], 12);
    for (filter, records) in [
        ("--kind inference", vec![3, 4]),
        ("--kind call --kind opened", vec![0, 1]),
        ("--since 2026-11-22T17:00:44Z", vec![2, 3, 4]),
        ("--until 2026-11-22T17:00:44Z", vec![0, 1]),
        ("--since 2026-11-22 --until 2026-11-23 --kind outcome", vec![2]),
        ("--since 2026-11-23", vec![]),
    ] {
        let shown = home.json(&format!("audit show {log} {filter}")).await;
        let found: Vec<u64> = shown
            .as_array()
            .unwrap()
            .iter()
            .map(|record| record["record"].as_u64().unwrap())
            .collect();
        assert_eq!(found, records, "{filter}");
    }
    home.fails(2, &format!("audit show {log} --since yesterday"), &["expected a date"])
        .await;
}

#[tokio::test]
async fn a_folder_without_a_log_or_with_several_is_told_apart() {
    let (home, log) = logged();
    let device = log.strip_suffix("/audit").unwrap();
    home.fails(1, "audit verify .config", &["No such file"]).await;
    let empty = home.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let line = format!("audit verify {}", empty.display());
    home.fails(1, &line, &["there is no audit log in", "next: name the folder `audit`"])
        .await;
    // Two copies, one of them without its checkpoint.
    let copies = home.path("copies");
    for name in ["one", "two"] {
        std::fs::create_dir_all(copies.join(name)).unwrap();
        for entry in std::fs::read_dir(&log).unwrap().map(Result::unwrap) {
            std::fs::copy(entry.path(), copies.join(name).join(entry.file_name())).unwrap();
        }
    }
    std::fs::remove_file(copies.join("two/checkpoint")).unwrap();
    let finished = home.run(&format!("audit verify {}", copies.display())).await;
    assert_eq!(finished.code, Some(3), "{finished:?}");
    assert!(
        finished.stdout.contains("one: whole") && finished.stdout.contains("two: NOT whole"),
        "{finished:?}"
    );
    assert!(finished.stderr.contains("checkpoint: it is missing"), "{finished:?}");
    home.fails(
        1,
        &format!("audit show {}", copies.display()),
        &["there are several audit logs"],
    )
    .await;
    assert!(Path::new(device).is_dir());
}
