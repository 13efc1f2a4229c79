//! One watcher: a task that follows etcd across every lost connection, and a short queue to its reader.

use etcd_client::WatchStream;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::call::{Backoff, Calls, Fault};
use super::follow::{Broken, End, Gatherer, Source, open_patiently};
use super::layout::revision;
use crate::limits::ETCD_WATCH_QUEUE;
use crate::{Changes, Prefix, Revision, StoreError, WatchError};

/// The reader's end.
#[derive(Debug)]
pub(crate) struct Watcher {
    told: mpsc::Receiver<Told>,
    seen: Revision,
    ended: Option<End>,
}

/// What the task tells.
#[derive(Debug)]
enum Told {
    Changes(Changes),
    /// Nothing more happened below the prefix up to here.
    Seen(Revision),
    /// The last word.
    Ended(End),
}

impl Watcher {
    pub(super) async fn start(
        calls: &Calls,
        source: Source,
        prefix: Prefix,
        after: Revision,
    ) -> Result<Watcher, WatchError> {
        let stream = open_patiently(calls, &source, after).await;
        let stream = stream.map_err(|end| end.error(after))?;
        let (tell, told) = mpsc::channel(ETCD_WATCH_QUEUE);
        let gatherer = Gatherer::new(source.layout.clone(), prefix, after);
        tokio::spawn(Follower { source, gatherer, tell }.run(stream));
        Ok(Watcher {
            told,
            seen: after,
            ended: None,
        })
    }

    pub(crate) fn seen(&self) -> Revision {
        self.seen
    }

    pub(crate) async fn advance(&mut self) -> Result<Option<Changes>, WatchError> {
        if self.ended.is_none() {
            match self.told.recv().await {
                Some(Told::Changes(changes)) => {
                    self.seen = changes.revision;
                    return Ok(Some(changes));
                }
                Some(Told::Seen(seen)) => {
                    self.seen = seen;
                    return Ok(None);
                }
                Some(Told::Ended(end)) => self.ended = Some(end),
                None => {}
            }
        }
        match &self.ended {
            Some(end) => Err(end.error(self.seen)),
            None => Err(StoreError::Closed.into()),
        }
    }
}

/// The task's end.
struct Follower {
    source: Source,
    gatherer: Gatherer,
    tell: mpsc::Sender<Told>,
}

/// The reader has dropped its end.
struct Alone;

impl Follower {
    /// Follows until the reader is gone, the store ends, or etcd says that there is nothing to follow.
    async fn run(mut self, stream: WatchStream) {
        let (tell, mut closed) = (self.tell.clone(), self.source.closed.clone());
        let end = tokio::select! {
            () = tell.closed() => return,
            _ = closed.wait_for(|closed| *closed) => End::Failed(StoreError::Closed),
            end = self.follow(stream) => match end {
                Ok(end) => end,
                Err(Alone) => return,
            },
        };
        // A reader that is gone needs no last word.
        let _ = tell.send(Told::Ended(end)).await;
    }

    async fn follow(&mut self, mut stream: WatchStream) -> Result<End, Alone> {
        let mut backoff = Backoff::new();
        loop {
            let before = self.gatherer.seen;
            if let Some(end) = self.read(&mut stream).await? {
                return Ok(end);
            }
            if self.gatherer.seen > before {
                backoff = Backoff::new();
            }
            self.gatherer.begin_again();
            stream = loop {
                sleep(backoff.next()).await;
                match self.source.open(self.gatherer.seen).await {
                    Ok(stream) => break stream,
                    Err(Broken::For(end)) => return Ok(end),
                    // The outage of a store ends no watch.
                    Err(Broken::Passing(_)) => {}
                }
            };
        }
    }

    /// Reads one stream to its end; says why, if no other stream goes on from there.
    async fn read(&mut self, stream: &mut WatchStream) -> Result<Option<End>, Alone> {
        loop {
            let answer = match stream.message().await {
                Ok(Some(answer)) => answer,
                Ok(None) => return Ok(None),
                Err(error) => {
                    return Ok(match Broken::from(Fault::from(error)) {
                        Broken::Passing(_) => None,
                        Broken::For(end) => Some(end),
                    });
                }
            };
            if answer.canceled() {
                let compacted = revision(answer.compact_revision());
                return Ok((compacted > Revision::ZERO).then_some(End::Compacted { compacted }));
            }
            let before = self.gatherer.seen;
            let whole = self.gatherer.take(answer);
            let mut last = before;
            for changes in whole {
                last = changes.revision;
                self.tell(Told::Changes(changes)).await?;
            }
            if self.gatherer.seen > last {
                self.tell(Told::Seen(self.gatherer.seen)).await?;
            }
        }
    }

    async fn tell(&self, told: Told) -> Result<(), Alone> {
        self.tell.send(told).await.map_err(|_| Alone)
    }
}
