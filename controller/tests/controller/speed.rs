//! What devices really reach corrects the next placement; what an emulated device reaches does not.

use fieldfare_controller_peers::device::{Obedient, Session, hello};
use fieldfare_controller_peers::release::{Signer, release};
use fieldfare_controller_peers::{Fleet, PATIENCE};
use fieldfare_proto::v1::{
    DesiredState, DevicePlacement, ExplainDeviceRequest, Hello, ObservedState, PlacementReport, PlanPlacementRequest,
    Requirements, TokenRole, device_message, gateway_message,
};

use crate::rollouts::{apply, outcome, spec};

/// With an empty cache the roofline promises more of the tiny model than any speed that can be said.
const PREDICTED: f64 = 1e6;

async fn device(fleet: &Fleet, name: &str, tokens_per_second: f64, hello: Hello) {
    let identity = fleet.join(TokenRole::Device, name).await;
    let behaviour = Obedient {
        tokens_per_second: Some(tokens_per_second),
        ..Obedient::default()
    };
    behaviour.run(fleet, &identity, hello).await;
}

/// Where one device would run release 2, which nobody runs.
async fn planned(fleet: &Fleet, name: &str, min_tokens_per_second: f64) -> PlacementReport {
    let request = PlanPlacementRequest {
        manifest_target: release(2).name.to_string(),
        selector: format!("site={name}"),
        requirements: Some(Requirements {
            min_tokens_per_second,
            context_tokens: 128,
            ..Requirements::default()
        }),
    };
    let answer = fleet
        .operator()
        .await
        .plan_placement(request)
        .await
        .unwrap()
        .into_inner();
    let devices: [DevicePlacement; 1] = answer.devices.try_into().unwrap();
    let [device] = devices;
    device.report.unwrap()
}

async fn published() -> (Fleet, Signer) {
    let fleet = Fleet::start().await;
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    for number in 1..=2 {
        signer.publish(&fleet, &release(number)).await.unwrap();
    }
    (fleet, signer)
}

#[tokio::test]
async fn what_devices_of_a_class_reach_corrects_the_next_placement() {
    let (fleet, _) = published().await;
    device(&fleet, "north", PREDICTED * 0.5, hello("north")).await;
    device(&fleet, "south", PREDICTED * 0.4, hello("south")).await;
    // As fast as the machine that runs this test, whatever it stands in for; by its figures it is of the same class.
    let mut emulated = hello("east");
    emulated.profile.as_mut().unwrap().emulated = "raspberry-pi-5".to_owned();
    device(&fleet, "east", PREDICTED, emulated).await;
    let before = planned(&fleet, "north", 1.0).await;
    assert_eq!((before.speed_correction, before.speed_correction_devices), (1.0, 0));
    // 17e9 B/s over weights of a kilobyte or two and a cache of 512 B for each of 128 tokens.
    let roofline = before.variants[0].predicted_tokens_per_second;
    assert!((200_000.0..260_000.0).contains(&roofline), "{roofline}");
    assert_eq!(planned(&fleet, "north", 200_000.0).await.chosen, "q8-0");

    apply(&fleet, spec(1)).await.unwrap();
    outcome(&fleet).await;
    for name in ["north", "east"] {
        let after = planned(&fleet, name, 1.0).await;
        assert_eq!(after.speed_correction_devices, 2, "{after:?}");
        assert!((after.speed_correction - 0.45).abs() < 1e-9, "{after:?}");
        let predicted = after.variants[0].predicted_tokens_per_second;
        assert!((predicted - roofline * 0.45).abs() < 1e-3, "{predicted}");
        assert_eq!(planned(&fleet, name, 200_000.0).await.chosen, "");
    }
    let asked = ExplainDeviceRequest { device: "north".into() };
    let why = fleet.operator().await.explain_device(asked).await.unwrap().into_inner();
    let report = why.deployments[0].placement.clone().unwrap();
    assert_eq!(report.speed_correction_devices, 2, "{report:?}");
    fleet.stop().await;
}

#[tokio::test]
async fn a_speed_that_is_not_worth_a_write_counts_all_the_same() {
    let (fleet, _) = published().await;
    let identity = fleet.join(TokenRole::Device, "north").await;
    let mut session = Session::open(&fleet, &identity, hello("north")).await.unwrap();
    apply(&fleet, spec(1)).await.unwrap();
    // Its wave opens a moment later: until then it shall run nothing.
    let models = loop {
        let message = session.next().await.unwrap().expect("the session goes on");
        if let gateway_message::Message::Desired(DesiredState { models, .. }) = message
            && models.iter().any(|model| !model.manifest_target.is_empty())
        {
            break models;
        }
    };
    let mut news = fleet.plane.presence.subscribe();
    for factor in [0.5, 0.25, 1e-9] {
        let said = Obedient {
            tokens_per_second: Some(PREDICTED * factor),
            ..Obedient::default()
        };
        let state = ObservedState {
            models: models.iter().map(|model| said.installed(model)).collect(),
            ..ObservedState::default()
        };
        news.mark_unchanged();
        session.send(device_message::Message::Observed(state)).await;
        tokio::time::timeout(PATIENCE, news.changed()).await.unwrap().unwrap();
        let report = planned(&fleet, "north", 1.0).await;
        // Bounded from below: nothing is a hundred times slower than its memory.
        assert!(
            (report.speed_correction - f64::max(factor, 0.01)).abs() < 1e-9,
            "{report:?}"
        );
    }
    fleet.stop().await;
}
