//! Sessions: fences, greetings, and what a lying device gets.

use fieldfare_proto::PROTOCOL_VERSION;
use fieldfare_proto::v1::device_gateway_client::DeviceGatewayClient;
use fieldfare_proto::v1::{
    DeviceMessage, GatewayMessage, GetDeviceRequest, Heartbeat, Hello, ObservedModel, ObservedState, TokenRole,
    TrainingReadiness, Welcome, device_message, gateway_message,
};
use fieldfare_tls::Identity;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::fixture::{Fleet, PATIENCE, profile, refusal};

/// A device's side of one session.
pub(crate) struct Session {
    pub(crate) out: mpsc::Sender<DeviceMessage>,
    incoming: Streaming<GatewayMessage>,
    pub(crate) welcome: Welcome,
}

pub(crate) fn hello(site: &str) -> Hello {
    Hello {
        labels: [("site".to_owned(), site.to_owned())].into(),
        protocol_version: PROTOCOL_VERSION,
        agent_version: "0.1.0".into(),
        profile: Some(profile("raspberry-pi-5", 8 << 30)),
        training: Some(TrainingReadiness {
            consent: true,
            idle: true,
            available_memory_bytes: 1 << 30,
            busy: false,
        }),
        ..Hello::default()
    }
}

pub(crate) fn message(message: device_message::Message) -> DeviceMessage {
    DeviceMessage { message: Some(message) }
}

impl Session {
    pub(crate) async fn open(fleet: &Fleet, device: &Identity, hello: Hello) -> Result<Self, Status> {
        let (out, stream) = mpsc::channel(8);
        out.send(message(device_message::Message::Hello(hello))).await.unwrap();
        let channel = fleet.channel(device).await;
        let incoming = DeviceGatewayClient::new(channel)
            .session(ReceiverStream::new(stream))
            .await?
            .into_inner();
        let mut session = Self {
            out,
            incoming,
            welcome: Welcome::default(),
        };
        match session.next().await? {
            Some(gateway_message::Message::Welcome(welcome)) => session.welcome = welcome,
            other => panic!("no welcome: {other:?}"),
        }
        Ok(session)
    }

    pub(crate) async fn next(&mut self) -> Result<Option<gateway_message::Message>, Status> {
        let next = tokio::time::timeout(PATIENCE, self.incoming.message())
            .await
            .expect("the gateway answers");
        Ok(next?.and_then(|message| message.message))
    }

    pub(crate) async fn send(&self, said: device_message::Message) {
        // A stream that has ended is noticed at the next message.
        let _ = self.out.send(message(said)).await;
    }

    /// Reads to the end of the stream.
    async fn end(mut self) -> Result<Option<gateway_message::Message>, Status> {
        let mut last = None;
        while let Some(message) = self.next().await? {
            last = Some(message);
        }
        Ok(last)
    }
}

#[tokio::test]
async fn a_newer_session_fences_the_older_one_off() {
    let fleet = Fleet::start().await;
    let device = fleet.join(TokenRole::Device, "north").await;
    let first = Session::open(&fleet, &device, hello("north")).await.unwrap();
    let second = Session::open(&fleet, &device, hello("north")).await.unwrap();
    assert!(second.welcome.session_fence > first.welcome.session_fence);
    let (code, text) = refusal(first.end().await);
    assert!(code == Code::Aborted && text.contains("newer"), "{code:?} {text}");
    second
        .send(device_message::Message::Heartbeat(Heartbeat::default()))
        .await;
    let shown = fleet
        .operator()
        .await
        .get_device(GetDeviceRequest { device: "north".into() })
        .await
        .unwrap()
        .into_inner();
    assert!(shown.connected && shown.agent_version == "0.1.0", "{shown:?}");
    fleet.stop().await;
}

#[tokio::test]
async fn a_drained_session_is_told_when_to_come_back() {
    let fleet = Fleet::start().await;
    let device = fleet.join(TokenRole::Device, "north").await;
    let session = Session::open(&fleet, &device, hello("north")).await.unwrap();
    let ((), last) = tokio::join!(fleet.stop(), session.end());
    match last.unwrap() {
        Some(gateway_message::Message::ComeBack(come_back)) => assert!(come_back.after_ms <= 30_000),
        other => panic!("no come-back: {other:?}"),
    }
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
