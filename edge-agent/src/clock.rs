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
    let system = Timestamp::from_unix_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    #[cfg(debug_assertions)]
    let system = shifted::by_a_test(system);
    system
}

/// Tests run the real process under a wrong clock, which may be set right while it runs. Release builds have none of this.
#[cfg(debug_assertions)]
mod shifted {
    use std::path::PathBuf;
    use std::sync::OnceLock;

    use fieldfare_fleet::Timestamp;

    /// The file with the milliseconds, of either sign, by which the process sees another time than the system's.
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();

    #[allow(
        clippy::disallowed_methods,
        reason = "tests tell a process by how much its clock is wrong in this variable, and nothing else is told"
    )]
    fn file() -> Option<PathBuf> {
        std::env::var("FIELDFARE_CLOCK_SHIFT_FILE").ok().map(PathBuf::from)
    }

    pub(super) fn by_a_test(system: Timestamp) -> Timestamp {
        let shift = FILE
            .get_or_init(file)
            .as_ref()
            .and_then(|file| std::fs::read_to_string(file).ok());
        let shift: i64 = shift.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        Timestamp::from_unix_ms(system.unix_ms().saturating_add_signed(shift))
    }
}

/// The time in the resolution of release metadata.
pub fn now_seconds() -> UnixSeconds {
    UnixSeconds::new(now().unix_ms() / 1000)
}

/// The beginning of a second, as release metadata count time.
pub const fn of_seconds(seconds: UnixSeconds) -> Timestamp {
    Timestamp::from_unix_ms(seconds.get().saturating_mul(1000))
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
