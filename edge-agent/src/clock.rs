//! The one place where the agent reads the clock and the system's randomness.

use fieldfare_fleet::Timestamp;
use fieldfare_release::UnixSeconds;
use fieldfare_tls::TimeSource;

/// The time by the system's clock.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_unix_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The time in the resolution of release metadata.
pub fn now_seconds() -> UnixSeconds {
    UnixSeconds::new(now().unix_ms() / 1000)
}

/// The clock by which certificates are judged.
pub fn time_source() -> TimeSource {
    TimeSource::new(now)
}

/// The system's random generator gave nothing.
#[derive(Debug, thiserror::Error)]
#[error("the system's random generator failed")]
pub struct NoRandomness(#[from] getrandom::Error);

/// Bytes from the system's random generator.
///
/// # Errors
/// The system has no randomness to give.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// A number drawn uniformly from 0 up to 1, for jitter; without randomness the middle.
pub fn jitter() -> f64 {
    random_bytes::<4>().map_or(0.5, |bytes| {
        f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
    })
}
