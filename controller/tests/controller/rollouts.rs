//! Rollouts over devices that speak the protocol: a good release reaches everybody, a bad one comes back by itself.

use fieldfare_controller_peers::device::{number, obedient};
use fieldfare_controller_peers::release::{MODEL, Signer, release, release_of};
use fieldfare_controller_peers::{Fleet, PATIENCE, refusal};
use fieldfare_proto::v1::{
    ApplyDeploymentRequest, CommandRolloutRequest, DeadlineRule, Deployment, DeploymentExplanation, DeploymentSpec,
    DeviceOutcome, ExplainDeviceRequest, Gate, GateMetric, GateVerdict, GetDeploymentRequest, GetRolloutRequest,
    MinimumEvidence, PlanPlacementRequest, Requirements, RolloutCommand, RolloutPhase, RolloutPolicy, RolloutStatus,
    StartJobRequest, WavePhase, WaveSize, gate, wave_size,
};
use tonic::{Code, Status};

pub(crate) const DEPLOYMENT: &str = "soil";

fn requirements() -> Requirements {
    Requirements {
        min_tokens_per_second: 1.0,
        context_tokens: 128,
        ..Requirements::default()
    }
}

/// One canary, then everybody; nine of ten probes must be answered as expected.
fn policy() -> RolloutPolicy {
    let size = |size| WaveSize { size: Some(size) };
    RolloutPolicy {
        waves: vec![size(wave_size::Size::Count(1)), size(wave_size::Size::Percent(100))],
        gates: vec![Gate {
            metric: GateMetric::ProbeExactMatch.into(),
            bound: Some(gate::Bound::AtLeast(0.9)),
        }],
        max_unavailable: 10,
        minimum_evidence: Some(MinimumEvidence {
            devices: 1,
            probes: 1,
            requests: 0,
        }),
        observation_ms: 50,
        wave_deadline_ms: 60_000,
        on_deadline: DeadlineRule::RollBack.into(),
        offline_after_ms: 60_000,
    }
}

pub(crate) fn spec(number: u32) -> DeploymentSpec {
    DeploymentSpec {
        model: MODEL.into(),
        selector: "site".into(),
        manifest_target: release(number).name.to_string(),
        requirements: Some(requirements()),
        policy: Some(policy()),
    }
}

pub(crate) async fn apply(fleet: &Fleet, spec: DeploymentSpec) -> Result<Deployment, Status> {
    apply_as(fleet, DEPLOYMENT, spec, false).await
}

/// Applies a deployment; with `retry` also where its rollout went back.
async fn apply_as(fleet: &Fleet, name: &str, spec: DeploymentSpec, retry: bool) -> Result<Deployment, Status> {
    let request = ApplyDeploymentRequest {
        name: name.into(),
        spec: Some(spec),
        expected: None,
        retry,
    };
    fleet
        .operator()
        .await
        .apply_deployment(request)
        .await
        .map(tonic::Response::into_inner)
}

/// Watches to the end.
pub(crate) async fn outcome(fleet: &Fleet) -> RolloutStatus {
    outcome_of(fleet, DEPLOYMENT).await
}

async fn outcome_of(fleet: &Fleet, deployment: &str) -> RolloutStatus {
    let request = GetRolloutRequest {
        deployment: deployment.into(),
    };
    let mut watch = fleet
        .operator()
        .await
        .watch_rollout(request)
        .await
        .unwrap()
        .into_inner();
    let mut last = RolloutStatus::default();
    let watched = async {
        while let Some(status) = watch.message().await.unwrap() {
            last = status;
        }
    };
    let ended = tokio::time::timeout(PATIENCE, watched).await;
    assert!(ended.is_ok(), "the rollout does not end: {last:?}");
    last
}

/// Two devices with release 1, of which none has anything to say about release `bad` but that its probes fail.
async fn settled(bad: u32) -> (Fleet, Signer) {
    let fleet = Fleet::start().await;
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    signer.publish(&fleet, &release(1)).await.unwrap();
    obedient(&fleet, "north", bad).await;
    obedient(&fleet, "south", bad).await;
    apply(&fleet, spec(1)).await.unwrap();
    let first = outcome(&fleet).await;
    assert_eq!(first.phase(), RolloutPhase::Completed, "{first:?}");
    (fleet, signer)
}

#[tokio::test]
async fn a_good_release_reaches_every_device_wave_by_wave() {
    let (fleet, mut signer) = settled(0).await;
    signer.publish(&fleet, &release(2)).await.unwrap();
    let applied = apply(&fleet, spec(2)).await.unwrap();
    assert_eq!(number(&applied.current_manifest), 1);
    let last = outcome(&fleet).await;
    assert_eq!(last.phase(), RolloutPhase::Completed, "{last:?}");
    assert!(
        last.waves.iter().all(|wave| wave.phase() == WavePhase::Passed),
        "{:?}",
        last.waves
    );
    assert_eq!(last.devices.len(), 2);
    assert!(
        last.devices
            .iter()
            .all(|device| device.outcome() == DeviceOutcome::Converged && device.variant == "q8-0")
    );

    let why = explained(&fleet, "north").await;
    assert_eq!(why.code, "on_target");
    assert_eq!(why.placement.as_ref().unwrap().chosen, "q8-0");
    let current = apply(&fleet, spec(2)).await.unwrap().current_manifest;
    assert_eq!(number(&current), 2);
    fleet.stop().await;
}

#[tokio::test]
async fn a_bad_release_rolls_itself_back_after_the_canary() {
    let (fleet, mut signer) = settled(2).await;
    signer.publish(&fleet, &release(2)).await.unwrap();
    apply(&fleet, spec(2)).await.unwrap();
    let last = outcome(&fleet).await;
    assert_eq!(last.phase(), RolloutPhase::RolledBack, "{last:?}");
    assert_eq!(last.waves[0].phase(), WavePhase::Failed, "{:?}", last.waves);
    assert_eq!(last.waves[0].gates[0].verdict(), GateVerdict::Failed);
    // The second wave never began: the other device never heard of the release.
    assert_eq!(last.waves[1].phase(), WavePhase::Waiting, "{:?}", last.waves);
    let request = GetDeploymentRequest {
        name: DEPLOYMENT.into(),
    };
    let shown = fleet
        .operator()
        .await
        .get_deployment(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(number(&shown.current_manifest), 1);
    for device in ["north", "south"] {
        let why = explained(&fleet, device).await;
        assert_eq!(why.code, "went_back", "{why:?}");
        assert_eq!((number(&why.target_manifest), &*why.target_variant), (1, "q8-0"));
    }
    // The same release with other requirements is another try.
    let corrected = Requirements {
        context_tokens: 64,
        ..requirements()
    };
    let again = DeploymentSpec {
        requirements: Some(corrected),
        ..spec(2)
    };
    apply(&fleet, again).await.unwrap();
    assert_eq!(outcome(&fleet).await.phase(), RolloutPhase::RolledBack);
    fleet.stop().await;
}

pub(crate) async fn command(fleet: &Fleet, command: RolloutCommand) -> Result<RolloutPhase, Status> {
    let request = CommandRolloutRequest {
        deployment: DEPLOYMENT.into(),
        command: command.into(),
    };
    let answer = fleet.operator().await.command_rollout(request).await;
    answer.map(|answer| answer.into_inner().phase())
}

#[tokio::test]
async fn a_rollout_that_went_back_is_tried_again_when_that_is_asked_for() {
    let (fleet, mut signer) = settled(2).await;
    signer.publish(&fleet, &release(2)).await.unwrap();
    let begun = apply(&fleet, spec(2)).await.unwrap();
    assert_eq!(outcome(&fleet).await.phase(), RolloutPhase::RolledBack);
    let said_again = apply(&fleet, spec(2)).await.unwrap();
    assert_eq!(said_again, begun, "saying it again changes nothing");
    let again = apply_as(&fleet, DEPLOYMENT, spec(2), true).await.unwrap();
    assert_ne!(again.rollout_id, begun.rollout_id);
    assert_eq!(outcome(&fleet).await.phase(), RolloutPhase::RolledBack);
    fleet.stop().await;
}

#[tokio::test]
async fn a_device_is_in_one_deployment() {
    let (fleet, _) = settled(0).await;
    let north = DeploymentSpec {
        selector: "site=north".into(),
        ..spec(1)
    };
    let (code, text) = refusal(apply_as(&fleet, "alpha", north.clone(), false).await);
    assert!(
        code == Code::FailedPrecondition && text.contains("deployment soil already"),
        "{code:?} {text}"
    );
    let south = DeploymentSpec {
        selector: "site=south".into(),
        ..spec(1)
    };
    apply(&fleet, south).await.unwrap();
    apply_as(&fleet, "alpha", north, false).await.unwrap();
    assert_eq!(outcome_of(&fleet, "alpha").await.phase(), RolloutPhase::Completed);
    // A device that comes later with the labels of both is in the first by name, and `explain` says so of the other.
    let wide = DeploymentSpec {
        selector: "site in (south,west)".into(),
        ..spec(1)
    };
    apply(&fleet, wide.clone()).await.unwrap();
    let west = DeploymentSpec {
        selector: "site in (north,west)".into(),
        ..spec(1)
    };
    apply_as(&fleet, "alpha", west, false).await.unwrap();
    obedient(&fleet, "west", 0).await;
    let asked = ExplainDeviceRequest { device: "west".into() };
    let why = fleet.operator().await.explain_device(asked).await.unwrap().into_inner();
    let of = |name: &str| why.deployments.iter().find(|found| found.deployment == name).unwrap();
    assert_ne!(of("alpha").code, "not_selected", "{why:?}");
    assert!(of("soil").summary.contains("alpha means it, too"), "{why:?}");
    fleet.stop().await;
}

#[tokio::test]
async fn nothing_goes_to_a_release_that_was_withdrawn() {
    let (fleet, mut signer) = settled(0).await;
    signer.publish(&fleet, &release(2)).await.unwrap();
    apply(&fleet, spec(2)).await.unwrap();
    assert_eq!(outcome(&fleet).await.phase(), RolloutPhase::Completed);
    signer.withdraw(&fleet, &release(1)).await;
    let (code, text) = refusal(command(&fleet, RolloutCommand::Rollback).await);
    assert!(
        code == Code::FailedPrecondition && text.contains("was withdrawn"),
        "{code:?} {text}"
    );
    let (code, text) = refusal(apply(&fleet, spec(1)).await);
    assert!(
        code == Code::FailedPrecondition && text.contains("was withdrawn"),
        "{code:?} {text}"
    );
    signer.withdraw(&fleet, &release(2)).await;
    let start = StartJobRequest {
        spec: Some(crate::jobs::federated(&fleet).await),
    };
    let (code, text) = refusal(fleet.operator().await.start_job(start).await);
    assert!(
        code == Code::FailedPrecondition && text.contains("was withdrawn"),
        "{code:?} {text}"
    );
    fleet.stop().await;
}

async fn explained(fleet: &Fleet, device: &str) -> DeploymentExplanation {
    let asked = ExplainDeviceRequest { device: device.into() };
    let mut why = fleet.operator().await.explain_device(asked).await.unwrap().into_inner();
    why.deployments.remove(0)
}

#[tokio::test]
async fn other_requirements_move_a_running_release_to_another_variant() {
    let (fleet, mut signer) = settled(0).await;
    let two = release_of(MODEL, 2, &[("q8-0", 64 << 20, 1.5), ("f16", 128 << 20, 1.4)]);
    signer.publish(&fleet, &two).await.unwrap();
    apply(&fleet, spec(2)).await.unwrap();
    let variants = |status: RolloutStatus| {
        assert_eq!(status.phase(), RolloutPhase::Completed, "{status:?}");
        let variants = status.devices.into_iter().map(|device| device.variant);
        variants.collect::<Vec<_>>()
    };
    assert_eq!(variants(outcome(&fleet).await), ["f16", "f16"]);
    let smaller = Requirements {
        max_memory_bytes: 100 << 20,
        ..requirements()
    };
    let spec = DeploymentSpec {
        requirements: Some(smaller),
        ..spec(2)
    };
    apply(&fleet, spec).await.unwrap();
    assert_eq!(variants(outcome(&fleet).await), ["q8-0", "q8-0"]);
    let why = explained(&fleet, "south").await;
    assert_eq!((&*why.code, &*why.target_variant), ("on_target", "q8-0"));
    fleet.stop().await;
}

#[tokio::test]
async fn a_paused_rollout_waits_and_an_aborted_one_ends() {
    let (fleet, mut signer) = settled(0).await;
    signer.publish(&fleet, &release(2)).await.unwrap();
    let slow = RolloutPolicy {
        observation_ms: 3_600_000,
        wave_deadline_ms: 7_200_000,
        ..policy()
    };
    apply(
        &fleet,
        DeploymentSpec {
            policy: Some(slow),
            ..spec(2)
        },
    )
    .await
    .unwrap();
    assert_eq!(
        command(&fleet, RolloutCommand::Pause).await.unwrap(),
        RolloutPhase::Paused
    );
    let (code, text) = refusal(command(&fleet, RolloutCommand::Promote).await);
    assert!(
        code == Code::FailedPrecondition && text.contains("paused"),
        "{code:?} {text}"
    );
    assert_eq!(
        command(&fleet, RolloutCommand::Resume).await.unwrap(),
        RolloutPhase::Running
    );
    let (code, text) = refusal(apply(&fleet, spec(2)).await);
    assert!(
        code == Code::FailedPrecondition && text.contains("that it began with"),
        "{code:?} {text}"
    );
    let start = StartJobRequest {
        spec: Some(crate::jobs::federated(&fleet).await),
    };
    let (code, text) = refusal(fleet.operator().await.start_job(start).await);
    assert!(
        code == Code::FailedPrecondition && text.contains("wait for its end"),
        "a job would train what moves out: {code:?} {text}"
    );
    signer.publish(&fleet, &release(3)).await.unwrap();
    let (code, text) = refusal(apply(&fleet, spec(3)).await);
    assert!(
        code == Code::FailedPrecondition && text.contains("roll it back or abort"),
        "{code:?} {text}"
    );
    assert_eq!(
        command(&fleet, RolloutCommand::Abort).await.unwrap(),
        RolloutPhase::Aborted
    );
    let (code, _) = refusal(command(&fleet, RolloutCommand::Pause).await);
    assert_eq!(code, Code::FailedPrecondition);
    fleet.stop().await;
}

#[tokio::test]
async fn a_deployment_that_cannot_be_is_refused_with_its_field() {
    let (fleet, _) = settled(0).await;
    let cases = [
        (
            "selector",
            DeploymentSpec {
                selector: "site in (".into(),
                ..spec(1)
            },
        ),
        (
            "requirements",
            DeploymentSpec {
                requirements: None,
                ..spec(1)
            },
        ),
        (
            "policy",
            DeploymentSpec {
                policy: Some(RolloutPolicy {
                    waves: Vec::new(),
                    ..policy()
                }),
                ..spec(1)
            },
        ),
        (
            "manifest_target",
            DeploymentSpec {
                manifest_target: "farm-alert.r1.q8-0.gguf".into(),
                ..spec(1)
            },
        ),
        (
            "model",
            DeploymentSpec {
                model: "other".into(),
                ..spec(1)
            },
        ),
        (
            "release",
            DeploymentSpec {
                manifest_target: release(9).name.to_string(),
                ..spec(1)
            },
        ),
    ];
    for (field, spec) in cases {
        let (code, text) = refusal(apply(&fleet, spec).await);
        assert!(
            matches!(code, Code::InvalidArgument | Code::NotFound) && text.contains(field),
            "{field}: {code:?} {text}"
        );
    }
    let impossible = Requirements {
        min_tokens_per_second: 999_999.0,
        ..requirements()
    };
    let plan = PlanPlacementRequest {
        manifest_target: spec(1).manifest_target,
        selector: String::new(),
        requirements: Some(impossible),
    };
    let planned = fleet.operator().await.plan_placement(plan).await.unwrap().into_inner();
    assert!(
        planned.devices.len() == 2
            && planned
                .devices
                .iter()
                .all(|d| d.report.as_ref().unwrap().chosen.is_empty())
    );
    fleet.stop().await;
}
