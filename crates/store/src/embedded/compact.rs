//! Forgetting history: the log keeps what a watcher after the compacted revision needs, and every current entry.

use redb::ReadableTable;

use super::fault::Fault;
use super::row::{At, Row};
use super::transaction::Transaction;
use crate::Revision;
use crate::limits::COMPACT_ROWS_PER_STEP;

/// How far history shall be forgotten.
#[derive(Debug, Clone, Copy)]
pub(super) struct Goal {
    /// Every revision up to this one.
    pub(super) upto: Revision,
    /// And the oldest ones beyond, until no more bytes are kept than this.
    pub(super) bytes: u64,
}

/// A walked row: once history ends after it, nobody can see what it replaced, nor it, if it is a deletion.
struct Walked {
    at: At,
    key: String,
    previous: Option<At>,
    deletion: bool,
}

/// Walks the oldest kept revisions, whole ones and about [`COMPACT_ROWS_PER_STEP`] rows of them. Says whether the goal
/// is reached. Each row is walked once in its life, so compaction costs what writing did.
pub(super) fn step(transaction: &mut Transaction<'_>, goal: Goal) -> Result<bool, Fault> {
    let (walked, reached) = walk(transaction, goal)?;
    if let Some(last) = walked.last() {
        transaction.compacted = Revision::new(last.at.0);
        transaction.touch();
    }
    for row in walked {
        if let Some(previous) = row.previous {
            transaction.log.remove(previous)?;
            transaction.index.remove((row.key.as_str(), previous.0))?;
        }
        if row.deletion {
            transaction.log.remove(row.at)?;
            transaction.index.remove((row.key.as_str(), row.at.0))?;
        }
    }
    Ok(reached)
}

fn walk(transaction: &mut Transaction<'_>, goal: Goal) -> Result<(Vec<Walked>, bool), Fault> {
    let mut walked: Vec<Walked> = Vec::new();
    let mut kept_bytes = transaction.history_bytes;
    let mut reached = true;
    for entry in transaction.log.range((transaction.compacted.number() + 1, 0)..)? {
        let (at, bytes) = entry?;
        let (at, bytes) = (at.value(), bytes.value());
        let begins_revision = walked.last().is_none_or(|last| last.at.0 < at.0);
        if begins_revision {
            if at.0 > goal.upto.number() && kept_bytes <= goal.bytes {
                break;
            }
            if walked.len() >= COMPACT_ROWS_PER_STEP {
                reached = false;
                break;
            }
        }
        kept_bytes = kept_bytes.saturating_sub(bytes.len() as u64);
        let row = Row::decode(at, bytes)?;
        walked.push(Walked {
            at,
            key: row.key.to_owned(),
            previous: row.previous,
            deletion: row.put.is_none(),
        });
    }
    transaction.history_bytes = kept_bytes;
    Ok((walked, reached))
}
