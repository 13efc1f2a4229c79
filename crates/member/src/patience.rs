//! Patience with a peer that takes what we send: it may be slow, but not silent.

use std::pin::pin;
use std::time::Duration;

use fieldfare_tls::limits::PEER_SILENCE;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::limits::KEPT_BYTES_PER_SECOND;

/// How long the receiver of a blob of so many bytes may be silent: what it answers after the last byte waits for its disk.
pub fn of_receiver(length: u64) -> Duration {
    PEER_SILENCE + Duration::from_secs(length / KEPT_BYTES_PER_SECOND)
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
    use tokio::time::{Instant, sleep};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

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
