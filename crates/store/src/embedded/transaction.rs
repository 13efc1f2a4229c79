//! The rules of writing: conditions, versions and leases, on the tables of one redb transaction.

use std::sync::Arc;

use redb::{ReadableTable, Table, WriteTransaction};

use super::fault::Fault;
use super::file::{COMPACTED, HISTORY_BYTES, INDEX, LAST_LEASE, LEASE_KEYS, LEASES, LOG, META, REVISION};
use super::leases::Leases;
use super::row::{At, Put, Row, newest, with_row};
use crate::commit::Operation;
use crate::{Change, Changes, Commit, Condition, Key, LeaseId, Outcome, Revision};

/// The tables of one write, and the counters that it carries forward. Several commits may share it.
pub(super) struct Transaction<'t> {
    meta: Table<'t, &'static str, u64>,
    pub(super) log: Table<'t, At, &'static [u8]>,
    pub(super) index: Table<'t, (&'static str, u64), u32>,
    leases: Table<'t, u64, u64>,
    lease_keys: Table<'t, (u64, &'static str), ()>,
    revision: Revision,
    pub(super) compacted: Revision,
    pub(super) history_bytes: u64,
    last_lease: u64,
    changed: bool,
    changes: Vec<Arc<Changes>>,
}

/// What a finished transaction tells: nothing is on disk before redb's own commit.
pub(super) struct Done {
    /// Whether there is anything to write.
    pub(super) changed: bool,
    pub(super) compacted: Revision,
    /// One for each new revision, in order.
    pub(super) changes: Vec<Arc<Changes>>,
}

/// What is known of a current entry without its value.
struct Current {
    at: At,
    created: u64,
    version: u64,
    lease: u64,
}

/// The changes of one revision while it is made.
struct Making {
    revision: Revision,
    changes: Vec<Change>,
}

impl<'t> Transaction<'t> {
    pub(super) fn begin(write: &'t WriteTransaction) -> Result<Transaction<'t>, Fault> {
        let meta = write.open_table(META)?;
        let number = |name| Ok::<u64, Fault>(meta.get(name)?.map_or(0, |number| number.value()));
        let (revision, compacted) = (Revision::new(number(REVISION)?), Revision::new(number(COMPACTED)?));
        let (history_bytes, last_lease) = (number(HISTORY_BYTES)?, number(LAST_LEASE)?);
        Ok(Transaction {
            meta,
            log: write.open_table(LOG)?,
            index: write.open_table(INDEX)?,
            leases: write.open_table(LEASES)?,
            lease_keys: write.open_table(LEASE_KEYS)?,
            revision,
            compacted,
            history_bytes,
            last_lease,
            changed: false,
            changes: Vec::new(),
        })
    }

    /// Writes the counters back; the caller then commits, or aborts when nothing changed.
    pub(super) fn finish(mut self) -> Result<Done, Fault> {
        self.meta.insert(REVISION, self.revision.number())?;
        self.meta.insert(COMPACTED, self.compacted.number())?;
        self.meta.insert(HISTORY_BYTES, self.history_bytes)?;
        self.meta.insert(LAST_LEASE, self.last_lease)?;
        Ok(Done {
            changed: self.changed,
            compacted: self.compacted,
            changes: self.changes,
        })
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// Notes that there is something to write besides new revisions.
    pub(super) fn touch(&mut self) {
        self.changed = true;
    }

    pub(super) fn commit(&mut self, commit: &Commit, live: &Leases) -> Result<Outcome, Fault> {
        for condition in commit.requirements() {
            if !self.holds(&condition, live)? {
                return Ok(Outcome::Refused(condition));
            }
        }
        let mut making = self.make();
        for operation in &commit.operations {
            match operation {
                Operation::Put { key, value, lease } => self.put(&mut making, key, value, *lease)?,
                Operation::Delete { key } => self.delete(&mut making, key.as_str())?,
            }
        }
        self.made(making);
        Ok(Outcome::Committed(self.revision))
    }

    fn holds(&self, condition: &Condition, live: &Leases) -> Result<bool, Fault> {
        Ok(match condition {
            Condition::Absent(key) => self.current(key.as_str())?.is_none(),
            Condition::Present(key) => self.current(key.as_str())?.is_some(),
            Condition::ModRevision(key, revision) => {
                self.current(key.as_str())?.map_or(0, |current| current.at.0) == revision.number()
            }
            Condition::LeaseLive(lease) => live.is_live(*lease),
        })
    }

    /// Records a new lease; its id has never been given out before.
    pub(super) fn grant(&mut self, seconds: u64) -> Result<LeaseId, Fault> {
        self.last_lease += 1;
        self.leases.insert(self.last_lease, seconds)?;
        self.changed = true;
        Ok(LeaseId::new(self.last_lease))
    }

    /// Ends a lease and deletes its keys, all in one revision.
    pub(super) fn end_lease(&mut self, lease: LeaseId) -> Result<(), Fault> {
        let id = lease.number();
        let mut keys = Vec::new();
        for row in self.lease_keys.range((id, "")..(id + 1, ""))? {
            keys.push(row?.0.value().1.to_owned());
        }
        let mut making = self.make();
        for key in &keys {
            self.delete(&mut making, key)?;
        }
        self.made(making);
        self.leases.remove(id)?;
        self.changed = true;
        Ok(())
    }

    fn make(&self) -> Making {
        Making {
            revision: self.revision.next(),
            changes: Vec::new(),
        }
    }

    /// A revision without changes was none.
    fn made(&mut self, making: Making) {
        if !making.changes.is_empty() {
            self.revision = making.revision;
            self.changed = true;
            self.changes.push(Arc::new(Changes {
                revision: making.revision,
                changes: making.changes,
            }));
        }
    }

    fn put(&mut self, making: &mut Making, key: &Key, value: &[u8], lease: Option<LeaseId>) -> Result<(), Fault> {
        let before = self.current(key.as_str())?;
        let lease = lease.map_or(0, LeaseId::number);
        self.detach(key.as_str(), before.as_ref())?;
        if lease > 0 {
            self.lease_keys.insert((lease, key.as_str()), ())?;
        }
        let put = match &before {
            Some(before) => Put {
                created: before.created,
                version: before.version + 1,
                lease,
                value,
            },
            None => Put {
                created: making.revision.number(),
                version: 1,
                lease,
                value,
            },
        };
        let previous = before.map(|before| before.at);
        self.append(
            making,
            Row {
                previous,
                key: key.as_str(),
                put: Some(put),
            },
        )
    }

    fn delete(&mut self, making: &mut Making, key: &str) -> Result<(), Fault> {
        let Some(before) = self.current(key)? else {
            return Ok(());
        };
        self.detach(key, Some(&before))?;
        self.append(
            making,
            Row {
                previous: Some(before.at),
                key,
                put: None,
            },
        )
    }

    fn detach(&mut self, key: &str, before: Option<&Current>) -> Result<(), Fault> {
        if let Some(Current { lease: 1.., .. }) = before {
            self.lease_keys.remove((before.map_or(0, |before| before.lease), key))?;
        }
        Ok(())
    }

    fn append(&mut self, making: &mut Making, row: Row<'_>) -> Result<(), Fault> {
        let at = (making.revision.number(), making.changes.len() as u32);
        let bytes = row.encode();
        self.log.insert(at, &*bytes)?;
        self.index.insert((row.key, at.0), at.1)?;
        self.history_bytes += bytes.len() as u64;
        making.changes.push(row.change(at)?);
        Ok(())
    }

    fn current(&self, key: &str) -> Result<Option<Current>, Fault> {
        let Some(at) = newest(&self.index, key)? else {
            return Ok(None);
        };
        with_row(&self.log, at, |row| {
            Ok(row.put.map(|put| Current {
                at,
                created: put.created,
                version: put.version,
                lease: put.lease,
            }))
        })
    }
}
