//! What the command waits for and accepts, with the reasons.

use std::time::Duration;

/// A call that does no long work answers within this, unless `--timeout` says otherwise: a person is waiting.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Devices asked for with one request when everything is listed.
pub const PAGE_SIZE: u32 = 500;

/// Largest file of held-out text or probes. They are read whole, by the trainer too.
pub const MAX_TEXT_BYTES: u64 = 64 << 20;

/// Bytes read and sent at once when a file is uploaded.
pub const UPLOAD_CHUNK: usize = 256 << 10;

/// Life of a root: one year, after the key ceremonies of comparable repositories.
pub const ROOT_LIFETIME_SECONDS: u64 = 365 * 24 * 3600;

/// Life of targets: six months; every publication signs them anew.
pub const TARGETS_LIFETIME_SECONDS: u64 = 182 * 24 * 3600;
