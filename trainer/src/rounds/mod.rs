//! The data plane of federated rounds: devices fetch a round's configuration and bring their contributions.

mod aggregate;
mod rejection;
mod service;
mod store;

use std::sync::Arc;

use bytes::Bytes;
use fieldfare_fleet::round::{Answer, OpenAttempt, Refused, Tally};
use fieldfare_fleet::{ByteSize, DeviceId, Digest, RoundId};
use fieldfare_privacy::RingCodec;
use fieldfare_proto::v1::rounds_server::RoundsServer;
use fieldfare_tls::limits::{HTTP2_WINDOW, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT};
use fieldfare_tls::{Acceptor, IdentityHandle, TimeSource};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::failure::chain;
use crate::limits::{OFFER_QUEUE, ROUNDS_MESSAGE_BYTES_MAX};

pub use aggregate::{AggregateError, sum};
pub use service::{Patience, RoundsService};
pub use store::{ContributionStore, Kept, Put, StoreError};

/// What a device tells a round.
#[derive(Debug)]
pub enum Offer {
    /// It fetches the configuration or, before it pays, asks whether the round would still take its contribution.
    Joined {
        /// The device.
        device: DeviceId,
        /// What the round says to it.
        answer: oneshot::Sender<Result<Answer, Refused>>,
    },
    /// Its contribution is on disk.
    Contributed {
        /// The device.
        device: DeviceId,
        /// Digest of the contribution.
        contribution: Digest,
        /// Its length.
        bytes: ByteSize,
        /// What the round says to it.
        answer: oneshot::Sender<Result<Answer, Refused>>,
    },
}

/// What a round is made of, for those who take part.
#[derive(Clone, Debug)]
pub struct RoundOffered {
    /// The round and its attempt.
    pub id: RoundId,
    /// The encoded configuration.
    pub configuration: Bytes,
    /// Its digest, which every ticket and message names.
    pub configuration_sha256: Digest,
    /// The state that local training starts from.
    pub state: Bytes,
    /// How contributions are encoded.
    pub codec: RingCodec,
    /// Where contributions are kept.
    pub store: ContributionStore,
}

impl RoundOffered {
    /// What decides who is admitted to it.
    fn attempt(&self) -> OpenAttempt {
        OpenAttempt {
            round: self.id.clone(),
            configuration: self.configuration_sha256,
            contribution: ByteSize::new(self.codec.byte_length() as u64),
        }
    }
}

/// An open round, as the service sees it.
#[derive(Clone, Debug)]
struct OpenRound {
    round: Arc<RoundOffered>,
    offers: mpsc::Sender<Offer>,
    turned_away: watch::Sender<Tally>,
}

/// Opens rounds on the service. At most one is open at a time; opening another closes it.
#[derive(Clone, Debug)]
pub struct RoundsHandle {
    open: watch::Sender<Option<OpenRound>>,
}

/// An open round. It closes when this is dropped.
#[derive(Debug)]
pub struct OpenGuard {
    handle: RoundsHandle,
    id: RoundId,
    turned_away: watch::Receiver<Tally>,
}

impl OpenGuard {
    /// What devices brought since it was opened and was turned away.
    pub fn turned_away(&self) -> Tally {
        self.turned_away.borrow().clone()
    }

    /// [`Self::turned_away`], as it changes. It ends with the round.
    pub fn watch_turned_away(&self) -> watch::Receiver<Tally> {
        self.turned_away.clone()
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.handle.open.send_if_modified(|open| {
            let is_ours = open.as_ref().is_some_and(|open| open.round.id == self.id);
            if is_ours {
                *open = None;
            }
            is_ours
        });
    }
}

impl RoundsHandle {
    /// Lets devices take part in a round. Their offers arrive in order, and wait for their answers.
    pub fn open(&self, round: RoundOffered) -> (OpenGuard, mpsc::Receiver<Offer>) {
        let (offers, received) = mpsc::channel(OFFER_QUEUE);
        let (turned_away, counted) = watch::channel(Tally::default());
        let guard = OpenGuard {
            handle: self.clone(),
            id: round.id.clone(),
            turned_away: counted,
        };
        self.open.send_replace(Some(OpenRound {
            round: Arc::new(round),
            offers,
            turned_away,
        }));
        (guard, received)
    }
}

/// The service, and the handle that opens rounds on it.
pub fn service(identity: IdentityHandle, time: TimeSource, patience: Patience) -> (RoundsService, RoundsHandle) {
    let (open, opened) = watch::channel(None);
    (
        RoundsService::new(identity, time, opened, patience),
        RoundsHandle { open },
    )
}

/// Serves until `shutdown`.
pub async fn serve(acceptor: Acceptor, service: RoundsService, shutdown: CancellationToken) {
    let service = RoundsServer::new(service)
        .max_decoding_message_size(ROUNDS_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(ROUNDS_MESSAGE_BYTES_MAX);
    let served = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .initial_stream_window_size(HTTP2_WINDOW)
        .initial_connection_window_size(HTTP2_WINDOW)
        .concurrency_limit_per_connection(4)
        .add_service(service)
        .serve_with_incoming_shutdown(acceptor, shutdown.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(error = chain(&error), "the rounds service ended");
    }
}
