//! What goes between the device and the trainer: the configuration and the state down, one contribution up.

use std::time::Duration;

use fieldfare_fleet::Digest;
use fieldfare_member::patience::unless_silent;
use fieldfare_member::ticket::Ticket;
use fieldfare_proto::v1::rounds_client::RoundsClient;
use fieldfare_proto::v1::{
    ConfigureRequest, ConfigureResponse, ContributeRequest, ContributionHeader, SignedTicket, configure_response,
    contribute_request,
};
use fieldfare_release::Sha256Digest;
use fieldfare_tls::{ConnectError, Endpoint, ExpectedServer, IdentityHandle, Link, ServerTrust, TimeSource, connect};
use futures_util::{Stream, StreamExt};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use super::plan::{PlanError, RoundPlan};
use crate::clock;
use crate::limits::{CONFIGURE_ATTEMPTS, STATE_BYTES_PER_SECOND_MIN, TRAINER_RETRY_MAX, TRAINER_TIMEOUT, UPLOAD_CHUNK};
use crate::process;
use crate::session::backoff::RECONNECTING;

/// Why nothing could be exchanged with the trainer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// It cannot be reached, or is not the trainer that the ticket names.
    #[error("the trainer")]
    Connect(#[from] ConnectError),
    /// It refused.
    #[error("the trainer refused: {}", .0.message())]
    Status(Box<Status>),
    /// It was silent.
    #[error("the trainer did not answer within {TRAINER_TIMEOUT:?}")]
    Silent,
    /// Its configuration is refused here.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// It sends messages that carry nothing, which could go on for ever.
    #[error("the trainer sends pieces of the state without bytes")]
    Empty,
    /// It sends too slowly to ever finish.
    #[error("the configuration and its state did not come within {0:?}")]
    TooSlow(Duration),
    /// The state is not the one that the configuration names.
    #[error("the state is not the one that the configuration names")]
    State,
    /// Its answer is not about our bytes.
    #[error("the trainer acknowledged other bytes")]
    Acknowledged,
}

impl From<Status> for ExchangeError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl ExchangeError {
    /// Whether trying again may help.
    fn is_outage(&self) -> bool {
        match self {
            Self::Connect(ConnectError::Tcp { .. } | ConnectError::Timeout { .. } | ConnectError::Http2 { .. })
            | Self::Silent => true,
            Self::Status(status) => {
                matches!(
                    status.code(),
                    Code::Unavailable
                        | Code::DeadlineExceeded
                        | Code::ResourceExhausted
                        | Code::Unknown
                        | Code::Cancelled
                        | Code::Internal
                )
            }
            _ => false,
        }
    }
}

/// The way to the trainer of one ticket.
#[derive(Clone, Debug)]
pub struct Trainer {
    pub(super) endpoint: Endpoint,
    pub(super) identity: IdentityHandle,
    pub(super) time: TimeSource,
    pub(super) signed: SignedTicket,
    pub(super) ticket: Ticket,
}

/// A round as its trainer describes it.
#[derive(Clone, Debug)]
pub struct Configured {
    /// What to do.
    pub plan: RoundPlan,
    /// The B factors to start from: f32 little endian.
    pub state: Vec<u8>,
}

impl Trainer {
    /// Connects to exactly the trainer that the ticket names.
    async fn link(&self) -> Result<Link, ExchangeError> {
        let expected = ExpectedServer::Exactly(self.ticket.trainer.clone());
        let trust = ServerTrust::by(&self.identity.current(), expected);
        Ok(connect(&self.endpoint, Some(&self.identity), &trust, &self.time).await?)
    }

    /// The configuration that the ticket names, and the state that it names.
    ///
    /// # Errors
    /// [`ExchangeError`].
    pub async fn configure(&self) -> Result<Configured, ExchangeError> {
        patiently(Some(CONFIGURE_ATTEMPTS), || self.configure_once()).await
    }

    /// Whether the trainer still collects contributions to the round of the ticket.
    ///
    /// # Errors
    /// [`ExchangeError`]: the round is over, or its trainer stays away.
    pub async fn confirm(&self) -> Result<(), ExchangeError> {
        patiently(Some(CONFIGURE_ATTEMPTS), || async {
            // The state that would follow is left unread.
            let first = next(&mut self.parts().await?).await?;
            first.map(drop).ok_or(ExchangeError::State)
        })
        .await
    }

    async fn parts(&self) -> Result<Streaming<ConfigureResponse>, ExchangeError> {
        let mut client = RoundsClient::new(self.link().await?.channel());
        let request = ConfigureRequest {
            ticket: Some(self.signed.clone()),
        };
        let parts = timeout(TRAINER_TIMEOUT, client.configure(request)).await;
        Ok(parts.map_err(|_| ExchangeError::Silent)??.into_inner())
    }

    async fn configure_once(&self) -> Result<Configured, ExchangeError> {
        let mut parts = self.parts().await?;
        let first = next(&mut parts).await?.and_then(|first| first.part);
        let Some(configure_response::Part::Configuration(bytes)) = first else {
            return Err(ExchangeError::State);
        };
        let plan = RoundPlan::read(&bytes, &self.ticket)?;
        let state = state(&mut parts, plan.training.ring.length * 4).await?;
        if Sha256Digest::of(&state) != plan.state {
            return Err(ExchangeError::State);
        }
        Ok(Configured { plan, state })
    }

    /// Uploads a contribution; the same bytes at each attempt. It is paid for, so that it waits for a trainer that is away, or
    /// that takes nothing until its claim on the job is renewed, until the caller drops this at the round's deadline.
    ///
    /// # Errors
    /// [`ExchangeError`]; the bytes stay for the next invitation.
    pub async fn contribute(&self, configuration: Digest, bytes: &[u8]) -> Result<(), ExchangeError> {
        patiently(None, || self.contribute_once(configuration, bytes)).await
    }

    async fn contribute_once(&self, configuration: Digest, bytes: &[u8]) -> Result<(), ExchangeError> {
        let sha256 = Sha256Digest::of(bytes);
        let header = ContributionHeader {
            ticket: Some(self.signed.clone()),
            configuration_sha256: configuration.as_bytes().to_vec(),
            length_bytes: bytes.len() as u64,
            sha256: sha256.as_bytes().to_vec(),
        };
        let chunks = bytes
            .chunks(UPLOAD_CHUNK)
            .map(|chunk| contribute_request::Part::Chunk(chunk.to_vec()));
        let parts: Vec<ContributeRequest> = std::iter::once(contribute_request::Part::Header(header))
            .chain(chunks)
            .map(|part| ContributeRequest { part: Some(part) })
            .collect();
        let mut client = RoundsClient::new(self.link().await?.channel());
        let (moved, seen) = watch::channel(());
        let parts = tokio_stream::iter(parts.into_iter().inspect(move |_| moved.send_replace(())));
        // A slow way takes as long as it takes; a dead one is not waited for.
        let answer = unless_silent(TRAINER_TIMEOUT, seen, client.contribute(parts)).await;
        let answer = answer.ok_or(ExchangeError::Silent)??.into_inner();
        if answer.sha256 == sha256.as_bytes() {
            Ok(())
        } else {
            Err(ExchangeError::Acknowledged)
        }
    }
}

/// What a trainer sends of a configuration.
trait Parts: Stream<Item = Result<ConfigureResponse, Status>> + Unpin {}

impl<S: Stream<Item = Result<ConfigureResponse, Status>> + Unpin> Parts for S {}

/// The next part of a configuration, from a trainer that is not silent for long.
async fn next(parts: &mut impl Parts) -> Result<Option<ConfigureResponse>, ExchangeError> {
    let part = timeout(TRAINER_TIMEOUT, parts.next()).await;
    Ok(part.map_err(|_| ExchangeError::Silent)?.transpose()?)
}

/// The state that follows a configuration, of at most `length` bytes.
async fn state(parts: &mut impl Parts, length: usize) -> Result<Vec<u8>, ExchangeError> {
    let within = TRAINER_TIMEOUT + Duration::from_secs(length as u64 / STATE_BYTES_PER_SECOND_MIN);
    let mut state = Vec::new();
    let received = timeout(within, async {
        while let Some(part) = next(parts).await? {
            match part.part {
                Some(configure_response::Part::StateChunk(bytes)) if bytes.is_empty() => {
                    return Err(ExchangeError::Empty);
                }
                Some(configure_response::Part::StateChunk(bytes)) if state.len() + bytes.len() <= length => {
                    state.extend_from_slice(&bytes);
                }
                _ => return Err(ExchangeError::State),
            }
        }
        Ok(())
    });
    received.await.map_err(|_| ExchangeError::TooSlow(within))??;
    Ok(state)
}

/// Tries again for as long as the trainer is away and another attempt is allowed; without a bound where `most` says none.
async fn patiently<T, F>(most: Option<u32>, mut attempt: impl FnMut() -> F) -> Result<T, ExchangeError>
where
    F: Future<Output = Result<T, ExchangeError>>,
{
    let mut backoff = RECONNECTING;
    let mut attempts: u32 = 0;
    loop {
        attempts = attempts.saturating_add(1);
        match attempt().await {
            Err(error) if error.is_outage() && most.is_none_or(|most| attempts < most) => {
                let wait = backoff.failed(clock::jitter()).min(TRAINER_RETRY_MAX);
                tracing::warn!(
                    error = process::chain(&error),
                    attempts,
                    "nothing to be had from the trainer; trying again"
                );
                tokio::time::sleep(wait).await;
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn away() -> ExchangeError {
        Status::unavailable("no round is under way here").into()
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_waits_for_a_trainer_whose_claim_lapsed_until_the_rounds_deadline() {
        let attempts = Cell::new(0_u32);
        let upload = patiently(None, || {
            attempts.set(attempts.get() + 1);
            std::future::ready(if attempts.get() > 100 { Ok(()) } else { Err(away()) })
        });
        assert!(upload.await.is_ok(), "given up after {} attempts", attempts.get());

        // The deadline is the round's: whoever waits here is dropped then.
        let begun = tokio::time::Instant::now();
        let (deadline, attempts) = (Duration::from_secs(3600), Cell::new(0_u32));
        let upload = patiently(None, || {
            attempts.set(attempts.get() + 1);
            std::future::ready(Err::<(), _>(away()))
        });
        assert!(timeout(deadline, upload).await.is_err());
        assert_eq!(begun.elapsed(), deadline);
        let fewest = deadline.as_secs() / TRAINER_RETRY_MAX.as_secs();
        assert!(u64::from(attempts.get()) >= fewest, "only {} attempts", attempts.get());
    }

    #[tokio::test(start_paused = true)]
    async fn a_trainer_that_refuses_is_not_asked_again_and_one_that_is_away_not_for_ever() {
        let attempts = Cell::new(0_u32);
        let ask = async |most, answer: fn() -> ExchangeError| {
            attempts.set(0);
            let asked = patiently(most, || {
                attempts.set(attempts.get() + 1);
                std::future::ready(Err::<(), _>(answer()))
            });
            assert!(asked.await.is_err());
            attempts.get()
        };
        assert_eq!(
            ask(None, || Status::failed_precondition("another round").into()).await,
            1
        );
        assert_eq!(ask(Some(CONFIGURE_ATTEMPTS), away).await, CONFIGURE_ATTEMPTS);
    }

    fn piece(bytes: &[u8]) -> Result<ConfigureResponse, Status> {
        Ok(ConfigureResponse {
            part: Some(configure_response::Part::StateChunk(bytes.to_vec())),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_of_empty_pieces_without_end_is_refused_and_one_a_byte_at_a_time_given_up() {
        let mut whole = futures_util::stream::iter([piece(&[1; 3]), piece(&[2; 5])]);
        assert_eq!(state(&mut whole, 8).await.unwrap(), [1, 1, 1, 2, 2, 2, 2, 2]);
        let mut more = futures_util::stream::iter([piece(&[1; 3]), piece(&[2; 6])]);
        assert!(matches!(state(&mut more, 8).await, Err(ExchangeError::State)));

        let mut read = 0;
        let mut empty = futures_util::stream::repeat_with(|| {
            read += 1;
            assert!(read < 1_000, "they are read for ever");
            piece(&[])
        });
        assert!(matches!(state(&mut empty, 8).await, Err(ExchangeError::Empty)));

        let begun = tokio::time::Instant::now();
        let mut slow = Box::pin(futures_util::stream::repeat(()).then(async |()| {
            tokio::time::sleep(TRAINER_TIMEOUT / 2).await;
            piece(&[7])
        }));
        let length = 8 << 20;
        assert!(matches!(state(&mut slow, length).await, Err(ExchangeError::TooSlow(_))));
        assert!(begun.elapsed() < Duration::from_secs(600), "{:?}", begun.elapsed());
        // Whoever is as slow as that and no slower is waited for.
        let begun = tokio::time::Instant::now();
        let pieces = length / (64 * 1024);
        let mut poor = Box::pin(futures_util::stream::iter(0..pieces).then(async |_| {
            tokio::time::sleep(Duration::from_secs(4)).await;
            piece(&[7; 64 * 1024])
        }));
        assert_eq!(state(&mut poor, length).await.unwrap().len(), length);
        assert!(begun.elapsed() >= Duration::from_secs(500), "{:?}", begun.elapsed());
    }
}
