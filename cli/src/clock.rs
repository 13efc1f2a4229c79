//! The command's only reader of the clock and of the operating system's randomness.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use fieldfare_fleet::Timestamp;
use fieldfare_release::UnixSeconds;
use fieldfare_tls::TimeSource;

/// Now.
pub fn now() -> Timestamp {
    #[allow(clippy::disallowed_methods, reason = "the one reader of the clock")]
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Now, in the resolution of release metadata.
pub fn now_seconds() -> UnixSeconds {
    UnixSeconds::new(now().unix_ms() / 1000)
}

/// The clock, for those who read it again and again.
pub fn source() -> TimeSource {
    TimeSource::new(now)
}

/// Bytes that nobody can guess.
///
/// # Errors
/// The operating system has no randomness to give.
pub fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).context("reading the operating system's randomness")?;
    Ok(bytes)
}
