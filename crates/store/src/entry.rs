//! What the store holds and hands out: revisions, entries, leases.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::Key;

/// A point in the history of the whole store. Every commit that changes something makes a later one; what lies between two
/// commits is nobody's, or that of others who share an etcd.
///
/// Revisions order the changes of one store only; nothing outside may keep one as a generation, because a store that
/// is rebuilt from its records starts over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(u64);

impl Revision {
    /// Before every change. As a [`crate::Condition::ModRevision`] it says that the key is absent.
    pub const ZERO: Revision = Revision(0);

    /// The revision with this number.
    pub const fn new(number: u64) -> Revision {
        Revision(number)
    }

    /// The number, for storing or sending.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The revision after this one.
    pub(crate) const fn next(self) -> Revision {
        Revision(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one lease for as long as the store exists; never given out twice. From 1 to [`i64::MAX`], as in etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(u64);

impl LeaseId {
    /// The lease with this number, as an earlier [`LeaseId::number`] told it.
    pub const fn new(number: u64) -> LeaseId {
        LeaseId(number)
    }

    /// The number, for storing or sending.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A granted lease: it lives until `ttl` has passed without a keep-alive, or until it is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// What conditions and leased puts name.
    pub id: LeaseId,
    /// Time to live as granted: whole seconds, at least what was asked for. Renew at a third of it.
    pub ttl: Duration,
}

/// One key with its value, as of some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The bytes that were put.
    pub value: Bytes,
    /// The revision that created the key; deleting and putting it again creates it anew.
    pub created: Revision,
    /// The revision that last put the key: what [`crate::Condition::ModRevision`] compares with.
    pub modified: Revision,
    /// How often the key was put since it was created, from 1.
    pub version: u64,
    /// The lease that the key vanishes with.
    pub lease: Option<LeaseId>,
}
