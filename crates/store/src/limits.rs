//! Every bound of the state store, with its reason.

use std::time::Duration;

/// Longest key in bytes: tenant, collection and id are at most 63 bytes each, and keys are held in every index row.
pub const KEY_BYTES_MAX: usize = 512;

/// Most operations of one commit: etcd refuses more than 128 by default, and a commit needs room for its own markers.
pub const COMMIT_OPERATIONS_MAX: usize = 100;

/// Most conditions of one commit, the leases of its puts among them: etcd counts comparisons against the same limit as operations.
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

/// Most live leases of the embedded store: each is held in memory; a controller has a handful and each claimed job one.
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

/// Most servers of one etcd cluster that are named: etcd advises at most seven.
pub const ETCD_ENDPOINTS_MAX: usize = 16;

/// Longest prefix of keys in etcd, in bytes: it is sent with every key of a commit.
pub const ETCD_PREFIX_BYTES_MAX: usize = 128;

/// One request to etcd is answered within this time, or given up and repeated: an answer takes milliseconds where all is
/// well, and a new leader is found within a second or two.
pub const ETCD_CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Upper end of the wait before the first repetition of a request to etcd; it doubles with each, and each wait is drawn evenly
/// from zero up to it, so that the replicas do not come back together.
pub const ETCD_RETRY_FIRST: Duration = Duration::from_millis(50);

/// Upper end of any wait before a repetition: an etcd that restarts is found within a second.
pub const ETCD_RETRY_MAX: Duration = Duration::from_secs(1);

/// A request to etcd is repeated for this long: longer than a server's restart or a leader's election, shorter than the
/// half minute after which a caller of the controller gives up.
pub const ETCD_ANSWER_BUDGET: Duration = Duration::from_secs(15);

/// As [`ETCD_ANSWER_BUDGET`], at opening, where a person waits for the reason.
pub const ETCD_OPEN_BUDGET: Duration = Duration::from_secs(5);

/// Commits of one handle that wait for etcd at once; past this, callers wait. At the largest commits this is 64 MiB.
pub const ETCD_COMMITS_MAX: usize = 64;

/// Time to live of the lease under which a handle marks its commits: much longer than [`ETCD_ANSWER_BUDGET`], since a commit whose
/// mark is gone cannot be learnt of; and what a killed process leaves behind is gone after it.
pub const ETCD_SESSION_TTL: Duration = Duration::from_secs(300);

/// Largest answer of etcd that is read, in bytes; a page that is larger is asked for again with fewer entries.
pub const ETCD_ANSWER_BYTES_MAX: usize = PAGE_BYTES_MAX + COMMIT_BYTES_MAX;

/// A page too large for [`ETCD_ANSWER_BYTES_MAX`] is asked for again with this fraction of its entries.
pub const ETCD_PAGE_SHRINK: usize = 8;

/// Revisions read ahead for a watcher. At [`COMMIT_BYTES_MAX`] each this is 8 MiB; what a slow watcher does not read waits in etcd.
pub const ETCD_WATCH_QUEUE: usize = 8;

/// How often a connection with a request under way is pinged; etcd hangs up on clients that ping more than every 5 s.
pub const ETCD_KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// A ping must be answered within this time, so that a dead server is noticed within 15 s.
pub const ETCD_KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// etcd's own bound of operations in a transaction (`--max-txn-ops`), by default.
const ETCD_OPERATIONS_MAX: usize = 128;

/// etcd's own bound of a request (`--max-request-bytes`), by default.
const ETCD_REQUEST_BYTES_MAX: usize = 3 * 1024 * 1024 / 2;

/// What one operation or condition adds to a request of etcd besides key and value: framing, and the store's prefix.
const ETCD_FRAMING_BYTES: usize = 64 + ETCD_PREFIX_BYTES_MAX;

// A commit at its limits fits etcd's transaction, with a mark of its own, the store's newest revision, and each condition
// asked for again where it fails.
const _: () = assert!(COMMIT_OPERATIONS_MAX + 2 <= ETCD_OPERATIONS_MAX && COMMIT_CONDITIONS_MAX < ETCD_OPERATIONS_MAX);
const _: () = assert!(
    COMMIT_BYTES_MAX
        + COMMIT_CONDITIONS_MAX * KEY_BYTES_MAX
        + ETCD_FRAMING_BYTES * (COMMIT_OPERATIONS_MAX + 2 * COMMIT_CONDITIONS_MAX + 4)
        < ETCD_REQUEST_BYTES_MAX
);
// A page of one entry can always be read.
const _: () = assert!(ETCD_ANSWER_BYTES_MAX > COMMIT_BYTES_MAX + KEY_BYTES_MAX + ETCD_FRAMING_BYTES);
// A renewed mark outlives every attempt to learn of its commit.
const _: () = assert!(ETCD_SESSION_TTL.as_secs() > 4 * ETCD_ANSWER_BUDGET.as_secs());
// One page can always hold the largest entry.
const _: () = assert!(PAGE_BYTES_MAX > COMMIT_BYTES_MAX && WATCH_READ_BYTES > COMMIT_BYTES_MAX);
// Compaction outruns the writer: one step goes with each group, and walks more rows than a group writes.
const _: () = assert!(COMPACT_ROWS_PER_STEP > GROUP_COMMITS_MAX * COMMIT_OPERATIONS_MAX);
// The log stores the length of a key in 16 bits.
const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize);

/// Between two attempts to open the embedded file again after a write failed: a full disk gets room by somebody's hand.
pub const REOPEN_PAUSE: Duration = Duration::from_secs(1);
