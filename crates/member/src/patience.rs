//! Patience with a peer that takes what we send: it may be slow, but not silent.

use std::pin::pin;
use std::time::Duration;

use fieldfare_tls::limits::PEER_SILENCE;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::limits::{DOWNLOAD_WINDOW, DOWNLOAD_WINDOW_BYTES_MIN, KEPT_BYTES_PER_SECOND};

/// How long the receiver of a blob of so many bytes may be silent: what it answers after the last byte waits for its disk.
pub fn of_receiver(length: u64) -> Duration {
    PEER_SILENCE + Duration::from_secs(length / KEPT_BYTES_PER_SECOND)
}

/// A download came too slowly to be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{received} bytes came in {DOWNLOAD_WINDOW:?}, fewer than {DOWNLOAD_WINDOW_BYTES_MIN}")]
pub struct TooSlow {
    /// What came, in bytes.
    pub received: u64,
}

/// The pace of a download: in each [`DOWNLOAD_WINDOW`] at least [`DOWNLOAD_WINDOW_BYTES_MIN`] come, or its end. What a sender says
/// now and then, and however often it breaks off, buys it no more time.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    since: Instant,
    received: u64,
}

impl Pace {
    /// The first window begins `now`.
    pub const fn new(now: Instant) -> Self {
        Self {
            since: now,
            received: 0,
        }
    }

    /// Counts bytes that came, or none.
    ///
    /// # Errors
    /// A window is over in which too few came.
    pub fn note(&mut self, now: Instant, bytes: u64) -> Result<(), TooSlow> {
        self.received += bytes;
        if now.duration_since(self.since) < DOWNLOAD_WINDOW {
            return Ok(());
        }
        let received = self.received;
        *self = Self::new(now);
        if received < DOWNLOAD_WINDOW_BYTES_MIN {
            return Err(TooSlow { received });
        }
        Ok(())
    }
}

/// Carries an exchange out for as long as something moves: nothing where `moved` said nothing, and the exchange did not end, for
/// longer than `silence`.
pub async fn unless_silent<T>(
    silence: Duration,
    mut moved: watch::Receiver<()>,
    exchange: impl Future<Output = T>,
) -> Option<T> {
    let mut exchange = pin!(exchange);
    loop {
        tokio::select! {
            done = &mut exchange => return Some(done),
            news = timeout(silence, moved.changed()) => match news {
                Ok(Ok(())) => {}
                // The last piece is sent: the answer is next.
                Ok(Err(_)) => return timeout(silence, exchange).await.ok(),
                Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_download_may_be_slow_and_may_not_trickle() {
        let begun = Instant::now();
        let gives_up = |every: Duration, bytes: u64| {
            let mut pace = Pace::new(begun);
            (1..=1_000_u32).find_map(|piece| {
                let slow = pace.note(begun + every * piece, bytes).err()?;
                Some((every * piece, slow.received))
            })
        };
        assert_eq!(gives_up(SECOND * 10, 1), Some((DOWNLOAD_WINDOW, 60)));
        let least = DOWNLOAD_WINDOW_BYTES_MIN / 60;
        assert_eq!(gives_up(SECOND * 10, least), Some((DOWNLOAD_WINDOW, least * 60)));
        assert_eq!(gives_up(SECOND * 10, least + 1), None);
        // A fast beginning pays for its own window alone.
        let mut pace = Pace::new(begun);
        pace.note(begun + SECOND, 1 << 30).unwrap();
        pace.note(begun + DOWNLOAD_WINDOW, 0).unwrap();
        assert_eq!(pace.note(begun + DOWNLOAD_WINDOW * 2, 5), Err(TooSlow { received: 5 }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_peer_may_take_its_time_and_a_silent_one_may_not() {
        let began = Instant::now();
        let (moved, seen) = watch::channel(());
        let slow = async move {
            for _ in 0..100 {
                sleep(SECOND * 9).await;
                moved.send_replace(());
            }
            drop(moved);
            sleep(SECOND * 9).await;
        };
        assert_eq!(unless_silent(SECOND * 10, seen, slow).await, Some(()));
        assert_eq!(began.elapsed(), SECOND * 909);

        let began = Instant::now();
        let (moved, seen) = watch::channel(());
        let silent = async move {
            moved.send_replace(());
            sleep(SECOND * 100).await;
            drop(moved);
        };
        assert_eq!(unless_silent(SECOND * 10, seen, silent).await, None);
        assert_eq!(began.elapsed(), SECOND * 10);

        let began = Instant::now();
        let (moved, seen) = watch::channel(());
        drop(moved);
        let unanswered = sleep(SECOND * 100);
        assert_eq!(unless_silent(SECOND * 10, seen, unanswered).await, None);
        assert_eq!(began.elapsed(), SECOND * 10);
    }
}
