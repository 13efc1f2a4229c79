//! Watches: every change below a prefix, once and in order.

use crate::{Entry, Key, Prefix, Revision, WatchError, embedded, etcd};

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
    Embedded(embedded::Watcher),
    Etcd(etcd::Watcher),
}

impl Watch {
    pub(crate) fn embedded(watcher: embedded::Watcher) -> Watch {
        Watch {
            source: Source::Embedded(watcher),
        }
    }

    pub(crate) fn etcd(watcher: etcd::Watcher) -> Watch {
        Watch {
            source: Source::Etcd(watcher),
        }
    }

    /// Waits for the next revision that changed something below the prefix. Cancelling the wait loses nothing.
    ///
    /// After [`WatchError::Compacted`] the watch tells nothing more; so it is after a closed store. An outage of etcd ends no watch.
    pub async fn next(&mut self) -> Result<Changes, WatchError> {
        loop {
            if let Some(changes) = self.advance().await? {
                return Ok(changes);
            }
        }
    }

    /// As [`Watch::next`], but ends as well, with nothing, whenever [`Watch::seen`] has moved on past changes elsewhere.
    pub async fn advance(&mut self) -> Result<Option<Changes>, WatchError> {
        match &mut self.source {
            Source::Embedded(watcher) => watcher.advance().await,
            Source::Etcd(watcher) => watcher.advance().await,
        }
    }

    /// Every change up to this revision has been told: where a watch that replaces this one starts.
    pub fn seen(&self) -> Revision {
        match &self.source {
            Source::Embedded(watcher) => watcher.seen(),
            Source::Etcd(watcher) => watcher.seen(),
        }
    }
}
