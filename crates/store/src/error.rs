//! What can go wrong, one enum for each operation.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::limits;
use crate::{Key, LeaseId, Location, Prefix, Revision};

/// A failure of the store itself, common to all operations.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// [`crate::Store::close`] was called.
    #[error("the store is closed")]
    Closed,
    /// The disk, the database or the way to it failed. The store goes on when that does: after a failed write the embedded one opens
    /// its file again, until which every call fails like this. What became of a failed commit is seen then.
    #[error("the store failed to {doing}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// The backend's own error, shared by all that waited for the same write.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

/// Why a store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another store in this one, holds the file.
    #[error("{place} is in use by another process or an open store")]
    AlreadyOpen {
        /// The store.
        place: Location,
    },
    /// What lies there is something else's; nothing was added to it.
    #[error("{place} is not a Fieldfare store: {found}")]
    NotAStore {
        /// The store.
        place: Location,
        /// What it is instead.
        found: String,
    },
    /// A newer Fieldfare wrote it; no record in it was changed.
    #[error("{place} has schema version {found}, newer than {supported}, the newest that this build reads")]
    SchemaNewer {
        /// The store.
        place: Location,
        /// Its schema version.
        found: u64,
        /// The newest version known here.
        supported: u64,
    },
    /// The database's own checks failed.
    #[error("{place} is damaged")]
    Corrupt {
        /// The store.
        place: Location,
        /// What the check found.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store's file cannot be created, read or written.
    #[error("cannot open {place}")]
    Io {
        /// The store.
        place: Location,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A certificate or key for etcd cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// No server answered, again and again.
    #[error(
        "{place} does not answer: check that etcd runs there (`etcdctl endpoint health`), that hosts, ports and certificates are \
         right, and that no firewall lies between"
    )]
    Unreachable {
        /// The store.
        place: Location,
        /// The last attempt's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// etcd answered, and does not let this store work there.
    #[error(
        "{place} refuses to serve: check the certificates, and that the user of the client certificate may read and write the prefix"
    )]
    Etcd {
        /// The store.
        place: Location,
        /// What etcd, or the making of the connection, says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why a commit has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Split the work, or make its parts safe to repeat.
    #[error("a commit of {count} operations has more than {}", limits::COMMIT_OPERATIONS_MAX)]
    TooManyOperations {
        /// Puts and deletes.
        count: usize,
    },
    /// A decision that rests on so many keys needs a key of its own.
    #[error("a commit of {count} conditions has more than {}", limits::COMMIT_CONDITIONS_MAX)]
    TooManyConditions {
        /// Conditions, and the leases of puts that no condition names.
        count: usize,
    },
    /// Large objects go to the object store.
    #[error("a commit of {bytes} bytes is larger than {}", limits::COMMIT_BYTES_MAX)]
    TooLarge {
        /// Keys and values together.
        bytes: usize,
    },
    /// One commit writes each key at most once.
    #[error("{key} is written twice in one commit")]
    KeyTwice {
        /// The repeated key.
        key: Key,
    },
    /// The outcome is unknown: the commit may have happened, and where no server answers, it may still. Read again before
    /// repeating it, and make it conditional on what was read.
    #[error("the outcome of the commit is unknown")]
    Store(#[from] StoreError),
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The history that the continuation needs is gone: start the listing over.
    #[error("revision {asked} of the listing is compacted; the oldest kept is {oldest}")]
    Compacted {
        /// The listing's revision.
        asked: Revision,
        /// The oldest revision that can still be listed.
        oldest: Revision,
    },
    /// The text is not a continuation, or names a revision that does not exist yet.
    #[error("the continuation is not one of this store")]
    BadContinuation,
    /// The continuation belongs to a listing of another prefix.
    #[error("the continuation is not one of a listing of {prefix}")]
    ForeignContinuation {
        /// The prefix of this request.
        prefix: Prefix,
    },
    /// [`crate::Store::list_all`] is for small collections.
    #[error(
        "{prefix} has more than {} entries: list it page by page",
        limits::LIST_ALL_ENTRIES_MAX
    )]
    TooMany {
        /// The prefix of this request.
        prefix: Prefix,
    },
    /// The store itself failed.
    #[error("the store did not answer the listing")]
    Store(#[from] StoreError),
}

/// Why a watch does not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The next changes are gone: list again and watch after that listing's revision.
    #[error("changes after revision {after} are compacted up to {compacted}")]
    Compacted {
        /// What the watch had seen.
        after: Revision,
        /// Changes up to here are gone.
        compacted: Revision,
    },
    /// The revision does not exist yet: it belongs to another store, or to this one before a restore.
    #[error("revision {after} is ahead of the store, which is at {current}")]
    Ahead {
        /// What was asked for.
        after: Revision,
        /// Where the store is.
        current: Revision,
    },
    /// The store itself failed or was closed.
    #[error("the store ended the watch")]
    Store(#[from] StoreError),
}

/// Why a compaction did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// Only the past can be compacted.
    #[error("revision {asked} is ahead of the store, which is at {current}")]
    Ahead {
        /// What was asked for.
        asked: Revision,
        /// Where the store is.
        current: Revision,
    },
    /// The store itself failed.
    #[error("the store did not compact")]
    Store(#[from] StoreError),
}

/// Why a lease was not granted, renewed or revoked.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Outside the limits.
    #[error(
        "a lease of {asked:?} is not between {:?} and {:?}",
        limits::LEASE_TTL_MIN,
        limits::LEASE_TTL_MAX
    )]
    TtlOutOfRange {
        /// The time to live that was asked for.
        asked: Duration,
    },
    /// As many leases as the embedded store allows are live.
    #[error("{} leases are live already", limits::LEASES_MAX)]
    TooMany,
    /// It expired, was revoked, or was never granted; the keys that it held are gone.
    #[error("lease {0} is not live")]
    NotLive(LeaseId),
    /// The store itself failed.
    #[error("the store did not answer for the lease")]
    Store(#[from] StoreError),
}
