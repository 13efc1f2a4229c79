//! Watches: every change below a prefix, once and in order.

use crate::embedded::Watcher;
use crate::{Entry, Key, Prefix, Revision, WatchError};

/// What one commit did to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key was created or replaced.
    Put(Entry),
    /// The key was deleted, by a commit or with its lease.
    Deleted(Key),
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &Key {
        match self {
            Change::Put(entry) => &entry.key,
            Change::Deleted(key) => key,
        }
    }
}

/// All that one revision changed below the watched prefix; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The revision that every change in here was made at.
    pub revision: Revision,
    /// At most one for each key.
    pub changes: Vec<Change>,
}

impl Changes {
    /// The part of this revision below `prefix`, or nothing when there is none.
    pub(crate) fn under(&self, prefix: &Prefix) -> Option<Changes> {
        let changes: Vec<_> = self
            .changes
            .iter()
            .filter(|change| change.key().is_under(prefix))
            .cloned()
            .collect();
        (!changes.is_empty()).then_some(Changes {
            revision: self.revision,
            changes,
        })
    }
}

/// A running watch. It holds little memory however slow its reader is; dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Embedded(Watcher),
}

impl Watch {
    pub(crate) fn embedded(watcher: Watcher) -> Watch {
        Watch {
            source: Source::Embedded(watcher),
        }
    }

    /// Waits for the next revision that changed something below the prefix. Cancelling the wait loses nothing.
    ///
    /// After [`WatchError::Compacted`] the watch tells nothing more; so it is after a closed store.
    pub async fn next(&mut self) -> Result<Changes, WatchError> {
        match &mut self.source {
            Source::Embedded(watcher) => watcher.next().await,
        }
    }

    /// Every change up to this revision has been told: where a watch that replaces this one starts.
    pub fn seen(&self) -> Revision {
        match &self.source {
            Source::Embedded(watcher) => watcher.seen(),
        }
    }
}
