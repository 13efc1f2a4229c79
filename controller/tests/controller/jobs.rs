//! Jobs: one claim at a time, fenced; rounds are opened and closed once.

use fieldfare_controller_peers::device::{Obedient, Session, hello, obedient, profile};
use fieldfare_controller_peers::release::{MODEL, Signer, release, release_of, upload};
use fieldfare_controller_peers::trainer::{self, claimed, finish, trainer};
use fieldfare_controller_peers::{Fleet, PATIENCE, refusal};
use fieldfare_fleet::JobName;
use fieldfare_proto::v1::{
    AcceptedContribution, CheckpointRequest, Claim, ClaimRecord, CloseRoundRequest, EvaluationGate,
    FederatedCheckpoint, FederatedJobSpec, Fence, GetJobRequest, HandBackRequest, Hello, ImportCheckpoint,
    ImportModelRequest, ImportSpec, ImportStage, Job, JobRefused, JobStage, JobSucceeded, OpenRoundRequest,
    ProposeReleaseRequest, RefusalReason, RenewClaimRequest, RoundConfiguration, RoundRef, RoundSummary, RoundTicket,
    StartJobRequest, TokenRole, UploadedArtifact, WatchRoundRequest, WorkCheckpoint, claim, finish_request,
    import_spec, round_event, work_checkpoint,
};
use fieldfare_store::LeaseId;
use prost::Message;
use tonic::Code;

use crate::rollouts::{DEPLOYMENT, apply, outcome, spec};

async fn uploaded(fleet: &Fleet, bytes: &[u8]) -> UploadedArtifact {
    let sha256 = upload(fleet, bytes).await.as_bytes().to_vec();
    UploadedArtifact {
        sha256,
        length_bytes: bytes.len() as u64,
        file_name: "upload".into(),
    }
}

pub(crate) async fn start_import(fleet: &Fleet, job: &str) -> Job {
    let spec = ImportSpec {
        job: job.into(),
        model: MODEL.into(),
        source: Some(import_spec::Source::Uploaded(uploaded(fleet, b"GGUF").await)),
        evaluation: Some(uploaded(fleet, b"{\"text\": \"dry\"}").await),
        ..ImportSpec::default()
    };
    fleet
        .operator()
        .await
        .import_model(ImportModelRequest { spec: Some(spec) })
        .await
        .unwrap()
        .into_inner()
}

fn checkpoint(fence: &Option<Fence>) -> CheckpointRequest {
    let import = ImportCheckpoint {
        stage: ImportStage::Building.into(),
        done: 1,
        total: 3,
        ..ImportCheckpoint::default()
    };
    let work = Some(work_checkpoint::Work::Import(import));
    CheckpointRequest {
        fence: fence.clone(),
        checkpoint: Some(WorkCheckpoint { work }),
    }
}

/// Ends the lease of the job's claim, as its time would.
async fn lose_lease(fleet: &Fleet, job: &str) {
    let key = fleet.plane.keys.claim(&JobName::new(job).unwrap());
    let record: ClaimRecord = fleet.plane.records.get(&key).await.unwrap().unwrap();
    let mut news = fleet.plane.mirror.subscribe(fieldfare_controller::mirror::Topic::Jobs);
    fleet
        .plane
        .records
        .store()
        .revoke_lease(LeaseId::new(record.lease))
        .await
        .unwrap();
    while fleet
        .plane
        .mirror
        .read()
        .claims
        .contains_key(&JobName::new(job).unwrap())
    {
        news.changed().await.unwrap();
    }
}

#[tokio::test]
async fn a_trainer_that_lost_its_lease_can_change_nothing_more() {
    let fleet = Fleet::start().await;
    let (mut north, mut south) = (trainer(&fleet, "north").await, trainer(&fleet, "south").await);
    assert!(claimed(&mut north).await.is_none());
    assert_eq!(start_import(&fleet, "first").await.stage(), JobStage::Waiting);
    let first = claimed(&mut north).await.unwrap();
    assert!(claimed(&mut south).await.is_none(), "one claim at a time");
    north.checkpoint(checkpoint(&first.fence)).await.unwrap();
    assert!(
        !north
            .renew_claim(RenewClaimRequest {
                fence: first.fence.clone()
            })
            .await
            .unwrap()
            .into_inner()
            .cancelled
    );

    lose_lease(&fleet, "first").await;
    let second = claimed(&mut south).await.unwrap();
    assert!(second.fence.as_ref().unwrap().token > first.fence.as_ref().unwrap().token);
    assert!(second.checkpoint.is_some(), "the successor goes on from the checkpoint");
    let stale = [
        refusal(north.checkpoint(checkpoint(&first.fence)).await),
        refusal(
            north
                .renew_claim(RenewClaimRequest {
                    fence: first.fence.clone(),
                })
                .await,
        ),
        // With the right token and the wrong trainer, too.
        refusal(north.checkpoint(checkpoint(&second.fence)).await),
        refusal(
            north
                .finish(finish(&first, finish_request::Outcome::Failed(Default::default())))
                .await,
        ),
    ];
    for (code, text) in stale {
        assert!(code == Code::Aborted && text.contains("no longer"), "{code:?} {text}");
    }
    south.checkpoint(checkpoint(&second.fence)).await.unwrap();
    fleet.stop().await;
}

#[tokio::test]
async fn a_trainer_that_restarts_takes_its_job_up_again_at_once() {
    let fleet = Fleet::start().await;
    let mut kiln = trainer(&fleet, "kiln").await;
    start_import(&fleet, "first").await;
    let before = claimed(&mut kiln).await.unwrap();
    let now = claimed(&mut kiln).await.unwrap();
    assert!(now.fence.as_ref().unwrap().token > before.fence.as_ref().unwrap().token);
    let (code, text) = refusal(kiln.checkpoint(checkpoint(&before.fence)).await);
    assert!(code == Code::Aborted && text.contains("no longer"), "{code:?} {text}");
    kiln.checkpoint(checkpoint(&now.fence)).await.unwrap();
    fleet.stop().await;
}

#[tokio::test]
async fn a_job_that_is_handed_back_is_free_at_once_and_no_longer_its_trainers() {
    let fleet = Fleet::start().await;
    let (mut north, mut south) = (trainer(&fleet, "north").await, trainer(&fleet, "south").await);
    start_import(&fleet, "first").await;
    let first = claimed(&mut north).await.unwrap();
    north.checkpoint(checkpoint(&first.fence)).await.unwrap();
    let hand_back = |claim: &Claim| HandBackRequest {
        fence: claim.fence.clone(),
    };
    let (code, _) = refusal(south.hand_back(hand_back(&first)).await);
    assert_eq!(code, Code::Aborted, "it is not another's to give");
    north.hand_back(hand_back(&first)).await.unwrap();
    let second = claimed(&mut south).await.unwrap();
    assert!(second.checkpoint.is_some(), "the successor goes on from the checkpoint");
    for stale in [
        refusal(north.hand_back(hand_back(&first)).await),
        refusal(north.checkpoint(checkpoint(&first.fence)).await),
    ] {
        assert_eq!(stale.0, Code::Aborted, "{stale:?}");
    }
    south.checkpoint(checkpoint(&second.fence)).await.unwrap();
    fleet.stop().await;
}

#[tokio::test]
async fn an_import_proposes_the_release_whose_number_it_was_given() {
    let fleet = Fleet::start().await;
    let mut trainer = trainer(&fleet, "kiln").await;
    start_import(&fleet, "first").await;
    let claim = claimed(&mut trainer).await.unwrap();
    let Some(claim::Work::Import(work)) = &claim.work else {
        panic!("an import: {claim:?}")
    };
    assert_eq!(work.release_number, 1);
    let propose = |number: u32| {
        let made = release(number);
        ProposeReleaseRequest {
            fence: claim.fence.clone(),
            manifest_target: made.name.to_string(),
            manifest: made.manifest,
        }
    };
    let (code, text) = refusal(trainer.propose_release(propose(2)).await);
    assert!(code == Code::InvalidArgument && text.contains("r1"), "{code:?} {text}");
    let (code, text) = refusal(trainer.propose_release(propose(1)).await);
    assert!(
        code == Code::InvalidArgument && text.contains("not uploaded"),
        "{code:?} {text}"
    );
    upload(&fleet, &release(1).artifacts[0]).await;
    trainer.propose_release(propose(1)).await.unwrap();
    let success = |target: String| {
        finish(
            &claim,
            finish_request::Outcome::Succeeded(JobSucceeded {
                manifest_target: target,
                ..JobSucceeded::default()
            }),
        )
    };
    let (code, _) = refusal(trainer.finish(success(release(7).name.to_string())).await);
    assert_eq!(code, Code::InvalidArgument);
    trainer.finish(success(release(1).name.to_string())).await.unwrap();
    let job = fleet
        .operator()
        .await
        .get_job(GetJobRequest { name: "first".into() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (job.stage(), job.manifest_target),
        (JobStage::Succeeded, release(1).name.to_string())
    );
    // An operator signs it.
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    signer.publish(&fleet, &release(1)).await.unwrap();
    fleet.stop().await;
}

pub(crate) async fn federated(fleet: &Fleet) -> FederatedJobSpec {
    FederatedJobSpec {
        job: "night".into(),
        deployment: DEPLOYMENT.into(),
        rounds: 2,
        rank: 4,
        alpha: 8.0,
        steps_per_round: 8,
        sampling_rate: 0.16,
        clip_norm: 0.5,
        examples_per_device: 200,
        epsilon: 8.0,
        delta: 1e-5,
        learning_rate: 0.01,
        max_sequence_tokens: 128,
        cohort: 2,
        quorum: 2,
        round_deadline_ms: 60_000,
        attempts_per_round: 2,
        evaluation: Some(uploaded(fleet, b"{\"text\": \"wet\"}").await),
        gate: Some(EvaluationGate::default()),
        ..FederatedJobSpec::default()
    }
}

#[tokio::test]
async fn a_job_is_told_every_variant_in_use() {
    let fleet = Fleet::start().await;
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    let two = release_of(MODEL, 1, &[("q8-0", 64 << 20, 1.5), ("f16", 128 << 20, 1.4)]);
    signer.publish(&fleet, &two).await.unwrap();
    signer.delegate(&fleet).await;
    obedient(&fleet, "north", 0).await;
    let small = fleet.join(TokenRole::Device, "south").await;
    let hello = Hello {
        profile: Some(profile("raspberry-pi-5", 160 << 20)),
        ..hello("south")
    };
    Obedient::default().run_refusing(&fleet, &small, hello, None).await;
    apply(&fleet, spec(1)).await.unwrap();
    outcome(&fleet).await;
    let spec = Some(federated(&fleet).await);
    fleet
        .operator()
        .await
        .start_job(StartJobRequest { spec })
        .await
        .unwrap();
    let mut kiln = trainer(&fleet, "kiln").await;
    let claim = claimed(&mut kiln).await.unwrap();
    let Some(claim::Work::Federated(work)) = claim.work else {
        panic!("a federated job")
    };
    assert_eq!(work.variants_in_use, ["f16", "q8-0"]);
    let begun = CheckpointRequest {
        fence: claim.fence,
        checkpoint: Some(WorkCheckpoint {
            work: Some(work_checkpoint::Work::Federated(FederatedCheckpoint::default())),
        }),
    };
    let kept = kiln.checkpoint(begun).await.unwrap().into_inner();
    assert_eq!(kept.variants_in_use, ["f16", "q8-0"]);
    fleet.stop().await;
}

/// A third device, whose session the test holds in its hands.
async fn trainee(fleet: &Fleet) -> (String, Session) {
    let identity = fleet.join(TokenRole::Device, "west").await;
    let fieldfare_tls::Role::Device(_, id) = &identity.principal().role else {
        panic!("a device")
    };
    let session = Session::open(fleet, &identity, hello("west")).await.unwrap();
    (id.to_string(), session)
}

#[tokio::test]
async fn a_round_is_opened_to_a_cohort_and_closed_once() {
    let fleet = Fleet::start().await;
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    signer.publish(&fleet, &release(1)).await.unwrap();
    let mut invited = obedient(&fleet, "north", 0).await;
    obedient(&fleet, "south", 0).await;
    // Connected, willing, and without the release: it is not invited, with the reason.
    let (stranger, _session) = trainee(&fleet).await;
    let without_budget = StartJobRequest {
        spec: Some(FederatedJobSpec {
            epsilon: 0.0,
            delta: 0.0,
            ..federated(&fleet).await
        }),
    };
    let (code, text) = refusal(fleet.operator().await.start_job(without_budget).await);
    assert!(
        code == Code::InvalidArgument && text.contains("budget"),
        "{code:?} {text}"
    );
    let start = StartJobRequest {
        spec: Some(federated(&fleet).await),
    };
    let (code, _) = refusal(fleet.operator().await.start_job(start.clone()).await);
    assert_eq!(code, Code::NotFound);
    let mut spec = spec(1);
    spec.selector = "site in (north,south)".into();
    apply(&fleet, spec).await.unwrap();
    outcome(&fleet).await;
    let (code, text) = refusal(fleet.operator().await.start_job(start.clone()).await);
    assert!(
        code == Code::FailedPrecondition && text.contains("fieldfare release delegate"),
        "{code:?} {text}"
    );
    signer.delegate(&fleet).await;
    fleet.operator().await.start_job(start).await.unwrap();

    let mut trainer = trainer(&fleet, "kiln").await;
    let mut hints = trainer.watch(trainer::hello()).await.unwrap().into_inner();
    assert!(hints.message().await.unwrap().is_some());
    let claim = claimed(&mut trainer).await.unwrap();
    let Some(claim::Work::Federated(work)) = &claim.work else {
        panic!("a federated job: {claim:?}")
    };
    assert_eq!(
        (work.release_number, work.variants_in_use.as_slice()),
        (2, ["q8-0".to_owned()].as_slice())
    );

    let round = RoundRef {
        job: "night".into(),
        round: 1,
        attempt: 1,
    };
    let deadline_unix_ms = i64::try_from(fleet.time.now().unix_ms()).unwrap() + 60_000;
    let configuration = RoundConfiguration {
        round: Some(round.clone()),
        deadline_unix_ms,
        ..RoundConfiguration::default()
    };
    let open = OpenRoundRequest {
        fence: claim.fence.clone(),
        configuration: configuration.encode_to_vec(),
        training_memory_bytes: 1 << 20,
    };
    let cohort = trainer.open_round(open.clone()).await.unwrap().into_inner();
    assert_eq!(cohort.cohort_device_ids.len(), 2, "{cohort:?}");
    assert!(!cohort.cohort_device_ids.contains(&stranger));
    assert_eq!(trainer.open_round(open.clone()).await.unwrap().into_inner(), cohort);

    // The session of each invited device hands it a ticket of its own; both refuse, and the trainer hears of both.
    let invitation = tokio::time::timeout(PATIENCE, invited.recv()).await.unwrap().unwrap();
    assert_eq!(invitation.trainer_endpoint, "https://127.0.0.1:9443");
    let ticket = RoundTicket::decode(invitation.ticket.unwrap().ticket.as_slice()).unwrap();
    assert!(
        cohort
            .cohort_device_ids
            .iter()
            .any(|id| ticket.device_spiffe_id.ends_with(id)),
        "{ticket:?}"
    );
    assert!(ticket.trainer_spiffe_id.ends_with("/trainer/kiln") && ticket.round.as_ref() == Some(&round));
    let watch = WatchRoundRequest {
        fence: claim.fence.clone(),
        round: Some(round.clone()),
    };
    let mut events = trainer.watch_round(watch).await.unwrap().into_inner();
    for _ in 0..2 {
        let event = tokio::time::timeout(PATIENCE, events.message())
            .await
            .unwrap()
            .unwrap()
            .and_then(|event| event.event);
        let Some(round_event::Event::Dropped(dropped)) = event else {
            panic!("no drop: {event:?}")
        };
        assert!(
            cohort.cohort_device_ids.contains(&dropped.device_id)
                && (dropped.reason.as_str(), dropped.refusal()) == ("not idle", RefusalReason::NotIdle),
            "{dropped:?}"
        );
    }
    let mut greedy = open.clone();
    greedy.training_memory_bytes = 1 << 40;
    greedy.configuration = RoundConfiguration {
        round: Some(RoundRef {
            attempt: 2,
            ..round.clone()
        }),
        ..configuration
    }
    .encode_to_vec();
    let refused = trainer.open_round(greedy).await.unwrap().into_inner();
    assert!(
        refused.cohort_device_ids.is_empty() && refused.ineligible[0].reason.contains("memory"),
        "{refused:?}"
    );

    let accepted: Vec<_> = cohort
        .cohort_device_ids
        .iter()
        .map(|id| AcceptedContribution {
            device_id: id.clone(),
            sha256: vec![1; 32],
        })
        .collect();
    let close = |accepted: Vec<AcceptedContribution>| CloseRoundRequest {
        fence: claim.fence.clone(),
        round: Some(round.clone()),
        accepted,
        summary: Some(RoundSummary {
            round: 1,
            attempt: 1,
            accepted: 2,
            ..RoundSummary::default()
        }),
        checkpoint: Some(FederatedCheckpoint {
            committed_round: 1,
            ..FederatedCheckpoint::default()
        }),
    };
    let twice = vec![accepted[0].clone(), accepted[0].clone()];
    let outside = vec![AcceptedContribution {
        device_id: stranger,
        sha256: vec![1; 32],
    }];
    for (set, why) in [
        (twice, "twice"),
        (outside, "cohort"),
        (accepted[..1].to_vec(), "quorum"),
    ] {
        let (_, text) = refusal(trainer.close_round(close(set)).await);
        assert!(text.contains(why), "{why}: {text}");
    }
    trainer.close_round(close(accepted.clone())).await.unwrap();
    trainer.close_round(close(accepted.clone())).await.unwrap();
    let mut other = accepted;
    other[0].sha256 = vec![2; 32];
    let (code, _) = refusal(trainer.close_round(close(other)).await);
    assert_eq!(code, Code::AlreadyExists);
    let reasons = vec!["the loss did not fall".to_owned()];
    let refused = finish_request::Outcome::Refused(JobRefused {
        reasons,
        ..JobRefused::default()
    });
    trainer.finish(finish(&claim, refused)).await.unwrap();
    let job = fleet
        .operator()
        .await
        .get_job(GetJobRequest { name: "night".into() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((job.stage(), job.rounds.len()), (JobStage::Refused, 1));
    assert!(job.reason.contains("did not fall"));
    fleet.stop().await;
}

#[tokio::test]
async fn an_invitation_carries_a_ticket_that_the_controller_signed() {
    use fieldfare_controller::gateway::sign_ticket;
    use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
    let fleet = Fleet::start().await;
    let identity = fleet.plane.identity.current();
    let ticket = RoundTicket {
        not_after_unix_ms: 5,
        ..RoundTicket::default()
    };
    let signed = sign_ticket(&identity, &ticket).unwrap();
    assert_eq!(RoundTicket::decode(signed.ticket.as_slice()).unwrap(), ticket);
    assert_eq!(
        signed.chain_der,
        identity.chain().iter().map(|der| der.to_vec()).collect::<Vec<_>>()
    );
    let key = rcgen::KeyPair::from_pem(&identity.key().to_pem()).unwrap();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, rcgen::PublicKeyData::der_bytes(&key).to_vec());
    key.verify(&signed.ticket, &signed.signature).unwrap();
    assert!(key.verify(b"another ticket", &signed.signature).is_err());
    fleet.stop().await;
}
