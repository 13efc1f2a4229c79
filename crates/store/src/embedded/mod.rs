//! The embedded store: one redb file, one task that writes it, any number of readers.
//!
//! Absences: nothing but the owner task writes; no reader waits for a writer; no deadline is on disk.

mod compact;
mod fault;
mod file;
mod leases;
mod owner;
mod read;
mod row;
#[cfg(test)]
mod tests;
mod transaction;
mod watcher;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;

use crate::limits::{HISTORY_BYTES_MAX, HISTORY_REVISIONS_MAX, WATCH_BUFFER_REVISIONS, WRITE_QUEUE_MAX};
use crate::{
    Changes, Commit, CommitError, CompactError, Entry, Key, Lease, LeaseError, LeaseId, List, ListError, Location,
    OpenError, Outcome, Page, Prefix, Revision, StoreError, WatchError,
};
use leases::Leases;
use owner::{Asked, Owner, Request};
use read::Reader;
pub(crate) use watcher::Watcher;
use writer::Writer;

/// How much history the embedded store keeps; the production bounds are in [`crate::limits`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct History {
    pub(crate) revisions: u64,
    pub(crate) bytes: u64,
}

impl Default for History {
    fn default() -> History {
        History {
            revisions: HISTORY_REVISIONS_MAX,
            bytes: HISTORY_BYTES_MAX,
        }
    }
}

/// A handle of the embedded store, behind [`crate::Store::Embedded`].
#[derive(Debug, Clone)]
pub struct Embedded {
    requests: mpsc::Sender<Request>,
    reader: Reader,
    // Weak, so that the owner's end of the channel closes with the owner and ends the watches.
    live: broadcast::WeakSender<Arc<Changes>>,
}

impl Embedded {
    pub(crate) async fn open(path: PathBuf) -> Result<Embedded, OpenError> {
        Embedded::open_keeping(path, History::default()).await
    }

    pub(crate) async fn open_keeping(path: PathBuf, history: History) -> Result<Embedded, OpenError> {
        let (db, leases) = file::open(path.clone()).await?;
        let reader = Reader::new(&db);
        let (requests, incoming) = mpsc::channel(WRITE_QUEUE_MAX);
        let (live, _) = broadcast::channel(WATCH_BUFFER_REVISIONS);
        let embedded = Embedded {
            requests,
            reader: reader.clone(),
            live: live.downgrade(),
        };
        let writer = Writer::new(db, Leases::new(leases, Instant::now()), history);
        let told = reader.read(|snapshot| Ok::<_, StoreError>(snapshot.revision())).await;
        let told = told.map_err(|error| OpenError::Corrupt {
            place: Location::Embedded(path.clone()),
            source: Box::new(error),
        })?;
        tokio::spawn(Owner::new(writer, incoming, live, reader, (path, told)).run());
        Ok(embedded)
    }

    pub(crate) async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let key = key.clone();
        self.reader.read(move |snapshot| Ok(snapshot.get(&key)?)).await
    }

    pub(crate) async fn revision(&self) -> Result<Revision, StoreError> {
        self.reader.read(|snapshot| Ok(snapshot.revision())).await
    }

    pub(crate) async fn list(&self, request: List) -> Result<Page, ListError> {
        self.reader.read(move |snapshot| snapshot.page(&request)).await
    }

    pub(crate) async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watcher, WatchError> {
        // Subscribed before the first read: a revision is either in that read or still to come.
        let live = self.live.upgrade().ok_or(StoreError::Closed)?.subscribe();
        Watcher::start(self.reader.clone(), live, prefix.clone(), after).await
    }

    pub(crate) async fn commit(&self, commit: Commit) -> Result<Outcome, CommitError> {
        self.ask(commit, Request::Commit).await
    }

    pub(crate) async fn compact(&self, upto: Revision) -> Result<(), CompactError> {
        self.ask(upto, Request::Compact).await
    }

    pub(crate) async fn grant_lease(&self, ttl: Duration) -> Result<Lease, LeaseError> {
        self.ask(ttl, Request::Grant).await
    }

    pub(crate) async fn keep_alive(&self, lease: LeaseId) -> Result<(), LeaseError> {
        self.ask(lease, Request::KeepAlive).await
    }

    pub(crate) async fn revoke_lease(&self, lease: LeaseId) -> Result<(), LeaseError> {
        self.ask(lease, Request::Revoke).await
    }

    pub(crate) async fn close(self) -> Result<(), StoreError> {
        self.ask((), Request::Close).await
    }

    /// Asks the owner and waits for its answer; an owner that is gone answers as a closed store.
    async fn ask<Q, T, E: From<StoreError>>(
        &self,
        question: Q,
        request: impl FnOnce(Asked<Q, T, E>) -> Request,
    ) -> Result<T, E> {
        let (asked, answer) = Asked::new(question);
        self.requests
            .send(request(asked))
            .await
            .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}
