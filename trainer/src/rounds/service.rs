//! The RPCs. Only the device that a ticket names is answered, and only about the round that the ticket names.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use fieldfare_fleet::round::{Answer, NotAdmitted, Refused};
use fieldfare_fleet::{ByteSize, DeviceId, Digest, DigestError};
use fieldfare_member::ticket::{Ticket, TicketError};
use fieldfare_proto::v1::rounds_server::Rounds;
use fieldfare_proto::v1::{
    ConfigureRequest, ConfigureResponse, ContributeRequest, ContributeResponse, ContributionHeader, SignedTicket,
    configure_response, contribute_request,
};
use fieldfare_tls::{IdentityHandle, PeerIdentity, TimeSource};
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{Semaphore, oneshot, watch};
use tonic::{Extensions, Request, Response, Status, Streaming};

use super::store::digest;
use super::{Offer, OpenRound, Put, StoreError};
use crate::failure::chain;
use crate::limits::{CHUNK_BYTES, UPLOAD_SILENCE, UPLOADS_AT_ONCE};

/// Serves the round that is open, if one is.
#[derive(Debug)]
pub struct RoundsService {
    identity: IdentityHandle,
    time: TimeSource,
    open: watch::Receiver<Option<OpenRound>>,
    uploads: Arc<Semaphore>,
}

/// Why a device is turned away.
#[derive(Debug, thiserror::Error)]
enum TurnedAway {
    #[error("{0}")]
    Peer(String),
    #[error(transparent)]
    Ticket(#[from] TicketError),
    #[error("no round is under way here")]
    NoRound,
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    #[error("{0}")]
    Malformed(String),
    #[error("the bytes have digest {found}, announced was {told}")]
    OtherDigest { found: Digest, told: Digest },
    #[error("the bytes are no contribution: {0}")]
    Garbage(fieldfare_privacy::ContributionError),
    #[error("nothing came for {UPLOAD_SILENCE:?}")]
    Silent,
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the contribution could not be kept")]
    Store(#[from] StoreError),
    #[error("the upload broke off: {0}")]
    BrokenOff(String),
}

impl From<TurnedAway> for Status {
    fn from(error: TurnedAway) -> Self {
        let text = chain(&error);
        match error {
            TurnedAway::Store(_) => {
                tracing::error!(error = text, "a contribution could not be kept");
                Self::unavailable("the contribution could not be kept")
            }
            TurnedAway::Peer(_) => Self::unauthenticated(text),
            TurnedAway::Ticket(TicketError::Malformed(_)) | TurnedAway::Malformed(_) => Self::invalid_argument(text),
            TurnedAway::Ticket(TicketError::Over { .. }) => Self::failed_precondition(text),
            TurnedAway::Ticket(_) => Self::permission_denied(text),
            TurnedAway::NotAdmitted(NotAdmitted::Length { .. })
            | TurnedAway::OtherDigest { .. }
            | TurnedAway::Garbage(_) => Self::invalid_argument(text),
            TurnedAway::NoRound | TurnedAway::Silent | TurnedAway::BrokenOff(_) => Self::unavailable(text),
            TurnedAway::Refused(Refused::Early { .. }) => Self::unavailable(text),
            TurnedAway::Refused(Refused::Conflicting { .. }) => Self::already_exists(text),
            TurnedAway::Refused(_) | TurnedAway::NotAdmitted(_) => Self::failed_precondition(text),
        }
    }
}

impl RoundsService {
    pub(super) fn new(identity: IdentityHandle, time: TimeSource, open: watch::Receiver<Option<OpenRound>>) -> Self {
        Self {
            identity,
            time,
            open,
            uploads: Arc::new(Semaphore::new(UPLOADS_AT_ONCE)),
        }
    }

    /// The open round, if the caller holds a ticket for it.
    fn admit(&self, peer: &PeerIdentity, ticket: Option<SignedTicket>) -> Result<(Ticket, OpenRound), TurnedAway> {
        let principal = peer.principal().map_err(|error| TurnedAway::Peer(error.to_string()))?;
        let own = self.identity.current();
        let ticket = Ticket::shown_to(&own, principal, ticket.as_ref(), self.time.now())?;
        let open = self.open.borrow().clone().ok_or(TurnedAway::NoRound)?;
        open.round.attempt().admit(&ticket.round, ticket.configuration)?;
        Ok((ticket, open))
    }

    async fn take(
        &self,
        peer: &PeerIdentity,
        mut parts: Streaming<ContributeRequest>,
    ) -> Result<ContributeResponse, TurnedAway> {
        let Some(contribute_request::Part::Header(header)) = next(&mut parts).await? else {
            return Err(TurnedAway::Malformed("the first message has no header".to_owned()));
        };
        let (ticket, open) = self.admit(peer, header.ticket.clone())?;
        let told = check(&header, &open)?;
        let store = &open.round.store;
        let device = ticket.device;
        let known = store.kept(&device)?.filter(|kept| kept.digest == told);
        if known.is_none() {
            // Who waits for its turn holds no bytes yet.
            let _turn = self.uploads.acquire().await.map_err(|_| TurnedAway::NoRound)?;
            let bytes = receive(&mut parts, open.round.codec.byte_length()).await?;
            let found = digest(&bytes);
            if found != told {
                return Err(TurnedAway::OtherDigest { found, told });
            }
            open.round.codec.validate(&bytes).map_err(TurnedAway::Garbage)?;
            let (store, kept) = (store.clone(), bytes);
            let put = tokio::task::spawn_blocking(move || store.put(&device, &kept)).await;
            match put.map_err(|_| TurnedAway::NoRound)?? {
                Put::Stored | Put::Repeated => fieldfare_crash::point("trainer.contribution.stored"),
                Put::Conflicts(kept) => return Err(Refused::Conflicting { device, kept }.into()),
            }
        }
        let (answer, answered) = oneshot::channel();
        let bytes = ByteSize::new(header.length_bytes);
        let offer = Offer::Contributed {
            device,
            contribution: told,
            bytes,
            answer,
        };
        open.offers.send(offer).await.map_err(|_| TurnedAway::NoRound)?;
        let answer = answered.await.map_err(|_| TurnedAway::NoRound)??;
        Ok(ContributeResponse {
            sha256: told.as_bytes().to_vec(),
            repeated: answer == Answer::Known,
        })
    }
}

/// Checks what a header promises; its digest.
fn check(header: &ContributionHeader, open: &OpenRound) -> Result<Digest, TurnedAway> {
    let malformed = |field: &str, error: DigestError| TurnedAway::Malformed(format!("field `{field}`: {error}"));
    let configuration = Digest::try_from(header.configuration_sha256.as_slice());
    let configuration = configuration.map_err(|error| malformed("configuration_sha256", error))?;
    open.round.attempt().announced(configuration, header.length_bytes)?;
    let told = Digest::try_from(header.sha256.as_slice());
    told.map_err(|error| malformed("sha256", error))
}

async fn next(parts: &mut Streaming<ContributeRequest>) -> Result<Option<contribute_request::Part>, TurnedAway> {
    let message = tokio::time::timeout(UPLOAD_SILENCE, parts.message())
        .await
        .map_err(|_| TurnedAway::Silent)?;
    let message = message.map_err(|status| TurnedAway::BrokenOff(status.message().to_owned()))?;
    Ok(message.and_then(|message| message.part))
}

/// Exactly `length` bytes, or an error at the first one too many.
async fn receive(parts: &mut Streaming<ContributeRequest>, length: usize) -> Result<Vec<u8>, TurnedAway> {
    let mut bytes = Vec::with_capacity(length);
    let expected = length as u64;
    loop {
        match next(parts).await? {
            Some(contribute_request::Part::Chunk(chunk)) => {
                let told = (bytes.len() + chunk.len()) as u64;
                if told > expected {
                    return Err(NotAdmitted::Length { told, expected }.into());
                }
                bytes.extend_from_slice(&chunk);
            }
            Some(contribute_request::Part::Header(_)) => {
                return Err(TurnedAway::Malformed("a second header".to_owned()));
            }
            None if bytes.len() == length => return Ok(bytes),
            None => {
                let told = bytes.len() as u64;
                return Err(NotAdmitted::Length { told, expected }.into());
            }
        }
    }
}

fn peer(extensions: &Extensions) -> Result<PeerIdentity, TurnedAway> {
    let peer = extensions.get::<PeerIdentity>().cloned();
    peer.ok_or_else(|| TurnedAway::Peer("the connection has no identity".to_owned()))
}

fn part(part: configure_response::Part) -> Result<ConfigureResponse, Status> {
    Ok(ConfigureResponse { part: Some(part) })
}

/// Whether the round takes a contribution of the device, should it train now.
async fn join(open: &OpenRound, device: DeviceId) -> Result<(), TurnedAway> {
    let (answer, answered) = oneshot::channel();
    let offer = Offer::Joined { device, answer };
    open.offers.send(offer).await.map_err(|_| TurnedAway::NoRound)?;
    answered.await.map_err(|_| TurnedAway::NoRound)??;
    Ok(())
}

#[tonic::async_trait]
impl Rounds for RoundsService {
    type ConfigureStream = Pin<Box<dyn Stream<Item = Result<ConfigureResponse, Status>> + Send>>;

    async fn configure(&self, request: Request<ConfigureRequest>) -> Result<Response<Self::ConfigureStream>, Status> {
        let peer = peer(request.extensions())?;
        let (ticket, open) = self.admit(&peer, request.into_inner().ticket)?;
        join(&open, ticket.device).await?;
        tracing::debug!(device = %ticket.device, round = %open.round.id, "configured");
        let configuration = configure_response::Part::Configuration(open.round.configuration.to_vec());
        let state = open.round.state.clone();
        let chunks = (0..state.len()).step_by(CHUNK_BYTES).map(move |start| {
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
        match self.take(&peer, request.into_inner()).await {
            Ok(response) => Ok(Response::new(response)),
            Err(error) => {
                tracing::warn!(address = %peer.address(), error = chain(&error), "a contribution was turned away");
                Err(error.into())
            }
        }
    }
}
