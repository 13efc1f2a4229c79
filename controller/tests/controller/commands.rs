//! What changes the fleet without a call of gRPC is in the audit log, too: commands on the controller's machine, uploads, decisions.

use std::time::Duration;

use bytes::Bytes;
use fieldfare_controller::folder::Folder;
use fieldfare_controller_peers::device::{Obedient, Session, hello};
use fieldfare_controller_peers::release::{Signer, release};
use fieldfare_controller_peers::{Fleet, PATIENCE, TestStore, refusal};
use fieldfare_proto::v1::audit_record::Event;
use fieldfare_proto::v1::{
    DesiredState, GetRolloutRequest, ObservedState, RolloutPhase, TokenRole, device_message, gateway_message,
};
use fieldfare_release::Sha256Digest;
use http::{Method, Request, StatusCode};
use tonic::Code;

use crate::audit::{calls, events, obstacle};
use crate::authority::take;
use crate::rollouts::{DEPLOYMENT, apply, outcome, spec};

/// The commands in the log of a folder, each with what came of it.
fn commands(folder: &std::path::Path) -> Vec<(String, Option<Code>)> {
    let all = events(folder);
    let methods = all.iter().filter_map(|event| match event {
        Event::Call(call) => Some(call.method.clone()),
        _ => None,
    });
    let outcomes = calls(&all).into_iter().map(|(_, _, outcome)| outcome);
    let ours = methods.zip(outcomes).filter_map(|(method, outcome)| {
        let words = method.strip_prefix("fieldfare-controller/")?;
        Some((words.to_owned(), outcome))
    });
    ours.collect()
}

fn expected(words: &str, code: Code) -> (String, Option<Code>) {
    (words.to_owned(), Some(code))
}

#[tokio::test]
async fn commands_on_the_machine_are_logged_whoever_writes_the_log() {
    let fleet = Fleet::start().await;
    // The log is the controller's while it runs, which takes them up.
    fleet.make_next_online_keys();
    fleet.pass(Duration::from_secs(1));
    take(&fleet, "retire", true).unwrap_err();
    let mut fleet = fleet.restart().await;
    let mut all = vec![
        expected("next-online-keys", Code::Ok),
        expected("authority retire --early", Code::Unknown),
    ];
    assert_eq!(commands(fleet.folder()), all);
    assert_eq!(
        std::fs::read_dir(Folder::at(fleet.folder()).audit_commands())
            .unwrap()
            .count(),
        0
    );

    // Nobody writes it now: they are in it when they return.
    fleet.stand_still().await;
    take(&fleet, "announce", true).unwrap();
    take(&fleet, "switch", true).unwrap();
    take(&fleet, "retire", true).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup.tar");
    fleet.backup(&file).await.unwrap();
    all.extend([
        expected("authority announce", Code::Ok),
        expected("authority switch --early", Code::Ok),
        expected("authority retire --early", Code::Ok),
        expected(&format!("backup --to {}", file.display()), Code::Ok),
    ]);
    assert_eq!(commands(fleet.folder()), all);
    let into = folder.path().join("restored");
    let store = TestStore::start();
    fieldfare_controller_peers::fleet::restore(&file, &into, &store, &fleet.time)
        .await
        .unwrap();
    assert_eq!(
        commands(&into),
        [expected(&format!("restore --from {}", file.display()), Code::Ok)]
    );
}

#[tokio::test]
async fn a_command_that_cannot_be_logged_is_not_carried_out() {
    let mut fleet = Fleet::start().await;
    let folder = Folder::at(fleet.folder());
    // Neither beside the log of a controller that runs, nor in that of one that does not.
    std::fs::write(folder.audit_commands(), "in the way").unwrap();
    take(&fleet, "announce", true).unwrap_err();
    std::fs::remove_file(folder.audit_commands()).unwrap();
    fleet.stand_still().await;
    let in_the_way = obstacle(&fleet);
    take(&fleet, "announce", true).unwrap_err();
    let file = fleet.folder().join("backup.tar");
    fleet.backup(&file).await.unwrap_err();
    assert!(!folder.next_authority_certificate().exists() && !file.exists());
    std::fs::remove_dir(in_the_way).unwrap();
    take(&fleet, "announce", true).unwrap();
    assert!(folder.next_authority_certificate().exists());
    assert_eq!(commands(fleet.folder()), [expected("authority announce", Code::Ok)]);
}

#[tokio::test]
async fn an_upload_is_logged_before_its_bytes_are_kept() {
    let fleet = Fleet::start().await;
    let content = Bytes::from_static(b"weights");
    let (sha256, other) = (Sha256Digest::of(&content), Sha256Digest::of(b"others"));
    let put = async |sha256: &Sha256Digest| {
        let request = Request::builder()
            .method(Method::PUT)
            .uri(format!("/blobs/sha256/{sha256}"))
            .header(http::header::CONTENT_LENGTH, content.len());
        let request = request.body(content.clone()).unwrap();
        fleet.http(&fleet.operator, request).await.status()
    };
    let in_the_way = obstacle(&fleet);
    assert_eq!(put(&sha256).await, StatusCode::SERVICE_UNAVAILABLE);
    std::fs::remove_dir(in_the_way).unwrap();
    assert_eq!(put(&other).await, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(put(&sha256).await, StatusCode::CREATED);
    let all = events(fleet.folder());
    let uploads: Vec<_> = all
        .iter()
        .filter_map(|event| match event {
            Event::Call(call) => Some((call.method.clone(), call.request_sha256.clone(), call.request_bytes)),
            _ => None,
        })
        .collect();
    let upload = |sha256: &Sha256Digest| (format!("PUT /blobs/sha256/{sha256}"), sha256.as_bytes().to_vec(), 7);
    assert_eq!(uploads, [upload(&other), upload(&sha256)]);
    let outcomes: Vec<_> = calls(&all).into_iter().map(|(_, _, outcome)| outcome).collect();
    assert_eq!(outcomes, [Some(Code::Aborted), Some(Code::Ok)]);
    fleet.stop().await;
}

#[tokio::test]
async fn a_decision_of_a_rollout_that_cannot_be_logged_is_not_made() {
    let fleet = Fleet::start().await;
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    signer.publish(&fleet, &release(1)).await.unwrap();
    let device = fleet.join(TokenRole::Device, "north").await;
    let mut session = Session::open(&fleet, &device, hello("north")).await.unwrap();
    apply(&fleet, spec(1)).await.unwrap();
    let model = loop {
        if let Some(gateway_message::Message::Desired(DesiredState { models, .. })) = session.next().await.unwrap()
            && let Some(model) = models.first()
            && !model.manifest_target.is_empty()
        {
            break model.clone();
        }
    };
    let made = || {
        let records = fleet.plane.mirror.read();
        records.rollouts.values().next().unwrap().record.generation
    };
    let before = made();
    let in_the_way = obstacle(&fleet);
    // Its report passes the gate of the first wave.
    let state = ObservedState {
        models: vec![Obedient::default().installed(&model)],
        disk_free_bytes: 1 << 30,
    };
    session.send(device_message::Message::Observed(state)).await;
    let mut operator = fleet.operator().await;
    let asked = || GetRolloutRequest {
        deployment: DEPLOYMENT.into(),
    };
    let unlogged = async {
        loop {
            let status = operator.get_rollout(asked()).await;
            if status.is_err() || made() != before {
                return status;
            }
        }
    };
    let status = tokio::time::timeout(PATIENCE, unlogged)
        .await
        .expect("it is to be decided");
    let (code, text) = refusal(status);
    assert_eq!(
        (code, &*text, made()),
        (Code::Unavailable, "nothing is done that cannot be logged", before)
    );
    std::fs::remove_dir(in_the_way).unwrap();
    assert_eq!(outcome(&fleet).await.phase(), RolloutPhase::Completed);
    let passed = events(fleet.folder()).into_iter().filter(|event| match event {
        Event::RolloutDecision(decision) => decision
            .milestones
            .iter()
            .any(|milestone| milestone.name == "wave_passed"),
        _ => false,
    });
    assert_eq!(passed.count(), 2, "each of them is in the log");
    fleet.stop().await;
}
