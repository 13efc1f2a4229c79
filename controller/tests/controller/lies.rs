//! Lies of devices on their sessions: what they are answered, what stays as it was, and what an operator sees.

use fieldfare_controller_peers::device::{Obedient, Session, hello, message, profile};
use fieldfare_controller_peers::release::{Signer, release};
use fieldfare_controller_peers::{Fleet, PATIENCE, refusal};
use fieldfare_proto::v1::device_gateway_client::DeviceGatewayClient;
use fieldfare_proto::v1::enrolment_client::EnrolmentClient;
use fieldfare_proto::v1::{
    CapabilityProfile, DeviceMessage, DeviceRefusal, EnrolRequest, GatewayMessage, GetDeviceRequest, Heartbeat, Hello,
    InvitationRefused, InvitationReply, ObservedState, RolloutCommand, RoundRef, SignedTicket, TokenRole,
    device_message, invitation_reply,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::rollouts::{apply, command, spec};

/// What an operator sees of the device's refusals.
async fn refused(fleet: &Fleet) -> Option<DeviceRefusal> {
    let asked = GetDeviceRequest { device: "north".into() };
    fleet
        .operator()
        .await
        .get_device(asked)
        .await
        .unwrap()
        .into_inner()
        .refused
}

/// What a session ends with, where the device is to blame: the operator sees the same words, and how often.
async fn ends(fleet: &Fleet, ended: Result<(), Status>, code: Code, reason: &str, times: u32) {
    let (told, text) = refusal(ended);
    assert!(told == code && text.contains(reason), "{told:?} {text}");
    let shown = refused(fleet).await.unwrap();
    assert_eq!((shown.reason.as_str(), shown.times), (text.as_str(), times));
    assert!(shown.refused_unix_ms > 0);
}

#[tokio::test]
async fn a_profile_that_claims_the_impossible() {
    let fleet = Fleet::start().await;
    let device = fleet.join(TokenRole::Device, "north").await;
    let honest = profile("raspberry-pi-5", 8 << 30);
    assert_eq!(refused(&fleet).await, None);
    let lies = [
        (
            "cores",
            CapabilityProfile {
                cores: 0,
                ..honest.clone()
            },
        ),
        (
            "cores",
            CapabilityProfile {
                cores: u32::MAX,
                ..honest.clone()
            },
        ),
        (
            "memory",
            CapabilityProfile {
                memory_bytes: u64::MAX,
                ..honest.clone()
            },
        ),
        (
            "model_memory",
            CapabilityProfile {
                model_memory_bytes: honest.memory_bytes + 1,
                ..honest.clone()
            },
        ),
        (
            "bandwidth",
            CapabilityProfile {
                memory_bandwidth_bytes_per_second: u64::MAX,
                ..honest.clone()
            },
        ),
    ];
    let mut times = 0;
    for (field, lie) in lies {
        // As the first thing that it says, and later.
        let greeting = Hello {
            profile: Some(lie.clone()),
            ..hello("north")
        };
        times += 1;
        let greeted = Session::open(&fleet, &device, greeting).await.map(drop);
        ends(&fleet, greeted, Code::InvalidArgument, field, times).await;
        times += 1;
        let session = Session::open(&fleet, &device, hello("north")).await.unwrap();
        session.send(device_message::Message::Profile(lie)).await;
        ends(
            &fleet,
            session.end().await.map(drop),
            Code::InvalidArgument,
            field,
            times,
        )
        .await;
    }
    let asked = GetDeviceRequest { device: "north".into() };
    let shown = fleet.operator().await.get_device(asked).await.unwrap().into_inner();
    assert_eq!(
        shown.profile.unwrap().cores,
        honest.cores,
        "placement goes by what was possible"
    );
    fleet.stop().await;
}

#[tokio::test]
async fn a_session_opened_twice_with_one_certificate() {
    let fleet = Fleet::start().await;
    let device = fleet.join(TokenRole::Device, "north").await;
    let older = Session::open(&fleet, &device, hello("north")).await.unwrap();
    let newer = Session::open(&fleet, &device, hello("north")).await.unwrap();
    assert!(newer.welcome.session_fence > older.welcome.session_fence);
    // What the older one still says is not heard.
    let full = ObservedState {
        disk_free_bytes: 7,
        ..ObservedState::default()
    };
    older.send(device_message::Message::Observed(full)).await;
    ends(
        &fleet,
        older.end().await.map(drop),
        Code::Aborted,
        "was replaced by a newer one",
        1,
    )
    .await;
    let asked = || GetDeviceRequest { device: "north".into() };
    let shown = fleet.operator().await.get_device(asked()).await.unwrap().into_inner();
    assert!(
        shown.connected && shown.agent_version == "0.1.0" && shown.running.is_empty(),
        "{shown:?}"
    );
    // A certificate that two machines have is seen by the count, which only grows.
    let newest = Session::open(&fleet, &device, hello("north")).await.unwrap();
    ends(
        &fleet,
        newer.end().await.map(drop),
        Code::Aborted,
        "was replaced by a newer one",
        2,
    )
    .await;
    drop(newest);
    fleet.stop().await;
}

#[tokio::test]
async fn a_message_over_the_limit() {
    let fleet = Fleet::start().await;
    let device = fleet.join(TokenRole::Device, "north").await;
    let large = "1".repeat(1 << 20);
    let greeting = Hello {
        agent_version: large.clone(),
        ..hello("north")
    };
    let greeted = Session::open(&fleet, &device, greeting).await.map(drop);
    ends(&fleet, greeted, Code::InvalidArgument, "message length too large", 1).await;
    let session = Session::open(&fleet, &device, hello("north")).await.unwrap();
    let lie = CapabilityProfile {
        device_model: large,
        ..profile("raspberry-pi-5", 8 << 30)
    };
    session.send(device_message::Message::Profile(lie)).await;
    let ended = session.end().await.map(drop);
    ends(&fleet, ended, Code::InvalidArgument, "message length too large", 2).await;
    fleet.stop().await;
}

#[tokio::test]
async fn garbage_instead_of_messages() {
    let fleet = Fleet::start().await;
    let device = fleet.join(TokenRole::Device, "north").await;
    // Its first field is of the wire type of a hello, and holds none.
    let garbage = SignedTicket {
        ticket: vec![0xff; 100],
        ..SignedTicket::default()
    };
    let mut client = tonic::client::Grpc::new(fleet.channel(&device).await);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<SignedTicket, GatewayMessage>::default();
    let path = http::uri::PathAndQuery::from_static("/fieldfare.v1.DeviceGateway/Session");
    let stream = tonic::Request::new(tokio_stream::iter([garbage]));
    let mut answers = client.streaming(stream, path, codec).await.unwrap().into_inner();
    let ended = answers.message().await.map(drop);
    ends(&fleet, ended, Code::InvalidArgument, "decode", 1).await;
    let session = Session::open(&fleet, &device, hello("north")).await.unwrap();
    session.send(device_message::Message::Hello(hello("north"))).await;
    ends(
        &fleet,
        session.end().await.map(drop),
        Code::InvalidArgument,
        "first message only",
        2,
    )
    .await;
    fleet.stop().await;
}

#[tokio::test]
async fn a_stream_without_a_hello() {
    let fleet = Fleet::start().await;
    let device = fleet.join(TokenRole::Device, "north").await;
    let (quiet, stream) = mpsc::channel::<DeviceMessage>(1);
    let channel = fleet.channel(&device).await;
    let mut answers = DeviceGatewayClient::new(channel)
        .session(ReceiverStream::new(stream))
        .await
        .unwrap()
        .into_inner();
    let ended = answers.message().await.map(drop);
    ends(&fleet, ended, Code::DeadlineExceeded, "no hello within", 1).await;
    drop(quiet);
    fleet.stop().await;
}

#[tokio::test]
async fn a_session_that_is_never_read() {
    let fleet = Fleet::start().await;
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    signer.publish(&fleet, &release(1)).await.unwrap();
    let device = fleet.join(TokenRole::Device, "north").await;
    let (out, stream) = mpsc::channel(8);
    out.send(message(device_message::Message::Hello(hello("north"))))
        .await
        .unwrap();
    let mut unread = DeviceGatewayClient::new(fleet.unread(&device).await)
        .session(ReceiverStream::new(stream))
        .await
        .unwrap()
        .into_inner();
    let heartbeat = async || {
        let heartbeat = message(device_message::Message::Heartbeat(Heartbeat::default()));
        // Nobody listens any more at the end.
        let _ = out.send(heartbeat).await;
    };
    // Deployments that are not for it move the generation of what it shall run, and leave it more to read than waits for it.
    for context_tokens in 128..140 {
        let mut elsewhere = spec(1);
        elsewhere.selector = "site=nowhere".into();
        elsewhere.requirements.as_mut().unwrap().context_tokens = context_tokens;
        apply(&fleet, elsewhere).await.unwrap();
        command(&fleet, RolloutCommand::Abort).await.unwrap();
        heartbeat().await;
    }
    // It says every second that it is there.
    let ended = async {
        loop {
            fleet.pass(std::time::Duration::from_secs(1));
            heartbeat().await;
            if let Some(shown) = refused(&fleet).await {
                return shown;
            }
        }
    };
    let shown = tokio::time::timeout(PATIENCE, ended).await.expect("it is refused");
    assert_eq!(
        (shown.reason.as_str(), shown.times),
        ("8 messages were left unread for 25 s", 1)
    );
    let ended = tokio::time::timeout(PATIENCE, unread.message()).await;
    assert!(ended.expect("nobody keeps its connection").is_err());
    let asked = GetDeviceRequest { device: "north".into() };
    let shown = fleet.operator().await.get_device(asked).await.unwrap().into_inner();
    assert!(!shown.connected, "{shown:?}");
    fleet.stop().await;
}

#[tokio::test]
async fn an_enrolment_that_does_not_begin() {
    let fleet = Fleet::start().await;
    let (quiet, stream) = mpsc::channel::<EnrolRequest>(1);
    let mut client = EnrolmentClient::new(fleet.stranger().await);
    let mut steps = client.enrol(ReceiverStream::new(stream)).await.unwrap().into_inner();
    let (code, text) = refusal(steps.message().await);
    assert!(
        code == Code::DeadlineExceeded && text.contains("no message within"),
        "{code:?} {text}"
    );
    drop(quiet);
    fleet.stop().await;
}

#[tokio::test]
async fn an_answer_to_somebody_elses_invitation() {
    let fleet = Fleet::start().await;
    let device = fleet.join(TokenRole::Device, "north").await;
    let session = Session::open(&fleet, &device, hello("north")).await.unwrap();
    let refused = InvitationRefused {
        detail: "no".into(),
        ..InvitationRefused::default()
    };
    let reply = InvitationReply {
        round: Some(RoundRef {
            job: "night".into(),
            round: 1,
            attempt: 1,
        }),
        reply: Some(invitation_reply::Reply::Refused(refused)),
    };
    session.send(device_message::Message::InvitationReply(reply)).await;
    ends(&fleet, session.end().await.map(drop), Code::NotFound, "invitation", 1).await;
    // A device of another name is not blamed for it.
    let south = fleet.join(TokenRole::Device, "south").await;
    Obedient::default().run(&fleet, &south, hello("south")).await;
    let asked = GetDeviceRequest { device: "south".into() };
    let shown = fleet.operator().await.get_device(asked).await.unwrap().into_inner();
    assert_eq!(shown.refused, None);
    fleet.stop().await;
}
