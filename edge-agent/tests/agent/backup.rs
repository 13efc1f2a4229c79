//! A real agent whose controller is lost and restored from a backup.

use std::time::Duration;

use fieldfare_agent::agent::Agent;
use fieldfare_lm::quantize::Precision;
use fieldfare_proto::v1::{AuditModelChange, DeviceOutcome, GetRolloutRequest, RolloutPhase};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::audit::{changes, events};
use crate::binary;
use crate::controller::Controller;
use crate::device::PATIENCE;
use crate::releases::{Release, release, weights};
use crate::session::{DEPLOYMENT, deploy};

/// Waits until the controller has heard from its one device that it has this release, and is where it should be.
async fn converged(controller: &Controller, release: &Release) {
    let operator = controller.operator().await;
    // A rollout that is over has no news to wait for; the device has.
    let waited = timeout(
        PATIENCE,
        controller.until_devices(|| {
            let mut operator = operator.clone();
            async move {
                let request = GetRolloutRequest {
                    deployment: DEPLOYMENT.to_owned(),
                };
                let status = operator.get_rollout(request).await.unwrap().into_inner();
                let device = status.devices.first();
                let is_there = device.is_some_and(|device| device.outcome() == DeviceOutcome::Converged);
                is_there && status.to_manifest == release.name.to_string()
            }
        }),
    );
    assert!(waited.await.is_ok(), "it never converged on {}", release.name);
}

fn epochs(changes: &[AuditModelChange]) -> Vec<(String, u32)> {
    let told = |change: &AuditModelChange| {
        let release = change.model.as_ref().unwrap().release.clone();
        (release, change.assignment.unwrap().epoch)
    };
    changes.iter().map(told).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_converges_after_its_fleet_was_restored_and_keeps_what_it_runs() {
    let place = tempfile::tempdir().unwrap();
    let mut controller = Controller::start().await;
    let folder = controller.enrol("north", &place.path().join("north")).await;
    let agent = Agent::new(folder.clone(), None, binary()).await.unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(agent.run(stop.clone()));
    let (first, second) = (
        release(1, weights(Precision::F16)),
        release(2, weights(Precision::Q8_0)),
    );
    controller.publish(&first).await;
    controller.publish(&second).await;
    assert_eq!(deploy(&controller, &first).await.phase(), RolloutPhase::Completed);
    let file = place.path().join("fleet.tar");
    controller.backup(&file).await;

    // It has what the backup says: it hears it anew, and nothing is installed.
    let one = controller.is_lost_and_restored(&file).await;
    converged(&controller, &first).await;
    let installed = [(first.text(), 0)];
    assert_eq!(epochs(&changes(&events(&folder))), installed);

    // The restored fleet goes on; then it is lost again, and restored from the same backup. What the device has heard meanwhile is older.
    assert_eq!(deploy(&controller, &second).await.phase(), RolloutPhase::Completed);
    controller.pass(Duration::from_secs(1));
    let two = controller.is_lost_and_restored(&file).await;
    assert!(two > one && one > 1_700_000_000, "{one} {two}");
    converged(&controller, &first).await;
    assert_eq!(deploy(&controller, &second).await.phase(), RolloutPhase::Completed);
    let history = [
        (first.text(), 0),
        (second.text(), one),
        (first.text(), two),
        (second.text(), two),
    ];
    assert_eq!(epochs(&changes(&events(&folder))), history);

    stop.cancel();
    timeout(PATIENCE, running).await.unwrap().unwrap().unwrap();
}
