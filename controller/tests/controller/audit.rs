//! The audit log: who did what, what was decided and why, and that nothing is done which is not in it.

mod killed;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use fieldfare_audit::folder::LogFolder;
use fieldfare_audit::read::{Trust, examine};
use fieldfare_controller_peers::device::obedient;
use fieldfare_controller_peers::release::{Signer, release};
use fieldfare_controller_peers::{Enrolled, Fleet, PATIENCE, refusal};
use fieldfare_proto::v1::audit_record::Event;
use fieldfare_proto::v1::operator_client::OperatorClient;
use fieldfare_proto::v1::{
    ApplyDeploymentRequest, ApproveDeviceRequest, AuditCertificateCause, AuditRecord, CreateTokenRequest,
    CreateTokenResponse, GateVerdict, GetDeviceRequest, ListTokensRequest, PublishTargetsRequest, RevokeDeviceRequest,
    RevokeTokenRequest, RolloutPhase, TokenRole,
};
use fieldfare_tls::{Endpoint, ExpectedServer, Identity, IdentityHandle, PrivateKey, ServerTrust};
use prost::Message;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tonic::Code;
use tonic::transport::Channel;

use crate::enrolment::renew;
use crate::rollouts::{apply, outcome, spec};

/// The records of the log of a fleet's folder, which is whole and signed to its end.
pub(crate) fn events(folder: &Path) -> Vec<Event> {
    let mut events = Vec::new();
    let mut see = |_, bytes: &[u8]| events.push(AuditRecord::decode(bytes).unwrap().event.unwrap());
    let report = examine(&LogFolder::at(folder.join("audit")), &Trust::default(), &mut see)
        .unwrap()
        .report;
    assert!(report.is_sound(), "{:?}", report.findings);
    assert_eq!(report.records as usize, events.len());
    events
}

/// Each call by who, what, and what came of it.
pub(crate) fn calls(events: &[Event]) -> Vec<(String, String, Option<Code>)> {
    let mut calls = BTreeMap::new();
    for (index, event) in (0_u64..).zip(events) {
        match event {
            Event::Call(call) => {
                let who = call.spiffe_id.rsplit('/').next().unwrap().to_owned();
                let what = call.method.rsplit('/').next().unwrap().to_owned();
                assert!(calls.insert(index, (who, what, None)).is_none());
            }
            Event::Outcome(outcome) => {
                let call = calls.get_mut(&outcome.of_record).unwrap();
                assert_eq!(call.2.replace(Code::from(outcome.code as i32)), None);
            }
            _ => {}
        }
    }
    calls.into_values().collect()
}

fn device_token() -> CreateTokenRequest {
    CreateTokenRequest {
        role: TokenRole::Device.into(),
        ..CreateTokenRequest::default()
    }
}

#[tokio::test]
async fn who_changed_what_is_logged_with_its_outcome_and_looking_is_not() {
    let fleet = Fleet::start().await;
    let mut operator = fleet.operator().await;
    let (_, token) = fleet.token(device_token()).await;
    operator.list_tokens(ListTokensRequest {}).await.unwrap();
    operator
        .get_device(GetDeviceRequest {
            device: "nobody".into(),
        })
        .await
        .unwrap_err();
    operator
        .revoke_token(RevokeTokenRequest { id: token.id.clone() })
        .await
        .unwrap();
    let (code, text) = refusal(
        operator
            .revoke_device(RevokeDeviceRequest {
                device: "nobody".into(),
                reason: "lost".into(),
            })
            .await,
    );
    assert_eq!(code, Code::NotFound);
    // A device is turned away before anything is logged, whatever it asks for and however often.
    let device = fleet.join(TokenRole::Device, "north").await;
    let (code, _) = refusal(
        OperatorClient::new(fleet.channel(&device).await)
            .create_token(device_token())
            .await,
    );
    assert_eq!(code, Code::PermissionDenied);

    let events = events(fleet.folder());
    let (by, ok) = (fleet.operator.principal().to_string(), Some(Code::Ok));
    let by = by.rsplit('/').next().unwrap().to_owned();
    assert_eq!(
        calls(&events),
        [
            (by.clone(), "CreateToken".to_owned(), ok),
            (by.clone(), "RevokeToken".to_owned(), ok),
            (by.clone(), "RevokeDevice".to_owned(), Some(Code::NotFound)),
            (by, "CreateToken".to_owned(), ok),
        ]
    );
    let Event::Opened(opened) = &events[0] else {
        panic!("{events:?}")
    };
    assert!(opened.began && opened.program == "fieldfare-controller", "{opened:?}");
    let (Event::Call(call), Event::Outcome(answer)) = (&events[1], &events[2]) else {
        panic!("{events:?}")
    };
    assert_eq!(CreateTokenRequest::decode(&*call.request).unwrap().name, "token");
    assert_eq!(
        CreateTokenResponse::decode(&*answer.response).unwrap().token,
        Some(token)
    );
    let Event::Outcome(refused) = &events[6] else {
        panic!("{events:?}")
    };
    assert_eq!(refused.detail, text);
    fleet.stop().await;
}

#[tokio::test]
async fn certificates_are_logged_before_they_are_handed_out() {
    let fleet = Fleet::start().await;
    let (secret, token) = fleet
        .token(CreateTokenRequest {
            require_approval: true,
            ..device_token()
        })
        .await;
    let key = PrivateKey::generate().unwrap();
    assert!(matches!(
        fleet.enrol(&secret, &key, "north").await.unwrap(),
        Enrolled::Pending
    ));
    fleet
        .operator()
        .await
        .approve_device(ApproveDeviceRequest { device: "north".into() })
        .await
        .unwrap();
    let Enrolled::Issued(identity) = fleet.enrol(&secret, &key, "north").await.unwrap() else {
        panic!("still pending")
    };
    let next = PrivateKey::generate().unwrap();
    let renewed = renew(&fleet, &identity, &next).await.unwrap();
    let events = events(fleet.folder());
    let certificates: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Certificate(certificate) => Some(certificate.clone()),
            _ => None,
        })
        .collect();
    let causes: Vec<_> = certificates.iter().map(|certificate| certificate.cause()).collect();
    assert_eq!(
        causes,
        [
            AuditCertificateCause::Pending,
            AuditCertificateCause::Enrolled,
            AuditCertificateCause::Renewed
        ]
    );
    assert!(
        certificates
            .iter()
            .all(|certificate| certificate.spiffe_id == identity.principal().to_string())
    );
    assert_eq!(
        (&certificates[0].token_id, &certificates[1].token_id),
        (&token.id, &token.id)
    );
    let digest = |identity: &Identity| {
        fieldfare_release::Sha256Digest::of(identity.chain()[0].as_ref())
            .as_bytes()
            .to_vec()
    };
    assert_eq!(certificates[1].certificate_sha256, digest(&identity));
    assert_eq!(certificates[2].certificate_sha256, digest(&renewed));
    assert!(certificates[0].certificate_sha256.is_empty());
    fleet.stop().await;
}

/// Makes every commit of the log fail, until it is taken away: nothing can be staged in the place of a folder.
pub(crate) fn obstacle(fleet: &Fleet) -> std::path::PathBuf {
    let path = fleet.folder().join("audit/checkpoint.new");
    std::fs::create_dir(&path).unwrap();
    path
}

#[tokio::test]
async fn what_cannot_be_logged_is_not_done() {
    let fleet = Fleet::start().await;
    let (secret, _) = fleet.token(device_token()).await;
    let (mut operator, before) = (fleet.operator().await, events(fleet.folder()).len());
    let in_the_way = obstacle(&fleet);
    let (code, text) = refusal(
        operator
            .create_token(CreateTokenRequest {
                name: "second".into(),
                secret_hash: vec![7; 32],
                ..device_token()
            })
            .await,
    );
    assert_eq!(
        (code, &*text),
        (Code::Unavailable, "nothing is done that cannot be logged")
    );
    let tokens = operator
        .list_tokens(ListTokensRequest {})
        .await
        .unwrap()
        .into_inner()
        .tokens;
    assert_eq!(tokens.len(), 1, "looking goes on, and nothing was made: {tokens:?}");
    let key = PrivateKey::generate().unwrap();
    let (code, _) = refusal(fleet.enrol(&secret, &key, "north").await);
    assert_eq!(code, Code::Unavailable);
    // When there is room again, the newcomer gets its certificate with the same token and key.
    std::fs::remove_dir(in_the_way).unwrap();
    assert!(matches!(
        fleet.enrol(&secret, &key, "north").await.unwrap(),
        Enrolled::Issued(_)
    ));
    assert_eq!(
        events(fleet.folder()).len(),
        before + 1,
        "what was refused is not in the log"
    );
    fleet.stop().await;
}

#[tokio::test]
async fn a_rollout_decides_in_the_log_with_the_numbers_of_its_gates() {
    let fleet = Fleet::start().await;
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    signer.publish(&fleet, &release(1)).await.unwrap();
    obedient(&fleet, "north", 2).await;
    obedient(&fleet, "south", 2).await;
    apply(&fleet, spec(1)).await.unwrap();
    assert_eq!(outcome(&fleet).await.phase(), RolloutPhase::Completed);
    signer.publish(&fleet, &release(2)).await.unwrap();
    apply(&fleet, spec(2)).await.unwrap();
    let last = outcome(&fleet).await;
    assert_eq!(last.phase(), RolloutPhase::RolledBack, "{last:?}");
    let events = events(fleet.folder());
    let decisions: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::RolloutDecision(decision) => Some(decision.clone()),
            _ => None,
        })
        .collect();
    let of = |number: u32| {
        let to = release(number).name.to_string();
        let of = decisions.iter().filter(move |decision| decision.to_manifest == to);
        of.flat_map(|decision| decision.milestones.clone()).collect::<Vec<_>>()
    };
    // A gate that fails is not waited for: whether the wave was observed before is a matter of timing.
    let names = |number| {
        let names = of(number).into_iter().map(|milestone| milestone.name);
        names.filter(|name| name != "observation_began").collect::<Vec<_>>()
    };
    assert_eq!(
        names(1),
        ["wave_opened", "wave_passed", "wave_opened", "wave_passed", "completed"]
    );
    assert_eq!(names(2), ["wave_opened", "rollback_began", "rolled_back"]);
    let named = |number, name: &str| of(number).into_iter().find(|milestone| milestone.name == name).unwrap();
    let passed = named(1, "wave_passed").gates;
    assert_eq!(
        (passed.len(), passed[0].verdict()),
        (1, GateVerdict::Passed),
        "{passed:?}"
    );
    let back = named(2, "rollback_began");
    assert_eq!(
        (back.wave, back.gates[0].verdict()),
        (Some(0), GateVerdict::Failed),
        "{back:?}"
    );
    assert_eq!(back.gates[0].detail, last.waves[0].gates[0].detail, "with the numbers");
    assert!(
        decisions
            .iter()
            .all(|decision| decision.by.is_empty() && !decision.rollout_id.is_empty())
    );
    let placed: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Placement(placed) => Some((placed.manifest_target.clone(), placed.assignments[0].variant.clone())),
            _ => None,
        })
        .collect();
    let expected = |number| (release(number).name.to_string(), "q8-0".to_owned());
    assert_eq!(
        placed,
        [expected(1), expected(2)],
        "one class of devices, and two releases"
    );
    let published = calls(&events).iter().filter(|call| call.1 == "PublishTargets").count();
    assert_eq!(published, 2);
    fleet.stop().await;
}

#[tokio::test]
async fn a_long_request_is_named_by_its_digest() {
    let fleet = Fleet::start().await;
    let request = PublishTargetsRequest {
        targets: vec![b'x'; 100_000],
        ..PublishTargetsRequest::default()
    };
    let encoded = request.encode_to_vec();
    fleet.operator().await.publish_targets(request).await.unwrap_err();
    let events = events(fleet.folder());
    let Event::Call(call) = &events[1] else {
        panic!("{events:?}")
    };
    assert_eq!((call.request.len(), call.request_bytes), (0, encoded.len() as u64));
    assert_eq!(
        call.request_sha256,
        fieldfare_release::Sha256Digest::of(&encoded).as_bytes()
    );
    fleet.stop().await;
}

#[tokio::test]
async fn a_restart_goes_on_with_the_log() {
    let fleet = Fleet::start().await;
    fleet.token(device_token()).await;
    let fleet = fleet.restart().await;
    fleet
        .operator()
        .await
        .apply_deployment(ApplyDeploymentRequest::default())
        .await
        .unwrap_err();
    let events = events(fleet.folder());
    let opened = events.iter().filter_map(|event| match event {
        Event::Opened(opened) => Some((opened.began, opened.cut_bytes)),
        _ => None,
    });
    assert_eq!(opened.collect::<Vec<_>>(), [(true, 0), (false, 0)]);
    assert_eq!(calls(&events).len(), 2);
    fleet.stop().await;
}
