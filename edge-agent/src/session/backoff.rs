//! How long to wait before a session is tried again.

use std::time::Duration;

use fieldfare_fleet::Backoff;

use crate::limits::{COME_BACK_MAX, COME_BACK_MIN, RECONNECT_BASE, RECONNECT_MAX};

/// The waits of a device that lost its controller, or a trainer.
pub const RECONNECTING: Backoff = Backoff::new(RECONNECT_BASE, RECONNECT_MAX);

/// The wait that a controller asked for, within reason.
pub fn asked_for(after_ms: u32) -> Duration {
    Duration::from_millis(u64::from(after_ms)).clamp(COME_BACK_MIN, COME_BACK_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attack_a_controller_neither_drives_a_device_in_circles_nor_sends_it_away_for_good() {
        assert_eq!(asked_for(0), COME_BACK_MIN);
        assert_eq!(asked_for(60_000), Duration::from_secs(60));
        assert_eq!(asked_for(u32::MAX), COME_BACK_MAX);
    }
}
