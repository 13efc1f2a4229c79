//! The process's clock, randomness and ids: their only source, handed to everything else as a value.

use std::time::{Duration, SystemTime};

use fieldfare_fleet::{DeviceId, Timestamp};
use fieldfare_tls::TimeSource;
use ring::rand::{SecureRandom, SystemRandom};

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

/// A point in time as messages and records carry it.
pub fn unix_ms(at: Timestamp) -> i64 {
    i64::try_from(at.unix_ms()).unwrap_or(i64::MAX)
}

/// The point in time that a message or record carries; one before 1970 is 1970.
pub fn timestamp(unix_ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(u64::try_from(unix_ms).unwrap_or(0))
}

/// The operating system gave no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the system's random generator failed")]
pub struct NoRandomness;

/// Fills bytes from the operating system's cryptographic generator.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// Draws an id: a random UUID (RFC 9562, version 4).
pub fn new_id() -> Result<DeviceId, NoRandomness> {
    let uuid = uuid::Builder::from_random_bytes(random_bytes()?).into_uuid();
    Ok(DeviceId::from_bytes(*uuid.as_bytes()))
}

/// Full jitter: a duration between zero and `most`, every one as likely.
pub fn jitter(most: Duration) -> Duration {
    let share = random_bytes::<4>().map_or(0.5, |bytes| f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX));
    most.mul_f64(share)
}
