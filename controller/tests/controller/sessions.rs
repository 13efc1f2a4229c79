//! Sessions: fences, greetings, and what a lying device gets.

use fieldfare_controller_peers::device::{Session, hello, message, profile};
use fieldfare_controller_peers::{Fleet, refusal};
use fieldfare_proto::v1::device_gateway_client::DeviceGatewayClient;
use fieldfare_proto::v1::{Heartbeat, Hello, ObservedModel, ObservedState, TokenRole, device_message, gateway_message};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

#[tokio::test]
async fn drained_sessions_are_told_to_come_back_at_different_times() {
    let fleet = Fleet::start().await;
    let mut sessions = tokio::task::JoinSet::new();
    for number in 0..8 {
        let name = format!("north-{number}");
        let device = fleet.join(TokenRole::Device, &name).await;
        let session = Session::open(&fleet, &device, hello(&name)).await.unwrap();
        sessions.spawn(session.end());
    }
    let (_, last) = tokio::join!(fleet.stop(), sessions.join_all());
    let mut after_ms: Vec<u32> = last
        .into_iter()
        .map(|last| match last.unwrap() {
            Some(gateway_message::Message::ComeBack(come_back)) => come_back.after_ms,
            other => panic!("no come-back: {other:?}"),
        })
        .collect();
    after_ms.sort_unstable();
    // Eight draws from half a minute: within one second of each other once in two thousand million times.
    assert!(
        after_ms[7] <= 30_000 && after_ms[7] - after_ms[0] > 1_000,
        "{after_ms:?}"
    );
    after_ms.dedup();
    assert!(after_ms.len() > 4, "{after_ms:?}");
}

#[tokio::test]
async fn a_lying_or_confused_device_is_told_the_field() {
    let fleet = Fleet::start().await;
    let device = fleet.join(TokenRole::Device, "north").await;
    let mut impossible = profile("raspberry-pi-5", 8 << 30);
    impossible.cores = 0;
    let cases = [
        (
            "protocol_version",
            Hello {
                protocol_version: 0,
                ..hello("north")
            },
        ),
        (
            "cores",
            Hello {
                profile: Some(impossible),
                ..hello("north")
            },
        ),
        (
            "agent_version",
            Hello {
                agent_version: "9".repeat(65),
                ..hello("north")
            },
        ),
        (
            "labels",
            Hello {
                labels: [("a b".to_owned(), String::new())].into(),
                ..hello("north")
            },
        ),
        (
            "models",
            Hello {
                observed: Some(ObservedState {
                    models: vec![ObservedModel::default(); 17],
                    ..ObservedState::default()
                }),
                ..hello("north")
            },
        ),
        (
            "progress",
            Hello {
                observed: Some(ObservedState {
                    models: vec![ObservedModel::default()],
                    ..ObservedState::default()
                }),
                ..hello("north")
            },
        ),
    ];
    for (field, hello) in cases {
        let (code, text) = refusal(Session::open(&fleet, &device, hello).await.map(|_| ()));
        assert!(
            code == Code::InvalidArgument && text.contains(field),
            "{field}: {code:?} {text}"
        );
    }
    let (out, stream) = mpsc::channel(1);
    out.send(message(device_message::Message::Heartbeat(Heartbeat::default())))
        .await
        .unwrap();
    let channel = fleet.channel(&device).await;
    let mut answers = DeviceGatewayClient::new(channel)
        .session(ReceiverStream::new(stream))
        .await
        .unwrap()
        .into_inner();
    let (code, text) = refusal(answers.message().await);
    assert!(
        code == Code::InvalidArgument && text.contains("hello"),
        "{code:?} {text}"
    );
    fleet.stop().await;
}
