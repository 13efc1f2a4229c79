//! Multi-key compare-and-swap: conditions, puts and deletes that happen together or not at all.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::limits::{COMMIT_BYTES_MAX, COMMIT_CONDITIONS_MAX, COMMIT_OPERATIONS_MAX};
use crate::{CommitError, Key, LeaseId, Revision};

/// What must hold at the moment of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The key does not exist.
    Absent(Key),
    /// The key exists, whatever its value.
    Present(Key),
    /// The key was last put at this revision ([`crate::Entry::modified`]); [`Revision::ZERO`] says that it is absent.
    ModRevision(Key, Revision),
    /// The lease has neither expired nor been revoked.
    LeaseLive(LeaseId),
}

/// One write of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    Put {
        key: Key,
        value: Bytes,
        lease: Option<LeaseId>,
    },
    Delete {
        key: Key,
    },
}

impl Operation {
    pub(crate) fn key(&self) -> &Key {
        match self {
            Operation::Put { key, .. } | Operation::Delete { key } => key,
        }
    }
}

/// A commit under construction: at most [`COMMIT_OPERATIONS_MAX`] operations, [`COMMIT_CONDITIONS_MAX`] conditions
/// (each lease of a put is one) and [`COMMIT_BYTES_MAX`] bytes of keys and values, and no key written twice. [`crate::Store::commit`] checks these.
///
/// ```ignore
/// let commit = Commit::new()
///     .expect(Condition::ModRevision(key.clone(), entry.modified))
///     .expect(Condition::LeaseLive(lease.id))
///     .put(key, bytes)
///     .delete(other);
/// let revision = store.commit(commit).await?.committed()?;
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "a commit does nothing until it is given to Store::commit"]
pub struct Commit {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) operations: Vec<Operation>,
}

impl Commit {
    /// Without conditions and operations.
    pub fn new() -> Commit {
        Commit::default()
    }

    /// Commits only if `condition` holds, beside all others.
    pub fn expect(mut self, condition: Condition) -> Commit {
        self.conditions.push(condition);
        self
    }

    /// Creates or replaces a key that belongs to no lease (any more).
    pub fn put(mut self, key: Key, value: impl Into<Bytes>) -> Commit {
        self.operations.push(Operation::Put {
            key,
            value: value.into(),
            lease: None,
        });
        self
    }

    /// Creates or replaces a key that vanishes with `lease`; implies [`Condition::LeaseLive`].
    pub fn put_leased(mut self, key: Key, value: impl Into<Bytes>, lease: LeaseId) -> Commit {
        self.operations.push(Operation::Put {
            key,
            value: value.into(),
            lease: Some(lease),
        });
        self
    }

    /// Removes a key; an absent one is no obstacle and makes no event.
    pub fn delete(mut self, key: Key) -> Commit {
        self.operations.push(Operation::Delete { key });
        self
    }

    /// How many puts and deletes there are: what [`COMMIT_OPERATIONS_MAX`] bounds.
    pub fn operations(&self) -> usize {
        self.operations.len()
    }

    /// Bytes of all keys and values: what [`COMMIT_BYTES_MAX`] bounds.
    pub fn bytes(&self) -> usize {
        let conditions = self.conditions.iter().map(|condition| match condition {
            Condition::Absent(key) | Condition::Present(key) | Condition::ModRevision(key, _) => key.as_str().len(),
            Condition::LeaseLive(_) => 0,
        });
        let operations = self.operations.iter().map(|operation| match operation {
            Operation::Put { key, value, .. } => key.as_str().len() + value.len(),
            Operation::Delete { key } => key.as_str().len(),
        });
        conditions.sum::<usize>() + operations.sum::<usize>()
    }

    /// What must hold, in the order in which it is looked at: the conditions, then the leases of puts that none of them names.
    pub(crate) fn requirements(&self) -> Vec<Condition> {
        let mut required = self.conditions.clone();
        let mut named: BTreeSet<LeaseId> = BTreeSet::new();
        for condition in &self.conditions {
            if let Condition::LeaseLive(lease) = condition {
                named.insert(*lease);
            }
        }
        for operation in &self.operations {
            if let Operation::Put { lease: Some(lease), .. } = operation
                && named.insert(*lease)
            {
                required.push(Condition::LeaseLive(*lease));
            }
        }
        required
    }

    /// Whether the limits hold and no key is written twice, before anything is sent anywhere.
    pub(crate) fn check(&self) -> Result<(), CommitError> {
        if self.operations.len() > COMMIT_OPERATIONS_MAX {
            return Err(CommitError::TooManyOperations {
                count: self.operations.len(),
            });
        }
        let required = self.requirements().len();
        if required > COMMIT_CONDITIONS_MAX {
            return Err(CommitError::TooManyConditions { count: required });
        }
        let bytes = self.bytes();
        if bytes > COMMIT_BYTES_MAX {
            return Err(CommitError::TooLarge { bytes });
        }
        let mut written = BTreeSet::new();
        match self
            .operations
            .iter()
            .find(|operation| !written.insert(operation.key()))
        {
            Some(twice) => Err(CommitError::KeyTwice {
                key: twice.key().clone(),
            }),
            None => Ok(()),
        }
    }
}

/// How a commit ended when the store did its part.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a refused commit has changed nothing"]
pub enum Outcome {
    /// All of it happened, durably, at this revision. A commit that changed nothing tells the current one, or makes one in which
    /// there is nothing to see.
    Committed(Revision),
    /// Nothing happened, because this condition did not hold: the first such one, conditions before leased puts.
    Refused(Condition),
}

impl Outcome {
    /// The revision, or the failed condition as an error.
    pub fn committed(self) -> Result<Revision, ConditionFailed> {
        match self {
            Outcome::Committed(revision) => Ok(revision),
            Outcome::Refused(condition) => Err(ConditionFailed(condition)),
        }
    }

    /// Whether the commit happened.
    pub fn is_committed(&self) -> bool {
        matches!(self, Outcome::Committed(_))
    }
}

/// A refused commit, for callers that pass it on as an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", describe(.0))]
pub struct ConditionFailed(pub Condition);

fn describe(condition: &Condition) -> String {
    match condition {
        Condition::Absent(key) => format!("{key} exists already"),
        Condition::Present(key) => format!("{key} does not exist"),
        Condition::ModRevision(key, revision) => format!("{key} is no longer at revision {revision}"),
        Condition::LeaseLive(lease) => format!("lease {lease} is no longer live"),
    }
}
