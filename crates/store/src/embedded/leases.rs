//! The live leases and their deadlines, in memory only.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::LeaseId;

/// A lease is live exactly while it is in here: a deadline that has passed ends it only when its expiry is carried out.
#[derive(Debug, Default)]
pub(super) struct Leases {
    live: BTreeMap<LeaseId, (Duration, Instant)>,
    by_deadline: BTreeSet<(Instant, LeaseId)>,
}

impl Leases {
    pub(super) fn new(found: Vec<(LeaseId, Duration)>, now: Instant) -> Leases {
        let mut leases = Leases::default();
        for (id, ttl) in found {
            leases.insert(id, ttl, now);
        }
        leases
    }

    pub(super) fn insert(&mut self, id: LeaseId, ttl: Duration, now: Instant) {
        self.remove(id);
        self.live.insert(id, (ttl, now + ttl));
        self.by_deadline.insert((now + ttl, id));
    }

    /// Whether the lease was live.
    pub(super) fn remove(&mut self, id: LeaseId) -> bool {
        match self.live.remove(&id) {
            Some((_, deadline)) => self.by_deadline.remove(&(deadline, id)),
            None => false,
        }
    }

    /// Starts the lease's time anew; says whether it was live.
    pub(super) fn renew(&mut self, id: LeaseId, now: Instant) -> bool {
        match self.live.get(&id) {
            Some(&(ttl, _)) => {
                self.insert(id, ttl, now);
                true
            }
            None => false,
        }
    }

    pub(super) fn is_live(&self, id: LeaseId) -> bool {
        self.live.contains_key(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    /// Leases whose deadline has come, earliest first.
    pub(super) fn due(&self, now: Instant) -> Vec<LeaseId> {
        self.by_deadline
            .iter()
            .take_while(|(deadline, _)| *deadline <= now)
            .map(|(_, id)| *id)
            .collect()
    }
}
