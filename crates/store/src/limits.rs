//! Every bound of the state store, with its reason.

use std::time::Duration;

/// Longest key in bytes: tenant, collection and id are at most 63 bytes each, and keys are held in every index row.
pub const KEY_BYTES_MAX: usize = 512;

/// Most operations of one commit: etcd refuses more than 128 by default, and a commit needs room for its own markers.
pub const COMMIT_OPERATIONS_MAX: usize = 100;

/// Most conditions of one commit: etcd counts comparisons against the same limit as operations.
pub const COMMIT_CONDITIONS_MAX: usize = 100;

/// Most bytes of one commit, keys and values together: etcd refuses requests above 1.5 MiB.
pub const COMMIT_BYTES_MAX: usize = 1024 * 1024;

/// Most entries of one page; a request for more gets this many.
pub const PAGE_ENTRIES_MAX: usize = 1_000;

/// A page ends after the entry that passes this many bytes of keys and values: it bounds what one reader holds.
pub const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most entries that [`crate::Store::list_all`] gathers: more belongs to a reader that goes page by page.
pub const LIST_ALL_ENTRIES_MAX: usize = 100_000;

/// How often [`crate::Store::list_all`] starts over when compaction overtakes it; each start is a new revision.
pub const LIST_ALL_ATTEMPTS_MAX: usize = 3;

/// Shortest time to live of a lease: etcd counts whole seconds.
pub const LEASE_TTL_MIN: Duration = Duration::from_secs(1);

/// Longest time to live of a lease: a crashed holder must not block its work for more than a day.
pub const LEASE_TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Most live leases: each is held in memory; a controller has a handful and each claimed job one.
pub const LEASES_MAX: usize = 100_000;

/// Requests waiting for the writer; past this, callers wait for room. At the largest commits this is 256 MiB.
pub const WRITE_QUEUE_MAX: usize = 256;

/// Most commits that share one sync to disk: past this, a sync is a small part of each commit's cost.
pub const GROUP_COMMITS_MAX: usize = 64;

/// Reads in flight at once: each occupies a blocking thread, and the files are read from one disk.
pub const READS_MAX: usize = 16;

/// Revisions that a watcher may fall behind before it reads them from disk instead of memory: at
/// [`COMMIT_BYTES_MAX`] each, this bounds the memory of the slowest watcher to 64 MiB shared by all.
pub const WATCH_BUFFER_REVISIONS: usize = 64;

/// A watcher that catches up from disk reads at most this many changes at a time, then finishes the revision.
pub const WATCH_READ_CHANGES: usize = 1_000;

/// A watcher that catches up from disk stops reading after this many bytes, then finishes the revision.
pub const WATCH_READ_BYTES: usize = 4 * 1024 * 1024;

/// Revisions kept for watchers and open listings. A controller that restarts is back within seconds; this is
/// minutes of the heaviest writing that one disk takes.
pub const HISTORY_REVISIONS_MAX: u64 = 100_000;

/// Bytes of history kept for watchers, counting the newest version of each key that changed inside it.
pub const HISTORY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Most rows that compaction walks within one transaction, so that no commit waits long behind it.
pub const COMPACT_ROWS_PER_STEP: usize = 10_000;

/// Memory for cached pages of the embedded file; redb's own default of 1 GiB is more than a small controller has.
pub const CACHE_BYTES: usize = 64 * 1024 * 1024;

// A commit at its limit fits the request of etcd, with room for the framing of each operation.
const _: () = assert!(COMMIT_BYTES_MAX + 64 * (COMMIT_OPERATIONS_MAX + COMMIT_CONDITIONS_MAX) < 3 * 1024 * 1024 / 2);
// One page can always hold the largest entry.
const _: () = assert!(PAGE_BYTES_MAX > COMMIT_BYTES_MAX && WATCH_READ_BYTES > COMMIT_BYTES_MAX);
// Compaction outruns the writer: one step goes with each group, and walks more rows than a group writes.
const _: () = assert!(COMPACT_ROWS_PER_STEP > GROUP_COMMITS_MAX * COMMIT_OPERATIONS_MAX);
// The log stores the length of a key in 16 bits.
const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize);
