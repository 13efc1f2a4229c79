//! One session of one device: opened with a fence, told of every new desired state and invitation, ended by silence, by a newer
//! session or by the shutdown of the process.

use std::collections::BTreeSet;
use std::sync::Arc;

use fieldfare_fleet::{DeviceId, Timestamp};
use fieldfare_proto::v1::{
    DesiredState, DeviceMessage, GatewayMessage, Hello, SessionRecord, Welcome, device_message, gateway_message,
};
use fieldfare_tls::PeerIdentity;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tonic::{Code, Status, Streaming};

use super::{come_back, invitations, observed};
use crate::limits::{
    COME_BACK_MAX, FREE_TEXT_BYTES_MAX, HEARTBEAT_INTERVAL, HELLO_TIMEOUT, SESSION_QUEUE, SESSION_SILENCE,
    SESSION_UNREAD, TICK,
};
use crate::mirror::Topic;
use crate::plane::ControlPlane;
use crate::records::attempt;
use crate::refusal::{Refusal, chain};
use crate::rollout::desired::desired_state;

type Answers = mpsc::Sender<Result<GatewayMessage, Status>>;

/// Why a session ended without anybody's fault.
enum End {
    /// The device closed the stream, or the connection broke.
    Gone,
    /// The process is ending.
    Drained,
}

struct Session {
    plane: Arc<ControlPlane>,
    device: DeviceId,
    fence: u64,
    answers: Answers,
    sent: Option<DesiredState>,
    invited: BTreeSet<invitations::Opening>,
    /// When the device was first found to have left the whole queue unread.
    unread_since: Option<Timestamp>,
}

/// Serves a session to its end.
pub(super) async fn serve(
    plane: Arc<ControlPlane>,
    peer: PeerIdentity,
    device: DeviceId,
    mut incoming: Streaming<DeviceMessage>,
    answers: Answers,
) {
    let shutdown = plane.shutdown.clone();
    let opened = tokio::select! {
        opened = open(&plane, device, &mut incoming, &answers) => opened,
        () = shutdown.cancelled() => Err(Refusal::ShuttingDown),
    };
    let mut session = match opened {
        Ok(session) => session,
        Err(refusal) => {
            // Who says hello to nobody's understanding, or not at all, is seen where people look for the device.
            if refusal.is_the_callers() {
                note_refusal(&plane, device, &refusal);
            }
            return say(&peer, &answers, Err(refusal.into()));
        }
    };
    let ended = session.run(&mut incoming).await;
    let fence = session.fence;
    plane.presence.closed(device, fence);
    if let Err(error) = close(&plane, device, fence).await {
        tracing::debug!(%device, fence, error = chain(&error), "the end of a session is not recorded");
    }
    match ended {
        Ok(End::Gone) => tracing::debug!(%device, fence, "the device went"),
        Ok(End::Drained) => say(
            &peer,
            &answers,
            Ok(come_back(COME_BACK_MAX, "the controller is restarting")),
        ),
        Err(refusal) => {
            // A device that fell silent may be without a network.
            if refusal.is_the_callers() && !matches!(refusal, Refusal::TooLate(_)) {
                note_refusal(&plane, device, &refusal);
            }
            say(&peer, &answers, Err(refusal.into()));
        }
    }
}

/// The last word of a session. A device that leaves it no room is hung up on: its stream would stay open for as long as it pleases.
fn say(peer: &PeerIdentity, answers: &Answers, last: Result<GatewayMessage, Status>) {
    if let Err(TrySendError::Full(_)) = answers.try_send(last) {
        peer.hang_up();
    }
}

fn note_refusal(plane: &ControlPlane, device: DeviceId, refusal: &Refusal) {
    let reason = chain(refusal);
    tracing::warn!(%device, reason, "a session was refused");
    let cut = reason
        .chars()
        .filter(|c| !c.is_control())
        .take(FREE_TEXT_BYTES_MAX)
        .collect();
    plane.presence.refused(device, cut, plane.clock.now());
}

/// Takes the hello, fences older sessions off, and welcomes the device.
async fn open(
    plane: &Arc<ControlPlane>,
    device: DeviceId,
    incoming: &mut Streaming<DeviceMessage>,
    answers: &Answers,
) -> Result<Session, Refusal> {
    let hello = hello(incoming).await?;
    let seen = observed::Seen::read(&hello)?;
    let fence = take_fence(plane, device).await?;
    plane.presence.opened(device, fence, plane.clock.now());
    plane.presence.heard(device, fence, plane.clock.now(), hello.training);
    plane.metrics.session_opened();
    seen.note(plane, device, fence).await?;
    let welcome = Welcome {
        protocol_version: crate::access::check_protocol("hello.protocol_version", hello.protocol_version)?,
        features: Vec::new(),
        session_fence: fence,
        heartbeat_interval_ms: u32::try_from(HEARTBEAT_INTERVAL.as_millis()).unwrap_or(u32::MAX),
        artifact_endpoint: plane.artifact_endpoint.to_string(),
        server_unix_ms: plane.unix_ms(),
    };
    let mut session = Session {
        plane: Arc::clone(plane),
        device,
        fence,
        answers: answers.clone(),
        sent: None,
        invited: BTreeSet::new(),
        unread_since: None,
    };
    session.send(gateway_message::Message::Welcome(welcome));
    Ok(session)
}

async fn hello(incoming: &mut Streaming<DeviceMessage>) -> Result<Hello, Refusal> {
    let late = |_| Refusal::TooLate(format!("no hello within {} s", HELLO_TIMEOUT.as_secs()));
    let first = tokio::time::timeout(HELLO_TIMEOUT, incoming.message())
        .await
        .map_err(late)?;
    let first = first.map_err(|status| Refusal::invalid("message", status.message()))?;
    match first.and_then(|message| message.message) {
        Some(device_message::Message::Hello(hello)) => {
            crate::access::check_protocol("hello.protocol_version", hello.protocol_version)?;
            Ok(hello)
        }
        _ => Err(Refusal::invalid("message", "the first message of a session is `hello`")),
    }
}

async fn take_fence(plane: &ControlPlane, device: DeviceId) -> Result<u64, Refusal> {
    let key = plane.keys.session(device);
    Ok(attempt!("the session", plane.records, change, {
        let mut record: SessionRecord = change.read(&key).await?.unwrap_or_default();
        record.fence += 1;
        record.incarnation.clone_from(&plane.incarnation);
        record.open = true;
        record.changed_unix_ms = plane.unix_ms();
        change.put(key.clone(), &mut record);
        record.fence
    }))
}

async fn close(plane: &ControlPlane, device: DeviceId, fence: u64) -> Result<(), Refusal> {
    let key = plane.keys.session(device);
    attempt!("the session", plane.records, change, {
        let record: Option<SessionRecord> = change.read(&key).await?;
        if let Some(mut record) = record.filter(|record| record.fence == fence && record.open) {
            record.open = false;
            record.changed_unix_ms = plane.unix_ms();
            change.put(key.clone(), &mut record);
        }
    });
    Ok(())
}

impl Session {
    /// Puts a message into the queue, if there is room. What did not go in is still to be said.
    fn send(&mut self, message: gateway_message::Message) -> bool {
        match self.answers.try_send(Ok(GatewayMessage { message: Some(message) })) {
            Err(TrySendError::Full(_)) => {
                self.unread_since.get_or_insert_with(|| self.plane.clock.now());
                false
            }
            // A device that is gone is noticed where messages are received.
            Ok(()) | Err(TrySendError::Closed(_)) => {
                self.unread_since = None;
                true
            }
        }
    }

    async fn run(&mut self, incoming: &mut Streaming<DeviceMessage>) -> Result<End, Refusal> {
        let mut desired = self.plane.mirror.subscribe(Topic::Desired);
        let mut rounds = self.plane.mirror.subscribe(Topic::Rounds);
        let mut tick = tokio::time::interval(TICK);
        let shutdown = self.plane.shutdown.clone();
        loop {
            self.tell_desired();
            self.invite()?;
            tokio::select! {
                () = shutdown.cancelled() => return Ok(End::Drained),
                () = self.answers.closed() => return Ok(End::Gone),
                message = incoming.message() => match message {
                    Ok(Some(DeviceMessage { message: Some(message) })) => self.take(message).await?,
                    // Of a kind that a newer version knows; what is not understood changes nothing.
                    Ok(Some(DeviceMessage { message: None })) => {}
                    // Beyond the limit, or no message at all; a connection that broke has other codes.
                    Err(status) if matches!(status.code(), Code::OutOfRange | Code::Internal) => {
                        return Err(Refusal::invalid("message", status.message()));
                    }
                    Ok(None) | Err(_) => return Ok(End::Gone),
                },
                _ = desired.changed() => {}
                _ = rounds.changed() => {}
                // The device's own class and labels matter too; they change by its own messages, which the mirror shows a
                // moment later.
                _ = tick.tick() => {}
            }
            self.check()?;
        }
    }

    /// Ends the session when a newer one of the same device is open here or elsewhere, or when the device is silent or reads nothing.
    fn check(&self) -> Result<(), Refusal> {
        let newest = self
            .plane
            .mirror
            .read()
            .sessions
            .get(&self.device)
            .map_or(0, |record| record.fence);
        if newest > self.fence || !self.plane.presence.is_current(self.device, self.fence) {
            self.plane.metrics.session_fenced();
            return Err(Refusal::Stale(format!(
                "session {} of {} was replaced by a newer one",
                self.fence, self.device
            )));
        }
        self.check_read()?;
        let heard = self
            .plane
            .presence
            .of(self.device)
            .map(|sign| sign.last_heard)
            .unwrap_or_default();
        if self.plane.clock.now().since(heard) > SESSION_SILENCE {
            return Err(Refusal::TooLate(format!(
                "no message within {} s",
                SESSION_SILENCE.as_secs()
            )));
        }
        crate::access::is_enrolled(self.device, &self.plane.mirror)
    }

    fn tell_desired(&mut self) {
        let desired = desired_state(&self.plane.mirror.read(), self.device);
        if self.sent.as_ref() != Some(&desired) && self.send(gateway_message::Message::Desired(desired.clone())) {
            self.sent = Some(desired);
        }
    }

    fn invite(&mut self) -> Result<(), Refusal> {
        for (opening, invitation) in invitations::open_for(&self.plane, self.device, &self.invited)? {
            if self.send(gateway_message::Message::Invitation(invitation)) {
                self.invited.insert(opening);
            }
        }
        Ok(())
    }

    /// Ends the session of a device that sends and answers pings, and reads nothing.
    fn check_read(&self) -> Result<(), Refusal> {
        let since = self.unread_since.map(|since| self.plane.clock.now().since(since));
        if since.is_some_and(|since| since > SESSION_UNREAD) {
            return Err(Refusal::Unread(format!(
                "{SESSION_QUEUE} messages were left unread for {} s",
                SESSION_UNREAD.as_secs()
            )));
        }
        Ok(())
    }

    async fn take(&mut self, message: device_message::Message) -> Result<(), Refusal> {
        let readiness = match &message {
            device_message::Message::Heartbeat(heartbeat) => heartbeat.training,
            _ => None,
        };
        let now = self.plane.clock.now();
        if !self.plane.presence.heard(self.device, self.fence, now, readiness) {
            return self.check();
        }
        match message {
            device_message::Message::Hello(_) => Err(Refusal::invalid("message", "`hello` is the first message only")),
            device_message::Message::Heartbeat(heartbeat) => {
                let presence = &self.plane.presence;
                presence.told_time(self.device, self.fence, now, heartbeat.sent_unix_ms);
                Ok(())
            }
            device_message::Message::Observed(state) => {
                observed::Seen::of_state(state)?
                    .note(&self.plane, self.device, self.fence)
                    .await
            }
            device_message::Message::Profile(profile) => {
                observed::Seen::of_profile(profile)?
                    .note(&self.plane, self.device, self.fence)
                    .await
            }
            device_message::Message::InvitationReply(reply) => {
                invitations::take_reply(&self.plane, self.device, reply).await
            }
        }
    }
}
