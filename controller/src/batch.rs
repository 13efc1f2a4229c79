//! Many records written while nobody else writes them, as when they are restored or get another form.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use fieldfare_store::limits::{COMMIT_BYTES_MAX, COMMIT_OPERATIONS_MAX};
use fieldfare_store::{Commit, Condition, Key, Outcome, Store};

/// Writes on their way into a store, in as few commits as its limits allow. What is not flushed is not written.
pub(crate) struct Batch<'a> {
    store: &'a Store,
    commit: Commit,
    contended: &'static str,
}

impl<'a> Batch<'a> {
    /// `contended` is said where somebody else writes as well.
    pub(crate) fn new(store: &'a Store, contended: &'static str) -> Self {
        Self {
            store,
            commit: Commit::new(),
            contended,
        }
    }

    /// Adds a value, to be written under a condition of its own key. Those before it are committed where it does not fit beside them.
    ///
    /// # Errors
    /// As [`Batch::flush`].
    pub(crate) async fn put(&mut self, condition: Condition, key: Key, value: Bytes) -> Result<()> {
        // The key stands in the condition as well.
        let bytes = self.commit.bytes() + value.len() + 2 * key.as_str().len();
        if self.commit.operations() == COMMIT_OPERATIONS_MAX || bytes > COMMIT_BYTES_MAX {
            self.flush().await?;
        }
        self.commit = std::mem::take(&mut self.commit).expect(condition).put(key, value);
        Ok(())
    }

    /// Commits what was added.
    ///
    /// # Errors
    /// The store fails, or a condition does not hold. Commits before this one stay.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        if self.commit.operations() == 0 {
            return Ok(());
        }
        let commit = std::mem::take(&mut self.commit);
        match self.store.commit(commit).await.context("writing the records")? {
            Outcome::Committed(_) => Ok(()),
            Outcome::Refused(_) => bail!(self.contended),
        }
    }
}
