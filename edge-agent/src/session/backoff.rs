//! How long to wait before a session is tried again.

use std::time::Duration;

use fieldfare_fleet::Backoff;

use crate::limits::{COME_BACK_MAX, RECONNECT_BASE, RECONNECT_MAX};

/// The waits of a device that lost its controller, or a trainer.
pub const RECONNECTING: Backoff = Backoff::new(RECONNECT_BASE, RECONNECT_MAX);

/// The wait that a controller asked for, within reason.
pub fn asked_for(after_ms: u32) -> Duration {
    Duration::from_millis(u64::from(after_ms)).min(COME_BACK_MAX)
}
