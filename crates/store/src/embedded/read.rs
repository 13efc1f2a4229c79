//! Reading: snapshots of the file, on blocking threads, beside the writer.

use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use redb::{Database, ReadOnlyTable, ReadableDatabase};
use tokio::sync::Semaphore;

use super::fault::Fault;
use super::file::{COMPACTED, INDEX, LOG, META, REVISION};
use super::row::{At, newest, with_row};
use crate::limits::{PAGE_BYTES_MAX, READS_MAX, WATCH_READ_BYTES, WATCH_READ_CHANGES};
use crate::{Change, Changes, Continuation, Entry, Key, List, ListError, Page, Prefix, Revision, StoreError};

/// Reads the file while the store is open, without keeping it open.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    db: Arc<Mutex<Weak<Database>>>,
    permits: Arc<Semaphore>,
}

/// The file is closed after a failed write, and not open again yet.
#[derive(Debug, thiserror::Error)]
#[error("a write to it failed, and it is not open again yet")]
struct Away;

impl Reader {
    pub(super) fn new(db: &Arc<Database>) -> Reader {
        Reader {
            db: Arc::new(Mutex::new(Arc::downgrade(db))),
            permits: Arc::new(Semaphore::new(READS_MAX)),
        }
    }

    /// Lets `look` see the newest state, which nothing changes under it.
    pub(super) async fn read<T, E>(&self, look: impl FnOnce(&Snapshot) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| StoreError::Closed)?;
        let db = self.db.clone();
        let reading = tokio::task::spawn_blocking(move || {
            // Declared in this order, so that the permit outlives the hold on the file.
            let _permit = permit;
            let db = db.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
            let db = db.ok_or_else(|| StoreError::Failed {
                doing: "read its file",
                source: Arc::new(Away),
            })?;
            let snapshot = Snapshot::take(&db).map_err(StoreError::from)?;
            look(&snapshot)
        });
        reading.await.map_err(|panic| StoreError::Failed {
            doing: "read its file",
            source: Arc::new(panic),
        })?
    }

    /// Fails every later read, and waits for those in flight: nobody holds the file then.
    pub(super) async fn let_go(&self) {
        *self.db.lock().unwrap_or_else(PoisonError::into_inner) = Weak::new();
        let _all = self.permits.acquire_many(READS_MAX as u32).await;
    }

    /// Reads this file from now on.
    pub(super) fn take(&self, db: &Arc<Database>) {
        *self.db.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(db);
    }

    /// Waits for every read in flight and refuses all later ones.
    pub(super) async fn shut(&self) {
        let _all = self.permits.acquire_many(READS_MAX as u32).await;
        self.permits.close();
    }
}

/// The file at one moment.
pub(super) struct Snapshot {
    revision: Revision,
    compacted: Revision,
    log: ReadOnlyTable<At, &'static [u8]>,
    index: ReadOnlyTable<(&'static str, u64), u32>,
}

/// A part of the history: whole revisions, in order.
pub(super) struct Read {
    /// Only those that changed something below the prefix.
    pub(super) changes: Vec<Changes>,
    /// Every change up to here was looked at.
    pub(super) upto: Revision,
    /// Whether that was all there was.
    pub(super) complete: bool,
}

impl Snapshot {
    fn take(db: &Database) -> Result<Snapshot, Fault> {
        let read = db.begin_read()?;
        let meta = read.open_table(META)?;
        let number = |name| Ok::<u64, Fault>(meta.get(name)?.map_or(0, |number| number.value()));
        Ok(Snapshot {
            revision: Revision::new(number(REVISION)?),
            compacted: Revision::new(number(COMPACTED)?),
            log: read.open_table(LOG)?,
            index: read.open_table(INDEX)?,
        })
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(super) fn get(&self, key: &Key) -> Result<Option<Entry>, Fault> {
        match newest(&self.index, key.as_str())? {
            Some(at) => self.entry(at),
            None => Ok(None),
        }
    }

    fn entry(&self, at: At) -> Result<Option<Entry>, Fault> {
        with_row(&self.log, at, |row| {
            Ok(match row.change(at)? {
                Change::Put(entry) => Some(entry),
                Change::Deleted(_) => None,
            })
        })
    }

    pub(super) fn page(&self, request: &List) -> Result<Page, ListError> {
        let revision = match &request.after {
            Some(after) => self.revision_of(after, &request.prefix)?,
            None => self.revision,
        };
        let (entries, more) = self.entries(request, revision).map_err(StoreError::from)?;
        let last = entries.last().filter(|_| more).map(|entry| entry.key.clone());
        let next = last.map(|last| Continuation { revision, last });
        Ok(Page {
            entries,
            revision,
            next,
        })
    }

    /// The revision that a continuation asks for, if it belongs to this prefix and is still kept.
    fn revision_of(&self, after: &Continuation, prefix: &Prefix) -> Result<Revision, ListError> {
        if !after.last.is_under(prefix) {
            return Err(ListError::ForeignContinuation { prefix: prefix.clone() });
        }
        if after.revision > self.revision {
            return Err(ListError::BadContinuation);
        }
        if after.revision < self.compacted {
            return Err(ListError::Compacted {
                asked: after.revision,
                oldest: self.compacted,
            });
        }
        Ok(after.revision)
    }

    /// The entries of one page as of `revision`, and whether another one follows.
    fn entries(&self, request: &List, revision: Revision) -> Result<(Vec<Entry>, bool), Fault> {
        let start = match &request.after {
            Some(after) => Bound::Excluded((after.last.as_str(), u64::MAX)),
            None => Bound::Included((request.prefix.as_str(), 0)),
        };
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let mut candidate: Option<(String, At)> = None;
        let mut rows = self.index.range::<(&str, u64)>((start, Bound::Unbounded))?;
        loop {
            let row = rows.next().transpose()?;
            let version = row.as_ref().map(|(name, change)| (name.value(), change.value()));
            let version = version.filter(|((key, _), _)| key.starts_with(request.prefix.as_str()));
            let same_key = |key: &str| candidate.as_ref().is_some_and(|(candidate, _)| candidate == key);
            // The versions of a key follow one another: with the next key, the newest one in time is known.
            if !version.is_some_and(|((key, _), _)| same_key(key))
                && let Some((_, at)) = candidate.take()
                && let Some(entry) = self.entry(at)?
            {
                if entries.len() >= request.limit || bytes >= PAGE_BYTES_MAX {
                    return Ok((entries, true));
                }
                bytes += entry.key.as_str().len() + entry.value.len();
                entries.push(entry);
            }
            match version {
                Some(((key, at), change)) if at <= revision.number() => {
                    candidate = Some((key.to_owned(), (at, change)))
                }
                Some(_) => {}
                None => return Ok((entries, false)),
            }
        }
    }

    /// The changes below `prefix` after a revision that is at or past the compacted one.
    pub(super) fn changes(&self, prefix: &Prefix, after: Revision) -> Result<Read, Fault> {
        let mut read = Read {
            changes: Vec::new(),
            upto: after,
            complete: false,
        };
        let (mut looked_at, mut bytes) = (0, 0);
        for entry in self.log.range((after.number() + 1, 0)..)? {
            let (at, row) = entry?;
            let at = at.value();
            let revision = Revision::new(at.0);
            if revision > read.upto {
                if looked_at >= WATCH_READ_CHANGES || bytes >= WATCH_READ_BYTES {
                    return Ok(read);
                }
                read.upto = revision;
            }
            looked_at += 1;
            let row = super::row::Row::decode(at, row.value())?;
            if row.key.starts_with(prefix.as_str()) {
                bytes += row.key.len() + row.put.map_or(0, |put| put.value.len());
                read.add(revision, row.change(at)?);
            }
        }
        read.upto = read.upto.max(self.revision);
        read.complete = true;
        Ok(read)
    }
}

impl Read {
    fn add(&mut self, revision: Revision, change: Change) {
        match self.changes.last_mut() {
            Some(last) if last.revision == revision => last.changes.push(change),
            _ => self.changes.push(Changes {
                revision,
                changes: vec![change],
            }),
        }
    }
}
