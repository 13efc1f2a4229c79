//! One watcher: reads history from the file until it has caught up, then follows the commits in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::read::{Read, Reader};
use crate::{Changes, Prefix, Revision, StoreError, WatchError};

/// Nothing is queued for a watcher but one bounded read of history: a slow one falls behind in the shared buffer, reads
/// the file again, and finds its place compacted if it is slower than compaction.
#[derive(Debug)]
pub(crate) struct Watcher {
    reader: Reader,
    live: broadcast::Receiver<Arc<Changes>>,
    prefix: Prefix,
    seen: Revision,
    /// Read from the file, not yet told.
    backlog: VecDeque<Changes>,
    /// Once the backlog is told, everything up to here is seen.
    read_upto: Revision,
    /// Whether the file may hold revisions after `read_upto` that the live channel will not bring.
    behind: bool,
}

impl Watcher {
    /// `live` must have been subscribed before this call.
    pub(super) async fn start(
        reader: Reader,
        live: broadcast::Receiver<Arc<Changes>>,
        prefix: Prefix,
        after: Revision,
    ) -> Result<Watcher, WatchError> {
        let backlog = VecDeque::new();
        let mut watcher = Watcher {
            reader,
            live,
            prefix,
            seen: after,
            backlog,
            read_upto: after,
            behind: true,
        };
        watcher.catch_up().await?;
        Ok(watcher)
    }

    pub(crate) fn seen(&self) -> Revision {
        self.seen
    }

    /// The next revision with changes, or nothing when only `seen` has moved.
    pub(crate) async fn advance(&mut self) -> Result<Option<Changes>, WatchError> {
        loop {
            if let Some(changes) = self.backlog.pop_front() {
                self.seen = changes.revision;
                return Ok(Some(changes));
            }
            if self.read_upto > self.seen {
                self.seen = self.read_upto;
                return Ok(None);
            }
            if self.behind {
                self.catch_up().await?;
                continue;
            }
            let before = self.seen;
            match self.follow().await? {
                None if self.seen == before => {}
                told => return Ok(told),
            }
        }
    }

    /// Reads the next part of history. Cancelling it leaves the watcher as it was.
    async fn catch_up(&mut self) -> Result<(), WatchError> {
        let (prefix, after) = (self.prefix.clone(), self.seen);
        let read = self.reader.read(move |snapshot| {
            if after > snapshot.revision() {
                return Err(WatchError::Ahead {
                    after,
                    current: snapshot.revision(),
                });
            }
            if after < snapshot.compacted() {
                return Err(WatchError::Compacted {
                    after,
                    compacted: snapshot.compacted(),
                });
            }
            Ok(snapshot.changes(&prefix, after).map_err(StoreError::from)?)
        });
        let Read {
            changes,
            upto,
            complete,
        } = read.await?;
        self.backlog.extend(changes);
        self.read_upto = upto;
        self.behind = !complete;
        Ok(())
    }

    /// Takes the next revision from the live channel, which brings every one in order; a gap sends it to the file.
    async fn follow(&mut self) -> Result<Option<Changes>, WatchError> {
        match self.live.recv().await {
            Ok(changes) if changes.revision <= self.seen => Ok(None),
            Ok(changes) if changes.revision == self.seen.next() => {
                self.seen = changes.revision;
                Ok(changes.under(&self.prefix))
            }
            Ok(_) | Err(RecvError::Lagged(_)) => {
                self.behind = true;
                Ok(None)
            }
            Err(RecvError::Closed) => Err(StoreError::Closed.into()),
        }
    }
}
