//! One request to etcd, answered in time or repeated with full jitter until its budget is spent.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use crate::StoreError;
use crate::limits::{ETCD_CALL_TIMEOUT, ETCD_RETRY_FIRST, ETCD_RETRY_MAX};

/// What etcd says of a revision that is compacted away.
pub(super) const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
/// What etcd says of a revision that does not exist yet.
pub(super) const AHEAD: &str = "etcdserver: mvcc: required revision is a future revision";
/// What etcd says of a lease that is not live.
pub(super) const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";
/// What etcd says, and goes on saying until a person makes room, when its quota is used up.
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

/// Why a request to etcd has no answer, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("no answer within {ETCD_CALL_TIMEOUT:?}")]
    Silent,
    #[error(transparent)]
    Said(#[from] Said),
    #[error(transparent)]
    Client(etcd_client::Error),
    #[error("{0}")]
    Nonsense(&'static str),
    #[error("the lease of this store's marks ended while etcd did not answer")]
    SessionLost,
    #[error("the store is closed")]
    Closed,
}

/// A gRPC status, told in words.
#[derive(Debug)]
pub(super) struct Said(Status);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.0.message() {
            "" => self.0.code().to_string(),
            message => message.to_owned(),
        };
        f.write_str(&words)?;
        // The innermost cause is the system's own; those between repeat each other.
        match std::iter::successors(self.0.source(), |cause| (*cause).source()).last() {
            Some(cause) if !words.contains(&cause.to_string()) => write!(f, ": {cause}"),
            _ => Ok(()),
        }
    }
}

impl Error for Said {}

impl From<etcd_client::Error> for Fault {
    fn from(error: etcd_client::Error) -> Fault {
        match error {
            etcd_client::Error::GRpcStatus(status) => Fault::Said(Said(status)),
            other => Fault::Client(other),
        }
    }
}

impl Fault {
    /// Whether etcd answered with these words.
    pub(super) fn says(&self, words: &str) -> bool {
        matches!(self, Fault::Said(said) if said.0.message() == words)
    }

    /// Whether etcd answered that what was asked for does not exist.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Fault::Said(said) if said.0.code() == Code::NotFound)
    }

    /// Whether the answer was larger than [`crate::limits::ETCD_ANSWER_BYTES_MAX`]: the client's words, not etcd's.
    pub(super) fn is_too_large(&self) -> bool {
        matches!(self, Fault::Said(said)
            if said.0.code() == Code::OutOfRange && !said.0.message().starts_with("etcdserver:"))
    }

    /// Whether the same request may be answered a moment later. After such a fault, nobody knows whether it was carried out.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Fault::Silent | Fault::SessionLost => true,
            Fault::Said(said) if said.0.message() == NO_SPACE => false,
            Fault::Said(said) => matches!(
                said.0.code(),
                Code::Unavailable
                    | Code::DeadlineExceeded
                    | Code::Cancelled
                    | Code::Aborted
                    | Code::Internal
                    | Code::Unknown
                    | Code::ResourceExhausted
            ),
            Fault::Client(etcd_client::Error::TransportError(_) | etcd_client::Error::IoError(_)) => true,
            Fault::Client(_) | Fault::Nonsense(_) | Fault::Closed => false,
        }
    }

    pub(super) fn while_doing(self, doing: &'static str) -> StoreError {
        match self {
            Fault::Closed => StoreError::Closed,
            fault => StoreError::Failed {
                doing,
                source: Arc::new(fault),
            },
        }
    }
}

/// How long to wait before a repetition: evenly drawn from zero to an upper end that doubles.
#[derive(Debug)]
pub(super) struct Backoff {
    upper: Duration,
}

impl Backoff {
    pub(super) fn new() -> Backoff {
        Backoff {
            upper: ETCD_RETRY_FIRST,
        }
    }

    pub(super) fn next(&mut self) -> Duration {
        let upper = self.upper;
        self.upper = (2 * upper).min(ETCD_RETRY_MAX);
        // Without randomness the longest wait is as good as any.
        let drawn = getrandom::u64().unwrap_or(u64::MAX);
        upper.mul_f64(drawn as f64 / u64::MAX as f64)
    }
}

/// How requests are made: until when they are repeated, and what ends them early.
#[derive(Debug, Clone)]
pub(super) struct Calls {
    budget: Duration,
    closed: watch::Receiver<bool>,
}

/// The repetitions of one request.
#[derive(Debug)]
pub(super) struct Attempts {
    deadline: Instant,
    backoff: Backoff,
    closed: watch::Receiver<bool>,
}

impl Calls {
    /// `closed` turns true, or loses its sender, when the store ends.
    pub(super) fn new(budget: Duration, closed: watch::Receiver<bool>) -> Calls {
        Calls { budget, closed }
    }

    pub(super) fn check_open(&self) -> Result<(), Fault> {
        if *self.closed.borrow() || self.closed.has_changed().is_err() {
            return Err(Fault::Closed);
        }
        Ok(())
    }

    pub(super) fn attempts(&self) -> Result<Attempts, Fault> {
        self.check_open()?;
        Ok(Attempts {
            deadline: Instant::now() + self.budget,
            backoff: Backoff::new(),
            closed: self.closed.clone(),
        })
    }

    /// The answer to a request that may be made any number of times.
    pub(super) async fn answer<T, F>(&self, mut request: impl FnMut() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut attempts = self.attempts()?;
        loop {
            match once(request()).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => attempts.after(fault).await?,
            }
        }
    }
}

impl Attempts {
    /// Waits for the next attempt, or gives the fault back where there is none.
    pub(super) async fn after(&mut self, fault: Fault) -> Result<(), Fault> {
        let wait = self.backoff.next();
        if !fault.is_passing() || Instant::now() + wait >= self.deadline {
            return Err(fault);
        }
        tokio::select! {
            () = sleep(wait) => Ok(()),
            _ = self.closed.wait_for(|closed| *closed) => Err(fault),
        }
    }
}

/// One attempt.
pub(super) async fn once<T>(request: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, Fault> {
    match timeout(ETCD_CALL_TIMEOUT, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Fault::Silent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: Code, words: &str) -> Fault {
        etcd_client::Error::GRpcStatus(Status::new(code, words)).into()
    }

    #[test]
    fn waits_grow_to_their_bound_and_are_drawn_from_zero_up() {
        let longest = |round: usize| {
            let draws = (0..2_000).map(|_| {
                let mut backoff = Backoff::new();
                for _ in 0..round {
                    backoff.next();
                }
                backoff.next()
            });
            let (shortest, longest) = draws.fold((Duration::MAX, Duration::ZERO), |(short, long), draw| {
                (short.min(draw), long.max(draw))
            });
            assert!(shortest < longest / 50, "{shortest:?} of {longest:?}: no full jitter");
            longest
        };
        for (round, upper) in [(0, 50), (1, 100), (3, 400), (5, 1_000), (20, 1_000)] {
            let (longest, upper) = (longest(round), Duration::from_millis(upper));
            assert!(longest <= upper && longest > upper * 9 / 10, "{longest:?} of {upper:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_repeated_until_its_budget_is_spent() {
        let (_open, closed) = watch::channel(false);
        let calls = Calls::new(Duration::from_secs(5), closed);
        let started = Instant::now();
        let mut attempts = 0;
        let fault = calls.answer(|| {
            attempts += 1;
            std::future::pending::<Result<(), _>>()
        });
        assert!(matches!(fault.await, Err(Fault::Silent)));
        assert!((4..=6).contains(&attempts), "{attempts} attempts of a second each");
        assert!(started.elapsed() < Duration::from_secs(6));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_pass_is_not_repeated_and_what_passes_is() {
        let (_open, closed) = watch::channel(false);
        let calls = Calls::new(Duration::from_secs(60), closed);
        for (fault, repeated) in [
            (said(Code::Unavailable, "etcdserver: no leader"), true),
            (said(Code::ResourceExhausted, "etcdserver: too many requests"), true),
            (said(Code::ResourceExhausted, NO_SPACE), false),
            (said(Code::OutOfRange, COMPACTED), false),
            (said(Code::PermissionDenied, "etcdserver: permission denied"), false),
            (
                said(Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
                false,
            ),
        ] {
            let Fault::Said(Said(status)) = fault else {
                unreachable!()
            };
            let mut attempts = 0;
            let answer = calls.answer(|| {
                attempts += 1;
                let answer = if attempts == 3 {
                    Ok(())
                } else {
                    Err(status.clone().into())
                };
                async move { answer }
            });
            assert_eq!(answer.await.is_ok(), repeated, "{status:?}");
            assert_eq!(attempts, if repeated { 3 } else { 1 }, "{status:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_store_asks_no_more() {
        let (open, closed) = watch::channel(false);
        let calls = Calls::new(Duration::from_secs(3600), closed);
        let waiting = tokio::spawn({
            let calls = calls.clone();
            async move { calls.answer(std::future::pending::<Result<(), _>>).await }
        });
        tokio::task::yield_now().await;
        open.send_replace(true);
        assert!(matches!(waiting.await.unwrap(), Err(Fault::Silent)));
        assert!(matches!(calls.attempts(), Err(Fault::Closed)));
        drop(open);
        assert!(matches!(calls.check_open(), Err(Fault::Closed)));
    }
}
