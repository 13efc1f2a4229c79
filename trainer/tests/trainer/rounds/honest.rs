//! What an invited device gets, and one that has left.

use fieldfare_fleet::round::Decline;
use fieldfare_proto::v1::{ConfigureRequest, configure_response};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_invited_device_gets_the_configuration_and_state_and_contributes_once_however_often_it_asks() {
    let stage = Stage::new().await;
    let device = stage.fleet.device(1);
    let request = ConfigureRequest {
        ticket: Some(stage.ticket(&device)),
    };
    let mut stream = stage
        .client(&device)
        .await
        .configure(request)
        .await
        .unwrap()
        .into_inner();
    let (mut configuration, mut state) = (Vec::new(), Vec::new());
    while let Some(message) = stream.message().await.unwrap() {
        match message.part.unwrap() {
            configure_response::Part::Configuration(bytes) => configuration.extend(bytes),
            configure_response::Part::StateChunk(bytes) => state.extend(bytes),
        }
    }
    assert_eq!(configuration, CONFIGURATION);
    assert!(state == STATE);

    let answer = stage.honest(1).await;
    assert!(!answer.repeated && answer.sha256 == sha256(&update(1)).as_bytes());
    let kept = stage.store().all().unwrap();
    assert_eq!(kept.len(), 1, "it is on disk when it is acknowledged");
    assert!(stage.honest(1).await.repeated);
    stage.ends(&[1], &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_has_left_the_round_is_told_before_it_trains_or_pays() {
    let stage = Stage::new().await;
    let (round, device) = (round_id(1), device_id(1));
    let reason = Decline::Unexplained;
    let left = Event::Declined { round, device, reason };
    stage.job().handle(now(), left, &mut Vec::new()).unwrap();
    let device = stage.fleet.device(1);
    let request = ConfigureRequest {
        ticket: Some(stage.ticket(&device)),
    };
    let refused = stage.client(&device).await.configure(request).await.unwrap_err();
    assert!(
        refused.code() == Code::FailedPrecondition && refused.message().contains("has left the round"),
        "{refused}"
    );
    stage.says(&[TurnedAway::NotOfTheCohort]);
}
