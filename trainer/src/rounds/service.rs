//! The RPCs. Only the device that a ticket names is answered, and only about the round that the ticket names.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fieldfare_fleet::round::{Answer, NotAdmitted, Refused};
use fieldfare_fleet::{ByteSize, DeviceId, Digest, DigestError};
use fieldfare_member::ticket::Ticket;
use fieldfare_proto::v1::rounds_server::Rounds;
use fieldfare_proto::v1::{
    ConfigureRequest, ConfigureResponse, ContributeRequest, ContributeResponse, ContributionHeader, SignedTicket,
    configure_response, contribute_request,
};
use fieldfare_tls::{IdentityHandle, PeerIdentity, Role, TimeSource};
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{Semaphore, oneshot, watch};
use tonic::{Code, Extensions, Request, Response, Status, Streaming};

use super::rejection::Rejection;
use super::store::digest;
use super::{Offer, OpenRound, Put};
use crate::failure::chain;
use crate::limits::{CHUNK_BYTES, UPLOAD_BYTES_PER_SECOND_MIN, UPLOAD_SILENCE, UPLOADS_AT_ONCE};

/// Serves the round that is open, if one is.
#[derive(Debug)]
pub struct RoundsService {
    identity: IdentityHandle,
    time: TimeSource,
    open: watch::Receiver<Option<OpenRound>>,
    patience: Patience,
    uploads: Semaphore,
    /// Whose contribution is being received: one of each device, so that nobody takes the turns of others.
    uploading: Mutex<BTreeSet<DeviceId>>,
}

/// How long uploads are waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Longest silence between two messages.
    pub silence: Duration,
    /// Slowest rate, in bytes per second, at which a whole contribution may come.
    pub bytes_per_second_min: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            silence: UPLOAD_SILENCE,
            bytes_per_second_min: UPLOAD_BYTES_PER_SECOND_MIN,
        }
    }
}

impl Patience {
    /// How long a contribution of so many bytes may take from its first byte to its last.
    fn with(self, bytes: usize) -> Duration {
        let at_least = Duration::from_secs(bytes as u64 / self.bytes_per_second_min.max(1));
        self.silence.saturating_add(at_least)
    }
}

/// An upload of a device, for as long as it lasts.
struct Upload<'a> {
    service: &'a RoundsService,
    device: DeviceId,
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        self.service.uploading().remove(&self.device);
    }
}

impl RoundsService {
    pub(super) fn new(
        identity: IdentityHandle,
        time: TimeSource,
        open: watch::Receiver<Option<OpenRound>>,
        patience: Patience,
    ) -> Self {
        Self {
            identity,
            time,
            open,
            patience,
            uploads: Semaphore::new(UPLOADS_AT_ONCE),
            uploading: Mutex::default(),
        }
    }

    fn uploading(&self) -> std::sync::MutexGuard<'_, BTreeSet<DeviceId>> {
        self.uploading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn upload(&self, device: DeviceId) -> Result<Upload<'_>, Rejection> {
        let service = self;
        let is_first = self.uploading().insert(device);
        // Not made where it is another's: its end would be taken for that of the first.
        is_first.then(|| Upload { service, device }).ok_or(Rejection::AtOnce)
    }

    fn turn_away(&self, peer: &PeerIdentity, rejection: Rejection) -> Status {
        let open = self.open.borrow().clone();
        turn_away(peer, open.as_ref(), rejection)
    }

    /// The open round, if the caller holds a ticket for it.
    fn admit(&self, peer: &PeerIdentity, ticket: Option<SignedTicket>) -> Result<(Ticket, OpenRound), Rejection> {
        let principal = peer.principal().map_err(|error| Rejection::Peer(error.to_string()))?;
        let own = self.identity.current();
        let ticket = Ticket::shown_to(&own, principal, ticket.as_ref(), self.time.now())?;
        let open = self.open.borrow().clone().ok_or(Rejection::NoRound)?;
        open.round.attempt().admit(&ticket.round, ticket.configuration)?;
        Ok((ticket, open))
    }

    async fn take(
        &self,
        peer: &PeerIdentity,
        mut parts: Streaming<ContributeRequest>,
    ) -> Result<ContributeResponse, Rejection> {
        let Some(contribute_request::Part::Header(header)) = next(&mut parts, self.patience).await? else {
            return Err(Rejection::Malformed("the first message has no header".to_owned()));
        };
        let (ticket, open) = self.admit(peer, header.ticket.clone())?;
        let told = check(&header, &open)?;
        let device = ticket.device;
        // Before anything is done for it: what is kept may take as long to read as it took to come.
        let upload = self.upload(device)?;
        let store = open.round.store.clone();
        if !on_disk(move || store.has(&device, told)).await?? {
            // Who waits for its turn holds no bytes yet.
            let _turn = self.uploads.acquire().await.map_err(|_| Rejection::NoRound)?;
            let length = open.round.codec.byte_length();
            let within = self.patience.with(length);
            let received = tokio::time::timeout(within, receive(&mut parts, length, self.patience)).await;
            let bytes = received.map_err(|_| Rejection::TooSlow(within))??;
            let found = digest(&bytes);
            if found != told {
                return Err(Rejection::OtherDigest { found, told });
            }
            open.round.codec.validate(&bytes).map_err(Rejection::Garbage)?;
            let store = open.round.store.clone();
            match on_disk(move || store.put(&device, &bytes)).await?? {
                Put::Stored | Put::Repeated => fieldfare_crash::point("trainer.contribution.stored"),
                Put::Conflicts(kept) => return Err(Refused::Conflicting { device, kept }.into()),
            }
        }
        drop(upload);
        let (answer, answered) = oneshot::channel();
        let bytes = ByteSize::new(header.length_bytes);
        let offer = Offer::Contributed {
            device,
            contribution: told,
            bytes,
            answer,
        };
        open.offers.send(offer).await.map_err(|_| Rejection::NoRound)?;
        let answer = answered.await.map_err(|_| Rejection::NoRound)??;
        Ok(ContributeResponse {
            sha256: told.as_bytes().to_vec(),
            repeated: answer == Answer::Known,
        })
    }
}

/// Work with files, which is none of the runtime's.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Rejection> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Rejection::NoRound)
}

/// Says why a device is turned away, and counts it where it is to blame and a round is open.
fn turn_away(peer: &PeerIdentity, open: Option<&OpenRound>, rejection: Rejection) -> Status {
    let device = peer.principal().ok().and_then(|principal| match &principal.role {
        Role::Device(_, device) => Some(*device),
        _ => None,
    });
    let who = device.map_or_else(|| "no device".to_owned(), |device| device.to_string());
    tracing::warn!(address = %peer.address(), device = who, error = chain(&rejection), "a device was turned away");
    if let (Some(why), Some(device), Some(open)) = (rejection.blame(), device, open) {
        open.turned_away.send_modify(|tally| tally.note(why, device));
    }
    rejection.into()
}

/// Hangs up on a device that has not read everything within this time, for which the other end of what is given lives. It would hold
/// the round's state for as long as it answers pings: a stream that nobody reads cannot end by itself.
async fn hang_up_unless_read(peer: PeerIdentity, open: OpenRound, within: Duration, unread: oneshot::Receiver<()>) {
    if tokio::time::timeout(within, unread).await.is_err() {
        turn_away(&peer, Some(&open), Rejection::TooSlow(within));
        peer.hang_up();
    }
}

/// Checks what a header promises; its digest.
fn check(header: &ContributionHeader, open: &OpenRound) -> Result<Digest, Rejection> {
    let malformed = |field: &str, error: DigestError| Rejection::Malformed(format!("field `{field}`: {error}"));
    let configuration = Digest::try_from(header.configuration_sha256.as_slice());
    let configuration = configuration.map_err(|error| malformed("configuration_sha256", error))?;
    open.round.attempt().announced(configuration, header.length_bytes)?;
    let told = Digest::try_from(header.sha256.as_slice());
    told.map_err(|error| malformed("sha256", error))
}

async fn next(
    parts: &mut Streaming<ContributeRequest>,
    patience: Patience,
) -> Result<Option<contribute_request::Part>, Rejection> {
    let message = tokio::time::timeout(patience.silence, parts.message())
        .await
        .map_err(|_| Rejection::Silent(patience.silence))?;
    let message = message.map_err(|status| match status.code() {
        Code::OutOfRange => Rejection::TooLarge(status.message().to_owned()),
        _ => Rejection::BrokenOff(status.message().to_owned()),
    })?;
    Ok(message.and_then(|message| message.part))
}

/// Exactly `length` bytes, or an error at the first one too many.
async fn receive(
    parts: &mut Streaming<ContributeRequest>,
    length: usize,
    patience: Patience,
) -> Result<Vec<u8>, Rejection> {
    let mut bytes = Vec::with_capacity(length);
    let expected = length as u64;
    loop {
        match next(parts, patience).await? {
            // A stream of these would never reach the length.
            Some(contribute_request::Part::Chunk(chunk)) if chunk.is_empty() => {
                return Err(Rejection::Malformed("a chunk without bytes".to_owned()));
            }
            Some(contribute_request::Part::Chunk(chunk)) => {
                let told = (bytes.len() + chunk.len()) as u64;
                if told > expected {
                    return Err(NotAdmitted::Length { told, expected }.into());
                }
                bytes.extend_from_slice(&chunk);
            }
            Some(contribute_request::Part::Header(_)) => {
                return Err(Rejection::Malformed("a second header".to_owned()));
            }
            None if bytes.len() == length => return Ok(bytes),
            None => {
                let told = bytes.len() as u64;
                return Err(NotAdmitted::Length { told, expected }.into());
            }
        }
    }
}

fn peer(extensions: &Extensions) -> Result<PeerIdentity, Rejection> {
    let peer = extensions.get::<PeerIdentity>().cloned();
    peer.ok_or_else(|| Rejection::Peer("the connection has no identity".to_owned()))
}

fn part(part: configure_response::Part) -> Result<ConfigureResponse, Status> {
    Ok(ConfigureResponse { part: Some(part) })
}

/// Whether the round takes a contribution of the device, should it train now.
async fn join(open: &OpenRound, device: DeviceId) -> Result<(), Rejection> {
    let (answer, answered) = oneshot::channel();
    let offer = Offer::Joined { device, answer };
    open.offers.send(offer).await.map_err(|_| Rejection::NoRound)?;
    answered.await.map_err(|_| Rejection::NoRound)??;
    Ok(())
}

#[tonic::async_trait]
impl Rounds for RoundsService {
    type ConfigureStream = Pin<Box<dyn Stream<Item = Result<ConfigureResponse, Status>> + Send>>;

    async fn configure(&self, request: Request<ConfigureRequest>) -> Result<Response<Self::ConfigureStream>, Status> {
        let peer = peer(request.extensions())?;
        let admitted = match self.admit(&peer, request.into_inner().ticket) {
            Ok((ticket, open)) => join(&open, ticket.device).await.map(|()| (ticket, open)),
            Err(rejection) => Err(rejection),
        };
        let (ticket, open) = admitted.map_err(|rejection| self.turn_away(&peer, rejection))?;
        tracing::debug!(device = %ticket.device, round = %open.round.id, "configured");
        let configuration = configure_response::Part::Configuration(open.round.configuration.to_vec());
        let state = open.round.state.clone();
        let (reading, unread) = oneshot::channel();
        let within = self.patience.with(state.len());
        tokio::spawn(hang_up_unless_read(peer, open, within, unread));
        let chunks = (0..state.len()).step_by(CHUNK_BYTES).map(move |start| {
            let _reading: &oneshot::Sender<()> = &reading;
            let chunk: Bytes = state.slice(start..state.len().min(start + CHUNK_BYTES));
            part(configure_response::Part::StateChunk(chunk.to_vec()))
        });
        let parts = stream::iter([part(configuration)]).chain(stream::iter(chunks));
        Ok(Response::new(Box::pin(parts)))
    }

    async fn contribute(
        &self,
        request: Request<Streaming<ContributeRequest>>,
    ) -> Result<Response<ContributeResponse>, Status> {
        let peer = peer(request.extensions())?;
        let taken = self.take(&peer, request.into_inner()).await;
        taken
            .map(Response::new)
            .map_err(|rejection| self.turn_away(&peer, rejection))
    }
}
