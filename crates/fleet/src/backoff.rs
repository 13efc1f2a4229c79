//! How long to wait before something that failed is tried again.

use std::time::Duration;

/// Most doublings of a wait, so that the shift cannot overflow; any longest wait is reached before.
const MAX_DOUBLINGS: u32 = 16;

/// Full jitter: a wait drawn uniformly from zero to a bound that doubles with each failure, so that those who lost the same peer
/// together do not come back together (Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Before the first failure: the bound of the first wait, and the longest one.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// As it is after so many failures in a row.
    #[must_use]
    pub const fn after(self, failures: u32) -> Self {
        Self { failures, ..self }
    }

    /// The bound of the next wait.
    pub fn bound(self) -> Duration {
        self.first
            .saturating_mul(1 << self.failures.min(MAX_DOUBLINGS))
            .min(self.longest)
    }

    /// How long to wait; `jitter` is drawn uniformly from 0 up to 1.
    pub fn wait(self, jitter: f64) -> Duration {
        self.bound().mul_f64(jitter.clamp(0.0, 1.0))
    }

    /// Counts a failure and says how long to wait; `jitter` is drawn uniformly from 0 up to 1.
    pub fn failed(&mut self, jitter: f64) -> Duration {
        let wait = self.wait(jitter);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// It came about.
    pub const fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RECONNECTING: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(120));

    #[test]
    fn the_bound_doubles_up_to_the_longest_wait_and_begins_anew() {
        let mut backoff = RECONNECTING;
        let bounds: Vec<u128> = (0..10).map(|_| backoff.failed(1.0).as_millis()).collect();
        assert_eq!(
            bounds,
            [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 120_000, 120_000]
        );
        backoff.succeeded();
        assert_eq!(backoff, RECONNECTING);
    }

    proptest! {
        #[test]
        fn a_wait_is_anywhere_below_its_bound(failures in any::<u32>(), jitter in 0.0f64..1.0) {
            let mut backoff = RECONNECTING.after(failures);
            let bound = backoff.bound();
            prop_assert!(bound <= Duration::from_secs(120));
            prop_assert!(backoff.failed(jitter) <= bound);
        }
    }
}
