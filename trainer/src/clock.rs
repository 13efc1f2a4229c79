//! The process's clock: its only source, handed to everything else as a value.

use std::time::SystemTime;

use fieldfare_fleet::Timestamp;
use fieldfare_release::UnixSeconds;
use fieldfare_tls::TimeSource;

/// The operating system's clock. Before 1970 it shows the start of 1970.
#[allow(clippy::disallowed_methods, reason = "this is the binary's clock")]
pub fn system() -> TimeSource {
    TimeSource::new(|| {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_unix_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    })
}

/// A point in time as messages carry it.
pub(crate) fn unix_ms(at: Timestamp) -> i64 {
    i64::try_from(at.unix_ms()).unwrap_or(i64::MAX)
}

/// A point in time as releases carry it.
pub(crate) fn unix_seconds(at: Timestamp) -> UnixSeconds {
    UnixSeconds::new(at.unix_ms() / 1000)
}
