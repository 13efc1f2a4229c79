//! Bounds of what is read, each with its reason.

/// Longest file of state that is read, in bytes: the longest, a trusted state of the release repository, has some hundred KiB.
pub const STATE_FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
