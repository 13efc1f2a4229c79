//! An assignment belongs to one release under some requirements: what a device is told is what `explain` says of it.

use std::time::Duration;

use fieldfare_controller_peers::device::{Obedient, Session, hello};
use fieldfare_controller_peers::release::{MODEL, Release, Signer, release, release_of};
use fieldfare_controller_peers::{Fleet, PATIENCE};
use fieldfare_proto::v1::{
    DeploymentSpec, DesiredModel, DeviceOutcome, ExplainDeviceRequest, ObservedState, Requirements, RolloutPhase,
    TokenRole, device_message, gateway_message,
};
use tokio::sync::watch;

use crate::rollouts::{apply, outcome, spec};

/// A device that obeys, and shows what it was told last.
async fn shown(fleet: &Fleet) -> watch::Receiver<DesiredModel> {
    let identity = fleet.join(TokenRole::Device, "north").await;
    let mut session = Session::open(fleet, &identity, hello("north")).await.unwrap();
    let (told, shown) = watch::channel(DesiredModel::default());
    tokio::spawn(async move {
        while let Ok(Some(message)) = session.next().await {
            let gateway_message::Message::Desired(desired) = message else {
                continue;
            };
            let models = desired.models.iter().map(|model| Obedient::default().installed(model));
            let state = ObservedState {
                models: models.collect(),
                disk_free_bytes: 1 << 30,
            };
            session.send(device_message::Message::Observed(state)).await;
            if let Some(model) = desired.models.first() {
                told.send_replace(model.clone());
            }
        }
    });
    shown
}

/// Rolls a specification out, and tells what the device was told; `explain` must say the same.
async fn moved(fleet: &Fleet, shown: &watch::Receiver<DesiredModel>, spec: DeploymentSpec) -> (String, String, String) {
    apply(fleet, spec).await.unwrap();
    let last = outcome(fleet).await;
    assert_eq!(last.phase(), RolloutPhase::Completed, "{last:?}");
    let told = shown.borrow().clone();
    let asked = ExplainDeviceRequest { device: "north".into() };
    let why = fleet.operator().await.explain_device(asked).await.unwrap().into_inner();
    let why = &why.deployments[0];
    assert_eq!(
        (&why.target_manifest, &why.target_variant),
        (&told.manifest_target, &told.variant),
        "{why:?}"
    );
    assert_eq!(why.placement.as_ref().unwrap().chosen, told.variant);
    (told.model, told.manifest_target, told.variant)
}

/// Two variants, of which the better one needs twice the memory.
fn two_variants(model: &str, number: u32) -> Release {
    release_of(model, number, &[("q8-0", 64 << 20, 1.5), ("q4-0", 32 << 20, 1.6)])
}

async fn published(releases: &[Release]) -> Fleet {
    let fleet = Fleet::start().await;
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    for release in releases {
        signer.publish(&fleet, release).await.unwrap();
    }
    fleet
}

fn to(model: &str, release: &Release) -> DeploymentSpec {
    DeploymentSpec {
        model: model.into(),
        manifest_target: release.name.to_string(),
        ..spec(1)
    }
}

#[tokio::test]
async fn another_model_with_the_same_number_is_assigned_anew() {
    let (farm, leak) = (release(1), release_of("leak", 1, &[("q4-0", 32 << 20, 1.5)]));
    let fleet = published(&[farm.clone(), leak.clone()]).await;
    let shown = shown(&fleet).await;
    for (model, release, variant) in [(MODEL, &farm, "q8-0"), ("leak", &leak, "q4-0"), (MODEL, &farm, "q8-0")] {
        let expected = (model.to_owned(), release.name.to_string(), variant.to_owned());
        assert_eq!(moved(&fleet, &shown, to(model, release)).await, expected);
    }
    fleet.stop().await;
}

#[tokio::test]
async fn the_same_release_under_other_requirements_is_assigned_anew() {
    let (first, second) = (two_variants(MODEL, 1), two_variants(MODEL, 2));
    let fleet = published(&[first.clone(), second.clone()]).await;
    let shown = shown(&fleet).await;
    let within = |max_memory_bytes: u64, release: &Release| {
        let mut spec = to(MODEL, release);
        spec.requirements = Some(Requirements {
            max_memory_bytes,
            ..spec.requirements.unwrap()
        });
        spec
    };
    let (wide, narrow) = (0, 48 << 20);
    for (memory, release, variant) in [
        (wide, &first, "q8-0"),
        (wide, &second, "q8-0"),
        (narrow, &first, "q4-0"),
        (wide, &second, "q8-0"),
        (wide, &first, "q8-0"),
    ] {
        let (_, target, told) = moved(&fleet, &shown, within(memory, release)).await;
        assert_eq!((target, told.as_str()), (release.name.to_string(), variant));
    }
    fleet.stop().await;
}

#[tokio::test]
async fn a_device_that_never_came_does_not_hold_the_first_wave() {
    let fleet = published(&[release(1)]).await;
    let _shown = shown(&fleet).await;
    fleet.join(TokenRole::Device, "south").await;
    let mut patient = spec(1);
    patient.policy.as_mut().unwrap().offline_after_ms = 3_600_000;
    patient.policy.as_mut().unwrap().wave_deadline_ms = 3_600_000;
    apply(&fleet, patient).await.unwrap();
    let last = tokio::time::timeout(PATIENCE.min(Duration::from_secs(30)), outcome(&fleet)).await;
    let last = last.expect("nobody waits for a device that was never seen");
    assert_eq!(last.phase(), RolloutPhase::Completed, "{last:?}");
    let south = last.devices.iter().find(|device| device.name == "south").unwrap();
    assert_eq!(south.outcome(), DeviceOutcome::NotHeardFrom, "{south:?}");
    fleet.stop().await;
}
