//! Marks: how the outcome of a commit is learnt when its answer was lost.
//!
//! A handle has a *session*, a lease of etcd's, and under it *slots*, keys that no other handle writes. A commit takes a free slot, and
//! its transaction (a) holds only if the slot is at the revision that the handle knows, and (b) puts the commit's own number there. So the
//! same transaction may be sent again and again, to any server: at most one of them happens, and the slot tells at which revision. What a
//! handle leaves behind, killed or not, ends with its lease.

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::call::{Calls, Fault};
use super::lease;
use crate::limits::ETCD_SESSION_TTL;

/// A key of the session, in the hands of one commit. One that is not given back is not used again: its state is not known.
#[derive(Debug)]
pub(super) struct Slot {
    /// The session's lease.
    pub(super) session: i64,
    pub(super) number: u64,
    /// The revision that the slot was last put at; 0 for never.
    pub(super) modified: i64,
}

#[derive(Debug)]
struct Session {
    lease: i64,
    renewed: Instant,
    free: Vec<Slot>,
    next: u64,
}

/// The session of one handle, if it has one.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    current: Mutex<Option<Session>>,
}

impl Sessions {
    /// A free slot, of a session that lives for much longer than any commit takes.
    pub(super) async fn slot(&self, calls: &Calls, leases: &etcd_client::LeaseClient) -> Result<Slot, Fault> {
        let mut current = self.current.lock().await;
        if let Some(session) = current.as_mut()
            && session.renewed.elapsed() > ETCD_SESSION_TTL / 3
        {
            let asked = Instant::now();
            if lease::renew(calls, leases, session.lease).await? {
                session.renewed = asked;
            } else {
                *current = None;
            }
        }
        let session = match &mut *current {
            Some(session) => session,
            none => {
                let renewed = Instant::now();
                let (lease, _) = lease::grant(calls, leases, ETCD_SESSION_TTL).await?;
                none.insert(Session {
                    lease,
                    renewed,
                    free: Vec::new(),
                    next: 0,
                })
            }
        };
        Ok(session.free.pop().unwrap_or_else(|| {
            session.next += 1;
            Slot {
                session: session.lease,
                number: session.next,
                modified: 0,
            }
        }))
    }

    /// The slot is at the revision that it says.
    pub(super) async fn give_back(&self, slot: Slot) {
        let mut current = self.current.lock().await;
        if let Some(session) = current.as_mut().filter(|session| session.lease == slot.session) {
            session.free.push(slot);
        }
    }

    /// The session's lease is no longer live.
    pub(super) async fn forget(&self, lease: i64) {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|session| session.lease == lease) {
            *current = None;
        }
    }

    /// Ends the use of the session; its lease is for the caller to revoke.
    pub(super) async fn end(&self) -> Option<i64> {
        self.current.lock().await.take().map(|session| session.lease)
    }
}
