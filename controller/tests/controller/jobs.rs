//! Jobs: one claim at a time, fenced; rounds are opened and closed once.

mod rounds;

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
