//! The session with the controller: hello, desired state and invitations down, observed state and heartbeats up.
//!
//! Both sides are level-triggered: what is lost with a session is said again in the next.

pub mod backoff;
pub mod pace;

use std::time::Duration;

use fieldfare_fleet::install::is_overtaken;
use fieldfare_fleet::{Backoff, CapabilityProfile, Generation, RoundId};
use fieldfare_member::ticket::claimed_round;
use fieldfare_proto::PROTOCOL_VERSION;
use fieldfare_proto::v1::device_gateway_client::DeviceGatewayClient;
use fieldfare_proto::v1::{
    self, DeviceMessage, GatewayMessage, Heartbeat, Hello, InvitationReply, RefusalReason, RoundInvitation, RoundRef,
    TrainingReadiness, Welcome, device_message::Message as Up, gateway_message::Message as Down, invitation_reply,
};
use fieldfare_tls::{ConnectError, Endpoint, ExpectedServer, IdentityHandle, ServerTrust, TimeSource, connect};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::config::{AgentConfig, Settings, label_pairs};
use crate::install::Desired;
use crate::limits::{HEARTBEAT_RANGE, INVITATIONS_PER_MINUTE, SESSION_QUEUE, WELCOME_TIMEOUT};
use crate::process;
use crate::rounds::told;
use crate::{clock, clock_proof};
use backoff::RECONNECTING;
use pace::{Admission, Pace};

/// What the session shows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Connection {
    /// Not connected, and why.
    Down(String),
    /// In a session.
    #[default]
    Connecting,
    /// In a session with this gateway.
    Up(String),
}

/// What a session is made of.
#[derive(Debug)]
pub struct Session {
    /// What enrolment fixed.
    pub config: AgentConfig,
    /// Who the device is.
    pub identity: IdentityHandle,
    /// The clock of certificates.
    pub time: TimeSource,
    /// What the installation says.
    pub observed: watch::Receiver<v1::ObservedState>,
    /// What the owner allows: the controller places by the memory that models may use.
    pub settings: watch::Receiver<Settings>,
    /// Whether the device could train.
    pub readiness: watch::Receiver<TrainingReadiness>,
    /// Where desired state goes.
    pub desired: watch::Sender<Option<Desired>>,
    /// Where invitations go.
    pub invitations: mpsc::Sender<RoundInvitation>,
    /// How fast invitations may come, over all sessions.
    pub pace: Pace,
    /// Answers to invitations.
    pub replies: mpsc::Receiver<InvitationReply>,
    /// Where the state of the connection is shown.
    pub connection: watch::Sender<Connection>,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the controller ended the session: {}", .0.message())]
    Status(Box<Status>),
    #[error("the controller closed the session")]
    Closed,
    #[error("the controller did not answer hello within {WELCOME_TIMEOUT:?}")]
    Silent,
    #[error("the controller speaks protocol {found}, this agent {PROTOCOL_VERSION}")]
    Protocol { found: u32 },
    #[error("the controller's first message was no welcome")]
    NoWelcome,
    #[error("the controller asks to come back: {reason}")]
    ComeBack {
        after: Duration,
        endpoint: Option<Endpoint>,
        reason: String,
    },
    #[error("the agent stops")]
    Stopped,
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl Session {
    /// Keeps a session until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut gateways = self.config.gateways().unwrap_or_default();
        let mut backoff = RECONNECTING;
        let mut turn = 0_usize;
        while let Some(gateway) = gateways.get(turn % gateways.len().max(1)).cloned() {
            self.connection.send_replace(Connection::Connecting);
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.once(&gateway, &mut backoff, &stop) => ended,
            };
            let reason = process::chain(&ended);
            tracing::info!(reason, gateway = %gateway, "no session");
            let behind = clock_proof::behind(self.time.now(), self.identity.current().certificate().validity, None);
            if let Some(behind) = behind {
                tracing::warn!(reason = %behind, "no controller can be heard before the clock is right");
            }
            self.connection.send_replace(Connection::Down(reason));
            let wait = match ended {
                Ended::Stopped => return,
                Ended::ComeBack { after, endpoint, .. } => {
                    if let Some(endpoint) = endpoint {
                        gateways.retain(|known| *known != endpoint);
                        gateways.insert(0, endpoint);
                        turn = 0;
                    }
                    after
                }
                _ => {
                    turn = turn.wrapping_add(1);
                    backoff.failed(clock::jitter())
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One session, from the connection to its end.
    async fn once(&mut self, gateway: &Endpoint, backoff: &mut Backoff, stop: &CancellationToken) -> Ended {
        match self.open(gateway).await {
            Ok((welcome, up, down)) => {
                backoff.succeeded();
                self.connection.send_replace(Connection::Up(gateway.to_string()));
                tracing::info!(gateway = %gateway, fence = welcome.session_fence, "in a session");
                self.converse(&welcome, &up, down, stop)
                    .await
                    .unwrap_or_else(|ended| ended)
            }
            Err(ended) => ended,
        }
    }

    fn hello(&mut self) -> Hello {
        Hello {
            protocol_version: PROTOCOL_VERSION,
            features: Vec::new(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            profile: Some(self.profile()),
            observed: Some(self.observed.borrow_and_update().clone()),
            labels: label_pairs(&self.config.labels),
            training: Some(*self.readiness.borrow_and_update()),
        }
    }

    /// The profile with the memory that the owner grants now.
    fn profile(&mut self) -> v1::CapabilityProfile {
        let model_memory = self.settings.borrow_and_update().model_memory;
        let profile = CapabilityProfile {
            model_memory,
            ..self.config.profile.clone()
        };
        (&profile).into()
    }

    async fn open(
        &mut self,
        gateway: &Endpoint,
    ) -> Result<(Welcome, mpsc::Sender<DeviceMessage>, Streaming<GatewayMessage>), Ended> {
        let trust = ServerTrust::by(&self.identity.current(), ExpectedServer::Controller);
        let link = connect(gateway, Some(&self.identity), &trust, &self.time).await?;
        let (up, stream) = mpsc::channel(SESSION_QUEUE);
        send(&up, Up::Hello(self.hello())).await?;
        let mut client = DeviceGatewayClient::new(link.channel());
        let opened = timeout(WELCOME_TIMEOUT, client.session(ReceiverStream::new(stream))).await;
        let mut down = opened.map_err(|_| Ended::Silent)??.into_inner();
        let first = timeout(WELCOME_TIMEOUT, down.message())
            .await
            .map_err(|_| Ended::Silent)??;
        match first.ok_or(Ended::Closed)?.message {
            Some(Down::Welcome(welcome)) if welcome.protocol_version == PROTOCOL_VERSION => Ok((welcome, up, down)),
            Some(Down::Welcome(welcome)) => Err(Ended::Protocol {
                found: welcome.protocol_version,
            }),
            Some(Down::ComeBack(come_back)) => Err(self.come_back(come_back)),
            _ => Err(Ended::NoWelcome),
        }
    }

    fn come_back(&self, message: v1::ComeBack) -> Ended {
        let after = backoff::asked_for(message.after_ms);
        Ended::ComeBack {
            after,
            endpoint: message.endpoint.parse().ok(),
            reason: message.reason,
        }
    }

    async fn converse(
        &mut self,
        welcome: &Welcome,
        up: &mpsc::Sender<DeviceMessage>,
        mut down: Streaming<GatewayMessage>,
        stop: &CancellationToken,
    ) -> Result<Ended, Ended> {
        let (shortest, longest) = HEARTBEAT_RANGE;
        let interval = Duration::from_millis(u64::from(welcome.heartbeat_interval_ms)).clamp(shortest, longest);
        let mut heartbeat = tokio::time::interval_at(Instant::now() + interval, interval);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(Ended::Stopped),
                message = down.message() => match message?.ok_or(Ended::Closed)?.message {
                    Some(Down::Desired(state)) => {
                        let artifact_endpoint = welcome.artifact_endpoint.clone();
                        self.take_desired(Desired { state, artifact_endpoint });
                    }
                    Some(Down::Invitation(invitation)) => self.invite(invitation, up).await?,
                    Some(Down::ComeBack(message)) => return Err(self.come_back(message)),
                    Some(Down::Welcome(_)) | None => {}
                },
                _ = heartbeat.tick() => send(up, Up::Heartbeat(self.beat())).await?,
                changed = self.observed.changed() => {
                    changed.map_err(|_| Ended::Stopped)?;
                    let state = self.observed.borrow_and_update().clone();
                    send(up, Up::Observed(state)).await?;
                }
                changed = self.settings.changed() => {
                    changed.map_err(|_| Ended::Stopped)?;
                    let profile = self.profile();
                    send(up, Up::Profile(profile)).await?;
                }
                changed = self.readiness.changed() => {
                    changed.map_err(|_| Ended::Stopped)?;
                    send(up, Up::Heartbeat(self.beat())).await?;
                }
                Some(reply) = self.replies.recv() => send(up, Up::InvitationReply(reply)).await?,
            }
        }
    }

    /// Passes desired state on, unless a newer one was heard before.
    fn take_desired(&self, desired: Desired) {
        self.desired.send_if_modified(|known| {
            let generation = |desired: &Desired| desired.state.generation.map_or(Generation::ZERO, Generation::from);
            let overtaken = is_overtaken(generation(&desired), known.as_ref().map(generation));
            if !overtaken {
                *known = Some(desired);
            }
            !overtaken
        });
    }

    fn beat(&mut self) -> Heartbeat {
        Heartbeat {
            sent_unix_ms: i64::try_from(clock::now().unix_ms()).unwrap_or(i64::MAX),
            training: Some(*self.readiness.borrow_and_update()),
        }
    }

    /// Passes an invitation on, or refuses it at once where as many wait as may, or where they come too fast.
    async fn invite(&mut self, invitation: RoundInvitation, up: &mpsc::Sender<DeviceMessage>) -> Result<(), Ended> {
        if let Admission::Refused { say } = self.pace.admit(Instant::now()) {
            if let Some(refused) = say {
                tracing::warn!(
                    refused,
                    "invitations are refused unseen: more than {INVITATIONS_PER_MINUTE} came in a minute"
                );
            }
            // Nobody waits for a controller that reads no answers.
            if let Some(round) = claimed_round(invitation.ticket.as_ref()) {
                let message = Some(Up::InvitationReply(busy(&round)));
                let _ = up.try_send(DeviceMessage { message });
            }
            return Ok(());
        }
        let Err(full) = self.invitations.try_send(invitation) else {
            return Ok(());
        };
        let invitation = full.into_inner();
        let Some(round) = claimed_round(invitation.ticket.as_ref()) else {
            tracing::warn!("an invitation without a readable ticket was passed over");
            return Ok(());
        };
        tracing::warn!(%round, "an invitation is refused: too many wait");
        send(up, Up::InvitationReply(busy(&round))).await
    }
}

fn busy(round: &RoundId) -> InvitationReply {
    InvitationReply {
        round: Some(RoundRef::from(round)),
        reply: Some(invitation_reply::Reply::Refused(told(RefusalReason::Busy))),
    }
}

async fn send(up: &mpsc::Sender<DeviceMessage>, message: Up) -> Result<(), Ended> {
    up.send(DeviceMessage { message: Some(message) })
        .await
        .map_err(|_| Ended::Closed)
}
