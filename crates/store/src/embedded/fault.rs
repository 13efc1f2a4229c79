//! Why the file could not be read or written, before it is known what for.

use std::sync::Arc;

use crate::StoreError;

/// An error of redb, or a record that redb gave back whole and that makes no sense.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Redb(#[from] redb::Error),
    #[error("the record of revision {revision}, change {change}, is damaged")]
    Row { revision: u64, change: u32 },
    #[error("the index names revision {revision}, change {change}, which the log lacks")]
    RowMissing { revision: u64, change: u32 },
}

macro_rules! from_redb {
    ($($error:ty),*) => {
        $(impl From<$error> for Fault {
            fn from(error: $error) -> Fault {
                Fault::Redb(error.into())
            }
        })*
    };
}

from_redb!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::SetDurabilityError,
    redb::DatabaseError
);

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> StoreError {
        StoreError::Failed {
            doing: "read its file",
            source: Arc::new(fault),
        }
    }
}
