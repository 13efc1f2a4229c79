//! The contract: what every implementation does.

use std::path::Path;
use std::time::Duration;

use crate::limits::{LEASE_TTL_MAX, LEASE_TTL_MIN, LIST_ALL_ATTEMPTS_MAX, LIST_ALL_ENTRIES_MAX};
use crate::{
    Commit, CommitError, CompactError, Embedded, Entry, Etcd, Key, Lease, LeaseError, LeaseId, List, ListError,
    Listing, Location, OpenError, Outcome, Page, Prefix, Revision, StoreError, Watch, WatchError,
};

/// A state store. Clones share it; it ends when the last clone is dropped or any is [closed](Store::close).
///
/// Every method may be called from any number of tasks, and dropping its future does not undo what was sent.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Store {
    /// One redb file, owned by this process.
    Embedded(Embedded),
    /// An etcd cluster, shared with any number of processes.
    Etcd(Etcd),
}

impl Store {
    /// Opens the store at `location`, and creates it if nothing is there.
    ///
    /// Needs a tokio runtime with time enabled.
    ///
    /// # Errors
    /// [`OpenError`]: where etcd does not answer, after [`crate::limits::ETCD_OPEN_BUDGET`].
    pub async fn open(location: &Location) -> Result<Store, OpenError> {
        match location {
            Location::Embedded(path) => Store::open_file(path).await,
            Location::Etcd(etcd) => Etcd::open(etcd).await.map(Store::Etcd),
        }
    }

    /// Opens the embedded store in the file at `path`, and creates it if nothing is there.
    ///
    /// Leases run on tokio's clock. Those found in the file start anew with their full time to live, since their
    /// deadlines were readings of a clock that ended with its process: a lease that lives too long delays a successor,
    /// one that ends too early gives two holders the same work.
    pub async fn open_file(path: impl AsRef<Path>) -> Result<Store, OpenError> {
        Embedded::open(path.as_ref().to_owned()).await.map(Store::Embedded)
    }

    /// The entry of one key, at the newest revision.
    pub async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        match self {
            Store::Embedded(embedded) => embedded.get(key).await,
            Store::Etcd(etcd) => etcd.get(key).await,
        }
    }

    /// The newest revision that a commit made: every acknowledged one is at it or before.
    pub async fn revision(&self) -> Result<Revision, StoreError> {
        match self {
            Store::Embedded(embedded) => embedded.revision().await,
            Store::Etcd(etcd) => etcd.revision().await,
        }
    }

    /// One page of a listing. All pages of one listing show the same revision, whatever is committed meanwhile.
    pub async fn list(&self, request: List) -> Result<Page, ListError> {
        match self {
            Store::Embedded(embedded) => embedded.list(request).await,
            Store::Etcd(etcd) => etcd.list(&request).await,
        }
    }

    /// Everything below a prefix at one revision, for collections of at most [`LIST_ALL_ENTRIES_MAX`] entries.
    pub async fn list_all(&self, prefix: &Prefix) -> Result<Listing, ListError> {
        let mut attempt = 1;
        loop {
            match self.gather(prefix).await {
                Err(ListError::Compacted { .. }) if attempt < LIST_ALL_ATTEMPTS_MAX => attempt += 1,
                gathered => return gathered,
            }
        }
    }

    async fn gather(&self, prefix: &Prefix) -> Result<Listing, ListError> {
        let mut page = self.list(List::under(prefix)).await?;
        let mut entries = std::mem::take(&mut page.entries);
        while let Some(next) = page.next {
            page = self.list(List::under(prefix).after(next)).await?;
            entries.append(&mut page.entries);
            if entries.len() > LIST_ALL_ENTRIES_MAX {
                return Err(ListError::TooMany { prefix: prefix.clone() });
            }
        }
        Ok(Listing {
            entries,
            revision: page.revision,
        })
    }

    /// Does everything in `commit`, durably, if all its conditions hold; otherwise nothing.
    ///
    /// An answer that gets lost is asked for until it is known. An error of the store ([`CommitError::Store`]), after
    /// [`crate::limits::ETCD_ANSWER_BUDGET`] without one, leaves open whether the commit happened.
    pub async fn commit(&self, commit: Commit) -> Result<Outcome, CommitError> {
        commit.check()?;
        match self {
            Store::Embedded(embedded) => embedded.commit(commit).await,
            Store::Etcd(etcd) => etcd.commit(&commit).await,
        }
    }

    /// Watches everything below `prefix` that changes after the revision `after`: later ones, not that one itself.
    /// [`Revision::ZERO`] asks for all changes since the beginning.
    pub async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch, WatchError> {
        match self {
            Store::Embedded(embedded) => embedded.watch(prefix, after).await.map(Watch::embedded),
            Store::Etcd(etcd) => etcd.watch(prefix, after).await.map(Watch::etcd),
        }
    }

    /// Forgets the history up to and including `upto`: changes made there can no longer be watched, and older
    /// revisions no longer listed. Current entries stay. The embedded store also compacts by itself, to
    /// [`crate::limits::HISTORY_REVISIONS_MAX`] and [`crate::limits::HISTORY_BYTES_MAX`]; in etcd the history is that of everybody
    /// who shares it, and its operator has it compacted (`--auto-compaction-retention`).
    pub async fn compact(&self, upto: Revision) -> Result<(), CompactError> {
        match self {
            Store::Embedded(embedded) => embedded.compact(upto).await,
            Store::Etcd(etcd) => etcd.compact(upto).await,
        }
    }

    /// Grants a lease of at least `ttl`, rounded up to whole seconds; etcd's shortest is two. It ends by itself unless its holder
    /// calls [`Store::keep_alive`] in time: nothing here does that.
    pub async fn grant_lease(&self, ttl: Duration) -> Result<Lease, LeaseError> {
        if !(LEASE_TTL_MIN..=LEASE_TTL_MAX).contains(&ttl) {
            return Err(LeaseError::TtlOutOfRange { asked: ttl });
        }
        let whole = Duration::from_secs(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0));
        match self {
            Store::Embedded(embedded) => embedded.grant_lease(whole).await,
            Store::Etcd(etcd) => etcd.grant_lease(whole).await,
        }
    }

    /// Gives a live lease its full time to live again, from now on.
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<(), LeaseError> {
        match self {
            Store::Embedded(embedded) => embedded.keep_alive(lease).await,
            Store::Etcd(etcd) => etcd.keep_alive(lease).await,
        }
    }

    /// Ends a live lease now and deletes its keys, in one revision.
    pub async fn revoke_lease(&self, lease: LeaseId) -> Result<(), LeaseError> {
        match self {
            Store::Embedded(embedded) => embedded.revoke_lease(lease).await,
            Store::Etcd(etcd) => etcd.revoke_lease(lease).await,
        }
    }

    /// Finishes what was sent before and releases the file or the connections; every clone and watch answers [`StoreError::Closed`] then.
    pub async fn close(self) -> Result<(), StoreError> {
        match self {
            Store::Embedded(embedded) => embedded.close().await,
            Store::Etcd(etcd) => etcd.close().await,
        }
    }
}
