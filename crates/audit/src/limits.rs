//! Every bound of the audit log, with its reason.

use std::time::Duration;

/// Longest record, in bytes. The longest is an operator's request, and what is longer is named by its digest.
pub const MAX_RECORD_BYTES: usize = 64 * 1024;

/// Longest signed note, in bytes: five lines, and the sixteen signatures that a verifier must accept (C2SP signed-note).
pub const MAX_NOTE_BYTES: usize = 8 * 1024;

/// Longest public key file, in bytes. A PEM of P-256 has 178.
pub const MAX_KEY_BYTES: usize = 4 * 1024;

/// Longest origin, in bytes: a trust domain of 253, a tenant of 63, a role, an id and the log's own.
pub const MAX_ORIGIN_BYTES: usize = 512;

/// Longest payload of a frame, in bytes: a record, or the 64 nodes at the edge of a tree with a note.
pub const MAX_PAYLOAD_BYTES: usize = 64 * 1024;

/// A segment is closed when it passes this many bytes. It is what a start reads, and the unit in which old records leave.
pub const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

/// Most records that a frame or a head may count: at a million a second, 146,000 years. Keeps every count of more in a `u64`.
pub const MAX_RECORDS: u64 = 1 << 62;

/// Findings that a report lists. More are counted: a log that lost its middle is not better known by a million lines.
pub const MAX_FINDINGS: usize = 100;

/// Records that wait for the writer. At a hundred inferences a second this is ten seconds of a disk that hangs.
pub const WRITER_QUEUE: usize = 1024;

/// Records that are written but not yet synced and signed, at most. See [`COMMIT_INTERVAL`].
pub const COMMIT_RECORDS: usize = 256;

/// How long a record that nobody waits for may be without sync and signature. Together with [`COMMIT_RECORDS`] and
/// [`WRITER_QUEUE`] it names what a power cut may take: the inferences of the last five seconds. Flash wears by
/// syncs, and five seconds make a few million in a year at most.
pub const COMMIT_INTERVAL: Duration = Duration::from_secs(5);

/// How long after a failed write records are dropped unwritten, and counted, before the disk is tried again.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(5);

// The edge of the largest tree and a note fit a frame.
const _: () = assert!(64 * 32 + MAX_NOTE_BYTES <= MAX_PAYLOAD_BYTES && MAX_RECORD_BYTES <= MAX_PAYLOAD_BYTES);
// A segment holds the largest batch several times over, so that rotation follows its size and not its batches.
const _: () = assert!(SEGMENT_BYTES >= 16 * MAX_PAYLOAD_BYTES as u64);
