//! The writer: a group of requests in one transaction and one sync.

use std::sync::Arc;

use redb::{Database, Durability};
use tokio::time::Instant;

use super::History;
use super::compact::{self, Goal};
use super::fault::Fault;
use super::leases::Leases;
use super::owner::Request;
use super::transaction::{Done, Transaction};
use crate::limits::LEASES_MAX;
use crate::{Changes, CompactError, Lease, LeaseError, LeaseId, Revision};

/// The only place that writes the file. After a fault it must not write again: memory and file may differ.
pub(super) struct Writer {
    db: Arc<Database>,
    pub(super) history: History,
    pub(super) leases: Leases,
    compact_upto: Revision,
    pub(super) compacting: bool,
}

/// What one group did, on disk already.
pub(super) struct Written {
    pub(super) compacted: Revision,
    pub(super) changes: Vec<Arc<Changes>>,
}

impl Writer {
    pub(super) fn new(db: Arc<Database>, leases: Leases, history: History) -> Writer {
        Writer {
            db,
            history,
            leases,
            compact_upto: Revision::ZERO,
            compacting: false,
        }
    }

    /// Ends the leases that are due, then answers the requests in their order, and syncs. Nothing is answered outside
    /// of `requests` before this returns.
    pub(super) fn write(&mut self, due: &[LeaseId], requests: &mut [Request], now: Instant) -> Result<Written, Fault> {
        let mut write = self.db.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        let done = {
            let mut transaction = Transaction::begin(&write)?;
            for lease in due {
                self.leases.remove(*lease);
                transaction.end_lease(*lease)?;
            }
            for request in requests {
                self.answer(&mut transaction, request, now)?;
            }
            self.compact(&mut transaction)?;
            transaction.finish()?
        };
        let Done {
            changed,
            compacted,
            changes,
        } = done;
        if changed {
            write.commit()?
        } else {
            write.abort()?
        }
        Ok(Written { compacted, changes })
    }

    fn answer(&mut self, transaction: &mut Transaction<'_>, request: &mut Request, now: Instant) -> Result<(), Fault> {
        match request {
            Request::Commit(asked) => {
                asked.answer = Some(Ok(transaction.commit(&asked.question, &self.leases)?));
            }
            Request::Grant(asked) if self.leases.len() >= LEASES_MAX => asked.answer = Some(Err(LeaseError::TooMany)),
            Request::Grant(asked) => {
                let id = transaction.grant(asked.question.as_secs())?;
                self.leases.insert(id, asked.question, now);
                asked.answer = Some(Ok(Lease {
                    id,
                    ttl: asked.question,
                }));
            }
            Request::Revoke(asked) if !self.leases.remove(asked.question) => {
                asked.answer = Some(Err(LeaseError::NotLive(asked.question)));
            }
            Request::Revoke(asked) => {
                transaction.end_lease(asked.question)?;
                asked.answer = Some(Ok(()));
            }
            Request::Compact(asked) => {
                let (asked_for, current) = (asked.question, transaction.revision());
                if asked_for > current {
                    asked.answer = Some(Err(CompactError::Ahead {
                        asked: asked_for,
                        current,
                    }));
                } else {
                    self.compact_upto = self.compact_upto.max(asked_for);
                }
            }
            // The owner answers these itself.
            Request::KeepAlive(_) | Request::Close(_) => {}
        }
        Ok(())
    }

    fn compact(&mut self, transaction: &mut Transaction<'_>) -> Result<(), Fault> {
        let oldest_kept = transaction.revision().number().saturating_sub(self.history.revisions);
        let upto = self.compact_upto.max(Revision::new(oldest_kept));
        self.compacting = !compact::step(
            transaction,
            Goal {
                upto,
                bytes: self.history.bytes,
            },
        )?;
        Ok(())
    }

    /// Closes the file, if no reader holds it any more.
    pub(super) fn close(self) -> Result<(), Fault> {
        match Arc::try_unwrap(self.db) {
            Ok(db) => Ok(db.close()?),
            // A reader that is still at it closes the file when it ends.
            Err(_) => Ok(()),
        }
    }
}
