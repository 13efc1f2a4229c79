//! The owner task: one queue of requests, one clock for leases, one writer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::file;
use super::leases::Leases;
use super::read::Reader;
use super::writer::{Writer, Written};
use crate::limits::{GROUP_COMMITS_MAX, REOPEN_PAUSE};
use crate::{
    Changes, Commit, CommitError, CompactError, Lease, LeaseError, LeaseId, Outcome, Prefix, Revision, StoreError,
};

/// A question, and the way back for its answer.
pub(super) struct Asked<Q, T, E> {
    pub(super) question: Q,
    /// Set while the group is written, sent once it is on disk.
    pub(super) answer: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

/// What the owner is asked to do.
pub(super) enum Request {
    Commit(Asked<Commit, Outcome, CommitError>),
    Compact(Asked<Revision, (), CompactError>),
    Grant(Asked<Duration, Lease, LeaseError>),
    KeepAlive(Asked<LeaseId, (), LeaseError>),
    Revoke(Asked<LeaseId, (), LeaseError>),
    Close(Asked<(), (), StoreError>),
}

impl<Q, T, E: From<StoreError>> Asked<Q, T, E> {
    pub(super) fn new(question: Q) -> (Asked<Q, T, E>, oneshot::Receiver<Result<T, E>>) {
        let (reply, answer) = oneshot::channel();
        (
            Asked {
                question,
                answer: None,
                reply,
            },
            answer,
        )
    }

    /// Sends the answer; whoever asked may have gone, which changes nothing.
    fn send(self, answer: Result<T, E>) {
        let _ = self.reply.send(answer);
    }

    fn finish(mut self, otherwise: StoreError) {
        let answer = self.answer.take().unwrap_or(Err(otherwise.into()));
        self.send(answer);
    }
}

impl Request {
    /// Sends the answer that writing has set; a request without one fails with `otherwise`.
    fn finish(self, otherwise: StoreError) {
        match self {
            Request::Commit(asked) => asked.finish(otherwise),
            Request::Compact(asked) => asked.finish(otherwise),
            Request::Grant(asked) => asked.finish(otherwise),
            Request::KeepAlive(asked) | Request::Revoke(asked) => asked.finish(otherwise),
            Request::Close(asked) => asked.finish(otherwise),
        }
    }

    /// Fails whatever writing has set, since it did not reach the disk.
    fn fail(self, error: StoreError) {
        match self {
            Request::Commit(asked) => asked.send(Err(error.into())),
            Request::Compact(asked) => asked.send(Err(error.into())),
            Request::Grant(asked) => asked.send(Err(error.into())),
            Request::KeepAlive(asked) | Request::Revoke(asked) => asked.send(Err(error.into())),
            Request::Close(asked) => asked.send(Err(error)),
        }
    }
}

/// Why the owner woke up.
enum Wake {
    /// With what waited in the queue; perhaps nothing, when a lease is due or compaction goes on.
    Work(Vec<Request>),
    /// Every handle is gone.
    Abandoned,
}

/// Owns the writer for as long as the store is open.
pub(super) struct Owner {
    writer: Writer,
    incoming: mpsc::Receiver<Request>,
    live: broadcast::Sender<Arc<Changes>>,
    reader: Reader,
    compactions: Vec<Asked<Revision, (), CompactError>>,
    path: PathBuf,
    /// The newest revision that watchers were told.
    told: Revision,
}

impl Owner {
    /// `told` is the newest revision in the file.
    pub(super) fn new(
        writer: Writer,
        incoming: mpsc::Receiver<Request>,
        live: broadcast::Sender<Arc<Changes>>,
        reader: Reader,
        (path, told): (PathBuf, Revision),
    ) -> Owner {
        Owner {
            writer,
            incoming,
            live,
            reader,
            compactions: Vec::new(),
            path,
            told,
        }
    }

    /// Works until it is closed or abandoned. After a failed write the file is opened again, because redb may or may not have kept
    /// it: only that tells.
    pub(super) async fn run(mut self) {
        loop {
            let Wake::Work(requests) = self.wake().await else {
                let _ = self.shut_down().await;
                return;
            };
            let (closing, requests) = self.sort(requests);
            let Some(owner) = self.write(requests).await else {
                return;
            };
            self = owner;
            if let Some(asked) = closing {
                let closed = self.shut_down().await;
                asked.send(closed);
                return;
            }
        }
    }

    async fn wake(&mut self) -> Wake {
        let mut requests = Vec::new();
        let deadline = self.writer.leases.next_deadline();
        let expiry = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            count = self.incoming.recv_many(&mut requests, GROUP_COMMITS_MAX) => {
                if count == 0 {
                    return Wake::Abandoned;
                }
            }
            () = expiry => {}
            () = std::future::ready(()), if self.writer.compacting => {}
        }
        Wake::Work(requests)
    }

    /// Renews leases at once, before any expiry of this round: a holder that asked in time is not punished for a slow
    /// disk. Takes out the wish to close; what was sent after it is answered as by a closed store.
    fn sort(&mut self, requests: Vec<Request>) -> (Option<Asked<(), (), StoreError>>, Vec<Request>) {
        let now = Instant::now();
        let mut writes = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter();
        for request in requests.by_ref() {
            match request {
                Request::KeepAlive(asked) => {
                    let lease = asked.question;
                    let renewed = self.writer.leases.renew(lease, now);
                    asked.send(if renewed {
                        Ok(())
                    } else {
                        Err(LeaseError::NotLive(lease))
                    });
                }
                Request::Close(asked) => {
                    requests.for_each(|late| late.fail(StoreError::Closed));
                    return (Some(asked), writes);
                }
                write => writes.push(write),
            }
        }
        (None, writes)
    }

    /// Writes one group on a blocking thread; returns nothing when the store has ended.
    async fn write(mut self, mut requests: Vec<Request>) -> Option<Owner> {
        let now = Instant::now();
        let due = self.writer.leases.due(now);
        if due.is_empty() && requests.is_empty() && !self.writer.compacting {
            return Some(self);
        }
        let writing = tokio::task::spawn_blocking(move || {
            let written = self.writer.write(&due, &mut requests, now);
            (self, requests, written)
        });
        let (owner, requests, written) = match writing.await {
            Ok(written) => written,
            // A panic below redb: everything that waited is dropped, and so answered as by a closed store.
            Err(_) => return None,
        };
        match written {
            Ok(written) => Some(owner.publish(requests, written)),
            Err(fault) => {
                let error = StoreError::Failed {
                    doing: "write its file",
                    source: Arc::new(fault),
                };
                owner.open_again(requests, error).await
            }
        }
    }

    fn publish(mut self, requests: Vec<Request>, written: Written) -> Owner {
        for changes in written.changes {
            self.tell(changes);
        }
        for request in requests {
            match request {
                Request::Compact(asked) if asked.answer.is_none() => self.compactions.push(asked),
                request => request.finish(StoreError::Closed),
            }
        }
        for asked in std::mem::take(&mut self.compactions) {
            if asked.question <= written.compacted {
                asked.send(Ok(()));
            } else {
                self.compactions.push(asked);
            }
        }
        self
    }

    fn tell(&mut self, changes: Arc<Changes>) {
        self.told = changes.revision;
        // No watcher is no error.
        let _ = self.live.send(changes);
    }

    /// Gives the file up after a failed write, and opens it again as soon as that succeeds; everything that is asked meanwhile fails.
    /// Nothing when the store is closed or abandoned before.
    async fn open_again(mut self, requests: Vec<Request>, error: StoreError) -> Option<Owner> {
        requests.into_iter().for_each(|request| request.fail(error.clone()));
        for asked in std::mem::take(&mut self.compactions) {
            asked.send(Err(error.clone().into()));
        }
        self.reader.let_go().await;
        let Owner {
            writer,
            mut incoming,
            live,
            reader,
            path,
            told,
            ..
        } = self;
        let history = writer.history;
        // Closing a file that failed may fail as well, and is the last that is heard of it.
        let _ = tokio::task::spawn_blocking(move || writer.close()).await;
        let (db, leases) = loop {
            let pause = tokio::time::sleep(REOPEN_PAUSE);
            tokio::pin!(pause);
            loop {
                let request = tokio::select! {
                    () = &mut pause => break,
                    request = incoming.recv() => request?,
                };
                if let Request::Close(asked) = request {
                    reader.shut().await;
                    asked.send(Ok(()));
                    return None;
                }
                request.fail(error.clone());
            }
            if let Ok(opened) = file::open(path.clone()).await {
                break opened;
            }
        };
        reader.take(&db);
        // Leases begin anew, as after a start: nobody could renew them.
        let writer = Writer::new(db, Leases::new(leases, Instant::now()), history);
        let mut owner = Owner::new(writer, incoming, live, reader, (path, told));
        owner.tell_missed().await;
        Some(owner)
    }

    /// Tells watchers what the file has and they were not told: a commit that failed after it was kept.
    async fn tell_missed(&mut self) {
        loop {
            let told = self.told;
            let missed = self.reader.read(move |snapshot| {
                let missed = snapshot.changes(&Prefix::root(), told);
                missed.map_err(StoreError::from)
            });
            // One that cannot be read now ends the watches when they catch up themselves.
            let Ok(missed) = missed.await else { return };
            let complete = missed.complete;
            for changes in missed.changes {
                self.tell(Arc::new(changes));
            }
            if complete {
                return;
            }
        }
    }

    /// Waits for the readers, then gives the file back.
    async fn shut_down(self) -> Result<(), StoreError> {
        self.reader.shut().await;
        let writer = self.writer;
        let closing = tokio::task::spawn_blocking(move || writer.close());
        match closing.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(fault)) => Err(StoreError::Failed {
                doing: "close its file",
                source: Arc::new(fault),
            }),
            Err(panic) => Err(StoreError::Failed {
                doing: "close its file",
                source: Arc::new(panic),
            }),
        }
    }
}
