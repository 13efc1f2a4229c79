//! How long to wait before a session is tried again.

use std::time::Duration;

use crate::limits::{COME_BACK_MAX, RECONNECT_BASE, RECONNECT_MAX};

/// Full jitter: a wait drawn uniformly from zero to a bound that doubles with each failure, so that devices which lost their
/// controller together do not come back together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The bound of the next wait.
    pub fn bound(self) -> Duration {
        RECONNECT_BASE
            .saturating_mul(1 << self.failures.min(16))
            .min(RECONNECT_MAX)
    }

    /// As it is after so many failures in a row.
    pub const fn after(failures: u32) -> Self {
        Self { failures }
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

    /// A session came about.
    pub const fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// The wait that a controller asked for, within reason.
pub fn asked_for(after_ms: u32) -> Duration {
    Duration::from_millis(u64::from(after_ms)).min(COME_BACK_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_longest_wait_and_begins_anew() {
        let mut backoff = Backoff::default();
        let bounds: Vec<u128> = (0..10).map(|_| backoff.failed(1.0).as_millis()).collect();
        assert_eq!(
            bounds,
            [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 120_000, 120_000]
        );
        backoff.succeeded();
        assert_eq!(backoff.bound(), RECONNECT_BASE);
    }

    proptest! {
        #[test]
        fn a_wait_is_anywhere_below_its_bound(failures in 0u32..200, jitter in 0.0f64..1.0) {
            let mut backoff = Backoff { failures };
            let bound = backoff.bound();
            prop_assert!(bound <= RECONNECT_MAX);
            prop_assert!(backoff.failed(jitter) <= bound);
        }
    }
}
