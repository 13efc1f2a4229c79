//! The thread that owns a log, and the bounded queue before it.
//!
//! Records that somebody waits for are committed at once, as many together as have come meanwhile. Records that nobody waits for
//! are written at once and committed with the next ones, at the latest after
//! [`COMMIT_INTERVAL`](crate::limits::COMMIT_INTERVAL): a process that is killed loses of them what is in the queue, and a power
//! cut what is not committed. Those that could not be written at all are counted, and the log itself says how many.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::limits::{COMMIT_INTERVAL, COMMIT_RECORDS, RETRY_INTERVAL, WRITER_QUEUE};
use crate::log::{Log, LogError, OpenError};

/// What the thread needs of the process around it.
pub trait Host: Send + 'static {
    /// The time now, in milliseconds since 1970.
    fn now_unix_ms(&self) -> u64;

    /// A record that says that so many were not written since then.
    fn gap(&self, records: u64, since_unix_ms: u64) -> Vec<u8>;

    /// The log cannot be opened or written; for the process's own words.
    fn trouble(&self, error: &(dyn std::error::Error + 'static));
}

/// Opens a log at a time, in milliseconds since 1970, and says what its first record is.
pub type Opener = Box<dyn FnMut(u64) -> Result<(Log, Vec<u8>), OpenError> + Send>;

/// Why a record was not committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwritten {
    /// Too many wait already.
    #[error("{WRITER_QUEUE} records wait for the audit log already")]
    Busy,
    /// The log is closed.
    #[error("the audit log is closed")]
    Closed,
    /// It cannot be written.
    #[error("the audit log cannot be written: {0}")]
    Failed(String),
}

/// What is done with the outcome of a record: its index, once it is committed.
pub type Answer = Box<dyn FnOnce(Result<u64, Unwritten>) + Send>;

enum Order {
    Write(Vec<u8>, Option<Answer>),
    Close,
}

/// The way to a log for everything that has something to record.
#[derive(Clone, Debug)]
pub struct Handle {
    queue: SyncSender<Order>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Records that found the queue full, and that the log does not know of yet.
    dropped: AtomicU64,
    written: AtomicU64,
    unwritten: AtomicU64,
}

impl Handle {
    /// Records what nobody waits for. Never blocks: where there is no room it is counted.
    pub fn note(&self, record: Vec<u8>) {
        if self.queue.try_send(Order::Write(record, None)).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            self.counts.unwritten.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records what somebody waits for: `answer` is called once it is committed or is known not to be. Never blocks.
    pub fn commit(&self, record: Vec<u8>, answer: Answer) {
        match self.queue.try_send(Order::Write(record, Some(answer))) {
            Err(TrySendError::Full(Order::Write(_, Some(answer)))) => answer(Err(Unwritten::Busy)),
            Err(TrySendError::Disconnected(Order::Write(_, Some(answer)))) => answer(Err(Unwritten::Closed)),
            _ => {}
        }
    }

    /// Records that were committed since the start.
    pub fn written(&self) -> u64 {
        self.counts.written.load(Ordering::Relaxed)
    }

    /// Records that nobody waited for and that were not written since the start.
    pub fn unwritten(&self) -> u64 {
        self.counts.unwritten.load(Ordering::Relaxed)
    }
}

/// A log with the thread that writes it.
#[derive(Debug)]
pub struct Writer {
    handle: Handle,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Starts the thread with a log.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(log: Log, host: impl Host) -> std::io::Result<Self> {
        Self::spawn(Some(log), None, host)
    }

    /// Starts the thread without a log, for a process that goes on where it has none. It is opened as soon as that is possible,
    /// and what could not be written before is counted in it.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start_opening(open: Opener, host: impl Host) -> std::io::Result<Self> {
        Self::spawn(None, Some(open), host)
    }

    fn spawn(log: Option<Log>, open: Option<Opener>, host: impl Host) -> std::io::Result<Self> {
        let (queue, orders) = sync_channel(WRITER_QUEUE);
        let counts = Arc::new(Counts::default());
        let owner = Owner {
            log,
            open,
            closed_for: String::new(),
            host,
            orders,
            counts: Arc::clone(&counts),
            waiting: Vec::new(),
            noted: 0,
            in_gap: 0,
            missed: 0,
            missed_since: 0,
            commit_by: None,
            retry_at: None,
        };
        let thread = thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || owner.run())?;
        Ok(Self {
            handle: Handle { queue, counts },
            thread,
        })
    }

    /// A way to the log.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Commits what was recorded before this call, and ends the thread. Blocks until then.
    pub fn close(self) {
        // Where the thread is gone already, there is nothing to tell it.
        let _ = self.handle.queue.send(Order::Close);
        let _ = self.thread.join();
    }
}

struct Owner<H> {
    log: Option<Log>,
    open: Option<Opener>,
    /// Why there is no log.
    closed_for: String,
    host: H,
    orders: Receiver<Order>,
    counts: Arc<Counts>,
    /// Those who wait for a commit, with the index of their record.
    waiting: Vec<(u64, Answer)>,
    /// Records since the last commit that nobody waits for.
    noted: u64,
    /// Missed records that a record since the last commit tells of.
    in_gap: u64,
    /// Missed records that the log does not tell of yet.
    missed: u64,
    missed_since: u64,
    commit_by: Option<Instant>,
    /// After a failure: not before this.
    retry_at: Option<Instant>,
}

impl<H: Host> Owner<H> {
    fn run(mut self) {
        let _ = self.opened();
        loop {
            let mut closing = self.wait();
            for _ in 1..COMMIT_RECORDS {
                match self.orders.try_recv() {
                    Ok(order) if !closing => closing = self.take(order),
                    _ => break,
                }
            }
            self.tell_missed();
            let due = self.commit_by.is_some_and(|by| by <= Instant::now());
            if closing || due || !self.waiting.is_empty() || self.noted >= COMMIT_RECORDS as u64 {
                self.commit();
            }
            if closing {
                return;
            }
        }
    }

    /// Waits for an order or a deadline. Says whether to end.
    fn wait(&mut self) -> bool {
        let idle = self.missed == 0 && self.log.is_some();
        let retry = (!idle).then(|| self.retry_at.unwrap_or_else(Instant::now));
        let order = match self.commit_by.into_iter().chain(retry).min() {
            None => self.orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => self.orders.recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        match order {
            Ok(order) => self.take(order),
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        }
    }

    fn take(&mut self, order: Order) -> bool {
        let Order::Write(record, answer) = order else {
            return true;
        };
        if answer.is_none() && self.is_resting() {
            self.miss(1);
            return false;
        }
        // Somebody who waits has the log opened, also while it rests: what was missed until then comes before theirs.
        self.opened();
        self.tell_missed();
        let Some(log) = &mut self.log else {
            match answer {
                Some(answer) => answer(Err(Unwritten::Failed(self.closed_for.clone()))),
                None => self.miss(1),
            }
            return false;
        };
        match (log.append(&record), answer) {
            (Ok(index), Some(answer)) => self.waiting.push((index, answer)),
            (Ok(_), None) => {
                self.noted += 1;
                self.commit_by.get_or_insert_with(|| Instant::now() + COMMIT_INTERVAL);
            }
            (Err(error), answer) => {
                self.refused(&error);
                match answer {
                    Some(answer) => answer(Err(Unwritten::Failed(chain(&error)))),
                    None => self.miss(1),
                }
            }
        }
        false
    }

    fn is_resting(&self) -> bool {
        self.retry_at.is_some_and(|at| at > Instant::now())
    }

    fn miss(&mut self, records: u64) {
        if records > 0 && self.missed == 0 {
            self.missed_since = self.host.now_unix_ms();
        }
        self.missed += records;
        self.counts.unwritten.fetch_add(records, Ordering::Relaxed);
    }

    fn refused(&mut self, error: &LogError) {
        match error {
            LogError::TooLong { .. } => self.host.trouble(error),
            _ => self.fail(error),
        }
    }

    fn fail(&mut self, error: &(dyn std::error::Error + 'static)) {
        self.host.trouble(error);
        self.retry_at = Some(Instant::now() + RETRY_INTERVAL);
    }

    /// The log, which is opened where it is not.
    fn opened(&mut self) -> Option<&mut Log> {
        if self.log.is_none() {
            let outcome = self.open.as_mut().map(|open| open(self.host.now_unix_ms()))?;
            match outcome.and_then(|(mut log, first)| log.append(&first).map(|_| log).map_err(OpenError::Commit)) {
                Ok(log) => {
                    self.log = Some(log);
                    self.retry_at = None;
                    self.commit_by = Some(Instant::now());
                }
                Err(error) => {
                    self.closed_for = chain(&error);
                    self.fail(&error);
                }
            }
        }
        self.log.as_mut()
    }

    /// Writes down what was missed, before anything else is.
    fn tell_missed(&mut self) {
        let dropped = self.counts.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 && self.missed == 0 {
            self.missed_since = self.host.now_unix_ms();
        }
        self.missed += dropped;
        if self.missed == 0 || self.is_resting() {
            return;
        }
        let gap = self.host.gap(self.missed, self.missed_since);
        let Some(log) = self.opened() else { return };
        match log.append(&gap) {
            Ok(_) => {
                self.in_gap += std::mem::take(&mut self.missed);
                self.commit_by.get_or_insert_with(|| Instant::now() + COMMIT_INTERVAL);
            }
            Err(error) => self.refused(&error),
        }
    }

    fn commit(&mut self) {
        let Some(log) = &mut self.log else { return };
        let (size, before) = (log.size(), log.signed());
        let outcome = log.commit(self.host.now_unix_ms());
        let lost = log.size() < size;
        let waiting = std::mem::take(&mut self.waiting);
        match outcome {
            Ok(()) => {
                self.counts.written.fetch_add(size - before, Ordering::Relaxed);
                (self.noted, self.in_gap, self.commit_by, self.retry_at) = (0, 0, None, None);
                waiting.into_iter().for_each(|(index, answer)| answer(Ok(index)));
            }
            Err(error) => {
                self.fail(&error);
                self.commit_by = self.retry_at;
                if lost {
                    let noted = std::mem::take(&mut self.noted);
                    self.miss(noted);
                    self.missed += std::mem::take(&mut self.in_gap);
                    self.commit_by = None;
                }
                let why = chain(&error);
                waiting
                    .into_iter()
                    .for_each(|(_, answer)| answer(Err(Unwritten::Failed(why.clone()))));
            }
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}
