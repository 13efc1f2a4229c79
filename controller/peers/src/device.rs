//! Devices: one session each, and one that does whatever it is told.

use fieldfare_proto::PROTOCOL_VERSION;
use fieldfare_proto::v1::device_gateway_client::DeviceGatewayClient;
use fieldfare_proto::v1::{
    Arch, CapabilityProfile, Converged, DesiredModel, DesiredState, DeviceMessage, GateEvidence, GatewayMessage, Hello,
    InvitationRefused, InvitationReply, ObservedModel, ObservedState, Progress, RefusalReason, RoundInvitation,
    RoundTicket, Runtime, TokenRole, TrainingReadiness, Welcome, device_message, gateway_message, invitation_reply,
    progress,
};
use fieldfare_tls::Identity;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::fleet::{Fleet, PATIENCE};

/// A Raspberry Pi 5 or something like it: 4 Cortex-A76 cores, LPDDR4X-4267 at 17 GB/s.
pub fn profile(device_model: &str, memory_bytes: u64) -> CapabilityProfile {
    CapabilityProfile {
        device_model: device_model.into(),
        arch: Arch::Aarch64.into(),
        cpu_features: vec!["neon".into()],
        cores: 4,
        memory_bytes,
        model_memory_bytes: memory_bytes / 2,
        disk_free_bytes: 32 << 30,
        memory_bandwidth_bytes_per_second: 17_000_000_000,
        compute_f32_ops_per_second: 76_000_000_000,
        compute_int8_ops_per_second: 150_000_000_000,
        runtimes: vec![Runtime::CandleGguf.into()],
        ..CapabilityProfile::default()
    }
}

/// A device's side of one session.
#[derive(Debug)]
pub struct Session {
    /// What the device says.
    pub out: mpsc::Sender<DeviceMessage>,
    incoming: Streaming<GatewayMessage>,
    /// How it was greeted.
    pub welcome: Welcome,
}

/// What a device of this site says first: willing, idle, and with nothing installed.
pub fn hello(site: &str) -> Hello {
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

/// One message of a device.
pub fn message(message: device_message::Message) -> DeviceMessage {
    DeviceMessage { message: Some(message) }
}

impl Session {
    /// Says hello and waits for the welcome.
    pub async fn open(fleet: &Fleet, device: &Identity, hello: Hello) -> Result<Self, Status> {
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

    /// The gateway's next message; none at the end of the stream.
    pub async fn next(&mut self) -> Result<Option<gateway_message::Message>, Status> {
        let next = tokio::time::timeout(PATIENCE, self.incoming.message())
            .await
            .expect("the gateway answers");
        Ok(next?.and_then(|message| message.message))
    }

    /// Says something.
    pub async fn send(&self, said: device_message::Message) {
        // A stream that has ended is noticed at the next message.
        let _ = self.out.send(message(said)).await;
    }

    /// Reads to the end of the stream.
    pub async fn end(mut self) -> Result<Option<gateway_message::Message>, Status> {
        let mut last = None;
        while let Some(message) = self.next().await? {
            last = Some(message);
        }
        Ok(last)
    }
}

/// The number in `MODEL.rN.release.json`; 0 where there is none.
pub fn number(manifest_target: &str) -> u32 {
    manifest_target
        .split('.')
        .nth(1)
        .and_then(|part| part[1..].parse().ok())
        .unwrap_or(0)
}

/// A device that runs whatever it is told at once, answers its probes right, and refuses every invitation to train.
#[derive(Clone, Copy, Debug, Default)]
pub struct Obedient {
    /// The release whose probes it answers wrong.
    pub bad: u32,
    /// The speed that it reports.
    pub tokens_per_second: Option<f64>,
}

impl Obedient {
    /// What it reports of a model that it was told to run.
    pub fn installed(self, model: &DesiredModel) -> ObservedModel {
        let release = number(&model.manifest_target);
        let matched = if release == self.bad { 0 } else { 10 };
        let evidence = GateEvidence {
            probes_run: 10,
            probes_matched: matched,
            requests: 10,
            tokens_per_second: self.tokens_per_second,
            ..GateEvidence::default()
        };
        let name = if release == 0 {
            String::new()
        } else {
            format!("{}.r{release}", model.model)
        };
        ObservedModel {
            deployment: model.deployment.clone(),
            generation: model.generation,
            target_release: name.clone(),
            progress: Some(Progress {
                kind: Some(progress::Kind::Converged(Converged {})),
            }),
            running_release: name,
            running_manifest_target: model.manifest_target.clone(),
            running_variant: model.variant.clone(),
            evidence: Some(evidence),
            ..ObservedModel::default()
        }
    }

    /// Connects, and goes on until the fleet stops. Hands over its invitations.
    pub async fn run(self, fleet: &Fleet, identity: &Identity, hello: Hello) -> mpsc::Receiver<RoundInvitation> {
        self.run_refusing(fleet, identity, hello, Some(RefusalReason::NotIdle))
            .await
    }

    /// As [`Obedient::run`], with another reason to refuse; without one it lets invitations lie.
    pub async fn run_refusing(
        self,
        fleet: &Fleet,
        identity: &Identity,
        hello: Hello,
        refusal: Option<RefusalReason>,
    ) -> mpsc::Receiver<RoundInvitation> {
        let (invitations, handed_over) = mpsc::channel(8);
        let mut session = Session::open(fleet, identity, hello).await.unwrap();
        tokio::spawn(async move {
            while let Ok(Some(message)) = session.next().await {
                match message {
                    gateway_message::Message::Desired(DesiredState { models, .. }) => {
                        let models = models.iter().map(|model| self.installed(model)).collect();
                        let state = ObservedState {
                            models,
                            disk_free_bytes: 1 << 30,
                        };
                        session.send(device_message::Message::Observed(state)).await;
                    }
                    gateway_message::Message::Invitation(invitation) => {
                        if let Some(reason) = refusal {
                            session.send(refused(&invitation, reason)).await;
                        }
                        // Most tests have no use for it.
                        let _ = invitations.send(invitation).await;
                    }
                    _ => {}
                }
            }
        });
        handed_over
    }
}

fn refused(invitation: &RoundInvitation, reason: RefusalReason) -> device_message::Message {
    let ticket = RoundTicket::decode(invitation.ticket.as_ref().unwrap().ticket.as_slice()).unwrap();
    let no = InvitationRefused {
        reason: reason.into(),
        detail: "what it learns from".into(),
    };
    device_message::Message::InvitationReply(InvitationReply {
        round: ticket.round,
        reply: Some(invitation_reply::Reply::Refused(no)),
    })
}

/// Enrols a device and has it obey; the probes of release `bad` fail on it.
pub async fn obedient(fleet: &Fleet, name: &str, bad: u32) -> mpsc::Receiver<RoundInvitation> {
    let identity = fleet.join(TokenRole::Device, name).await;
    let behaviour = Obedient {
        bad,
        ..Obedient::default()
    };
    behaviour.run(fleet, &identity, hello(name)).await
}
