//! Watches tell each change once, whatever brought it: a record, a device's word, or time alone.

use std::sync::Arc;
use std::time::Duration;

use fieldfare_controller::rollout::Rollouts;
use fieldfare_controller_peers::device::{Session, hello};
use fieldfare_controller_peers::release::{MODEL, Signer, release};
use fieldfare_controller_peers::trainer::{claimed, finish, trainer};
use fieldfare_controller_peers::{Fleet, PATIENCE, refusal};
use fieldfare_fleet::DeploymentName;
use fieldfare_proto::v1::{
    CommandRolloutRequest, DeviceOutcome, GetJobRequest, GetRolloutRequest, InstallStage, JobFailed, JobStage,
    ObservedModel, ObservedState, Progress, RolloutCommand, RolloutDevice, RolloutPhase, RolloutStatus, TokenRole,
    device_message, finish_request, gateway_message, progress,
};
use tonic::{Code, Streaming};

use crate::jobs::start_import;
use crate::rollouts::{DEPLOYMENT, apply, spec};

/// Reads until something holds, and checks on the way that no message repeats the one before.
async fn until<T: PartialEq + std::fmt::Debug>(watch: &mut Streaming<T>, last: &mut T, holds: impl Fn(&T) -> bool) {
    let told = async {
        while !holds(last) {
            let next = watch.message().await.unwrap().expect("the watch goes on");
            assert_ne!(next, *last, "told twice");
            *last = next;
        }
    };
    let told = tokio::time::timeout(PATIENCE, told).await;
    assert!(told.is_ok(), "last was {last:?}");
}

async fn watched(fleet: &Fleet) -> Streaming<RolloutStatus> {
    let request = GetRolloutRequest {
        deployment: DEPLOYMENT.into(),
    };
    fleet
        .operator()
        .await
        .watch_rollout(request)
        .await
        .unwrap()
        .into_inner()
}

fn outcome(status: &RolloutStatus) -> Option<DeviceOutcome> {
    status.devices.first().map(RolloutDevice::outcome)
}

#[tokio::test]
async fn a_rollout_is_told_by_words_of_devices_by_silence_and_by_commands() {
    let fleet = Fleet::start().await;
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    signer.publish(&fleet, &release(1)).await.unwrap();
    let identity = fleet.join(TokenRole::Device, "north").await;
    let mut patient = spec(1);
    patient.policy.as_mut().unwrap().wave_deadline_ms = 3_600_000;
    apply(&fleet, patient).await.unwrap();
    let (mut watch, mut another) = (watched(&fleet).await, watched(&fleet).await);
    let mut last = watch.message().await.unwrap().unwrap();
    assert_eq!((last.phase(), last.devices.len()), (RolloutPhase::Running, 1));

    // The device comes, is told what to run, and says that it works on it.
    let mut session = Session::open(&fleet, &identity, hello("north")).await.unwrap();
    let model = loop {
        let message = session.next().await.unwrap().expect("the session goes on");
        if let gateway_message::Message::Desired(desired) = message
            && let Some(model) = desired
                .models
                .into_iter()
                .find(|model| !model.manifest_target.is_empty())
        {
            break model;
        }
    };
    let working = ObservedModel {
        deployment: model.deployment.clone(),
        generation: model.generation,
        target_release: format!("{MODEL}.r1"),
        progress: Some(Progress {
            kind: Some(progress::Kind::Working(InstallStage::Fetch.into())),
        }),
        ..ObservedModel::default()
    };
    let state = ObservedState {
        models: vec![working],
        ..ObservedState::default()
    };
    session.send(device_message::Message::Observed(state)).await;
    until(&mut watch, &mut last, |status| {
        outcome(status) == Some(DeviceOutcome::Working)
    })
    .await;

    // It goes, and time passes: nobody writes anything.
    drop(session);
    fleet.pass(Duration::from_secs(61));
    until(&mut watch, &mut last, |status| {
        outcome(status) == Some(DeviceOutcome::NotHeardFrom)
    })
    .await;

    let abort = CommandRolloutRequest {
        deployment: DEPLOYMENT.into(),
        command: RolloutCommand::Abort.into(),
    };
    fleet.operator().await.command_rollout(abort).await.unwrap();
    until(&mut watch, &mut last, |status| status.phase() == RolloutPhase::Aborted).await;
    assert_eq!(watch.message().await.unwrap(), None, "a watch ends with its rollout");
    let mut last = another.message().await.unwrap().unwrap();
    until(&mut another, &mut last, |status| {
        status.phase() == RolloutPhase::Aborted
    })
    .await;
    fleet.stop().await;
}

/// Somebody still follows a rollout that has ended when the next one is made and watched at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_with_the_rollout_that_is_there_and_not_with_the_one_before() {
    let fleet = Fleet::start().await;
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    for number in 1..=2 {
        signer.publish(&fleet, &release(number)).await.unwrap();
    }
    fleet.join(TokenRole::Device, "north").await;
    // As another replica has it.
    let mut tasks = tokio::task::JoinSet::new();
    let rollouts = Rollouts::start(Arc::clone(&fleet.plane), &mut tasks);
    let name: DeploymentName = DEPLOYMENT.parse().unwrap();
    let mut followers = Vec::new();
    for number in [1, 2, 1, 2] {
        let mut patient = spec(number);
        patient.policy.as_mut().unwrap().wave_deadline_ms = 3_600_000;
        apply(&fleet, patient).await.unwrap();
        fleet.plane.catch_up().await.unwrap();
        let mut follower = rollouts.follow(name.clone()).await.unwrap();
        let first = follower.borrow().clone();
        assert_eq!(
            (first.to_manifest.as_str(), first.phase()),
            (release(number).name.as_str(), RolloutPhase::Running)
        );
        let abort = CommandRolloutRequest {
            deployment: DEPLOYMENT.into(),
            command: RolloutCommand::Abort.into(),
        };
        fleet.operator().await.command_rollout(abort).await.unwrap();
        let aborted = follower.wait_for(|status| status.phase() == RolloutPhase::Aborted);
        tokio::time::timeout(PATIENCE, aborted).await.unwrap().unwrap();
        followers.push(follower);
    }
    fleet.stop().await;
    tasks.join_all().await;
}

#[tokio::test]
async fn a_job_is_told_by_its_own_changes_alone_and_to_its_end() {
    let fleet = Fleet::start().await;
    start_import(&fleet, "first").await;
    let watch = async || {
        let request = GetJobRequest { name: "first".into() };
        fleet.operator().await.watch_job(request).await.unwrap().into_inner()
    };
    let mut first = watch().await;
    let mut last = first.message().await.unwrap().unwrap();
    assert_eq!(last.stage(), JobStage::Waiting);
    let mut kiln = trainer(&fleet, "kiln").await;
    let claim = claimed(&mut kiln).await.unwrap();
    // News of another job are none.
    start_import(&fleet, "second").await;
    until(&mut first, &mut last, |job| job.stage() == JobStage::Running).await;
    let failed = finish_request::Outcome::Failed(JobFailed {
        reason: "the hub is gone".into(),
    });
    kiln.finish(finish(&claim, failed)).await.unwrap();
    until(&mut first, &mut last, |job| job.stage() == JobStage::Failed).await;
    assert_eq!(first.message().await.unwrap(), None);
    // Whoever comes late hears the end.
    let mut late = watch().await;
    assert_eq!(late.message().await.unwrap().unwrap(), last);
    assert_eq!(late.message().await.unwrap(), None);
    fleet.stop().await;
}

#[tokio::test]
async fn a_watch_ends_when_the_controller_does() {
    let fleet = Fleet::start().await;
    start_import(&fleet, "first").await;
    let request = GetJobRequest { name: "first".into() };
    let mut watch = fleet.operator().await.watch_job(request).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    let ((), end) = tokio::join!(fleet.stop(), watch.message());
    let (code, text) = refusal(end);
    assert!(
        code == Code::Unavailable && text.contains("shutting down"),
        "{code:?} {text}"
    );
}
