//! Time as an argument: the clock that verifiers read.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fieldfare_fleet::Timestamp;
use rustls_pki_types::UnixTime;

/// The clock that certificates are judged by. The binary gives its own; tests give theirs.
///
/// A device without a battery-backed clock should give the later of its system time and the latest time it has proof of.
#[derive(Clone)]
pub struct TimeSource(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl TimeSource {
    /// Reads the time by calling `clock`.
    pub fn new(clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(clock))
    }

    /// A clock that stands still.
    pub fn fixed(now: Timestamp) -> Self {
        Self::new(move || now)
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for TimeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TimeSource").field(&self.now()).finish()
    }
}

impl rustls::time_provider::TimeProvider for TimeSource {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.now()))
    }
}

/// Whole seconds since 1970, rounded down: the resolution of X.509.
pub(crate) fn unix_seconds(at: Timestamp) -> u64 {
    at.unix_ms() / 1000
}

/// The instant as rustls writes it.
pub(crate) fn unix_time(at: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(unix_seconds(at)))
}
