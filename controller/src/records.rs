//! Records of the store: typed, with a generation each, written by compare-and-swap only.

use bytes::Bytes;
use fieldfare_fleet::Generation;
use fieldfare_proto::v1;
use fieldfare_store::{Commit, Condition, Entry, Key, LeaseId, Outcome, Prefix, Revision, Store};
use prost::Message;

use crate::refusal::Refusal;

/// A record of state.proto. Each has a generation, which grows with every write.
pub trait Record: Message + Default {
    /// The generation in the record; zero in one that was never written.
    fn generation(&self) -> Generation;
    /// Puts a generation into the record.
    fn set_generation(&mut self, generation: Generation);
}

macro_rules! records {
    ($($name:ident),* $(,)?) => {$(
        impl Record for v1::$name {
            fn generation(&self) -> Generation {
                self.generation.map_or(Generation::ZERO, Generation::from)
            }

            fn set_generation(&mut self, generation: Generation) {
                self.generation = Some(generation.into());
            }
        }
    )*};
}

records!(
    AssignmentRecord,
    ClaimRecord,
    DeploymentRecord,
    DeploymentStatusRecord,
    DeviceRecord,
    DeviceStatusRecord,
    DropRecord,
    FleetRecord,
    JobRecord,
    JobStatusRecord,
    KeyRecord,
    ModelRecord,
    OwnerRecord,
    PrincipalRecord,
    ReleaseRecord,
    ReplicaRecord,
    RepositoryRecord,
    RolloutRecord,
    RoundRecord,
    SessionRecord,
    TokenRecord,
);

/// Reads the record of an entry.
///
/// # Errors
/// [`Refusal::Undecodable`] names the key.
pub fn decode<R: Record>(entry: &Entry) -> Result<R, Refusal> {
    decode_at(&entry.key, entry.value.clone())
}

/// Reads the record that lies at a key.
///
/// # Errors
/// [`Refusal::Undecodable`] names the key.
pub fn decode_at<R: Record>(key: &Key, value: Bytes) -> Result<R, Refusal> {
    R::decode(value).map_err(|source| Refusal::Undecodable {
        key: key.clone(),
        source,
    })
}

/// The records of one store.
#[derive(Clone, Debug)]
pub struct Records {
    store: Store,
    /// The epoch that new records begin with; restoring a backup raises it.
    epoch: u32,
}

impl Records {
    /// The records of this store, in this epoch.
    pub fn new(store: Store, epoch: u32) -> Self {
        Self { store, epoch }
    }

    /// The epoch that new records begin with.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The store below.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// One record as it is now.
    pub async fn get<R: Record>(&self, key: &Key) -> Result<Option<R>, Refusal> {
        self.store.get(key).await?.as_ref().map(decode).transpose()
    }

    /// All records below a prefix at one revision, with their keys.
    pub async fn list<R: Record>(&self, prefix: &Prefix) -> Result<Vec<(Key, R)>, Refusal> {
        let listing = self.store.list_all(prefix).await?;
        listing
            .entries
            .iter()
            .map(|entry| Ok((entry.key.clone(), decode(entry)?)))
            .collect()
    }

    /// Begins a change: what it reads must still hold when it is committed.
    pub fn change(&self) -> Change<'_> {
        Change {
            records: self,
            commit: Commit::new(),
        }
    }
}

/// A change of several records that happens as a whole, if nothing that it read has changed meanwhile.
#[must_use = "a change does nothing until it is committed"]
pub struct Change<'a> {
    records: &'a Records,
    commit: Commit,
}

impl Change<'_> {
    /// Reads a record, which must be the same at the commit; so must the absence of one.
    pub async fn read<R: Record>(&mut self, key: &Key) -> Result<Option<R>, Refusal> {
        let entry = self.records.store.get(key).await?;
        let modified = entry.as_ref().map_or(Revision::ZERO, |entry| entry.modified);
        self.expect(Condition::ModRevision(key.clone(), modified));
        entry.as_ref().map(decode).transpose()
    }

    /// Makes the change depend on one more condition.
    pub fn expect(&mut self, condition: Condition) {
        self.commit = std::mem::take(&mut self.commit).expect(condition);
    }

    /// Writes a record with the generation after the one that it carries. Read it first: the write is then conditional.
    pub fn put<R: Record>(&mut self, key: Key, record: &mut R) {
        let bytes = self.sealed(record);
        self.commit = std::mem::take(&mut self.commit).put(key, bytes);
    }

    /// As [`Change::put`], for a record that vanishes with a lease.
    pub fn put_leased<R: Record>(&mut self, key: Key, record: &mut R, lease: LeaseId) {
        let bytes = self.sealed(record);
        self.commit = std::mem::take(&mut self.commit).put_leased(key, bytes, lease);
    }

    /// Removes a record.
    pub fn delete(&mut self, key: Key) {
        self.commit = std::mem::take(&mut self.commit).delete(key);
    }

    /// Whether nothing is written yet.
    pub fn is_empty(&self) -> bool {
        self.commit.operations() == 0
    }

    fn sealed<R: Record>(&self, record: &mut R) -> Bytes {
        let held = record.generation();
        let floor = Generation {
            epoch: self.records.epoch,
            counter: 0,
        };
        record.set_generation(held.max(floor).next());
        record.encode_to_vec().into()
    }

    /// Does it. False when something that it read has changed: the caller begins anew.
    pub async fn commit(self) -> Result<bool, Refusal> {
        fieldfare_crash::point("controller.commit.before");
        match self.records.store.commit(self.commit).await? {
            Outcome::Committed(_) => {
                fieldfare_crash::point("controller.commit.after");
                Ok(true)
            }
            Outcome::Refused(Condition::LeaseLive(lease)) => Err(Refusal::Stale(format!("lease {lease} has ended"))),
            Outcome::Refused(_) => Ok(false),
        }
    }
}

/// Tries a change until it is committed, at most `COMMIT_ATTEMPTS_MAX` times: `attempt!(what, records, change, { ... })`. The
/// block works on `change`, leaves by `return Err(...)` where it refuses, and its value is the value of the whole.
macro_rules! attempt {
    ($what:literal, $records:expr, $change:ident, $body:block) => {{
        let mut tries = 0;
        loop {
            let mut $change = $records.change();
            let outcome = $body;
            if $change.commit().await? {
                break outcome;
            }
            tries += 1;
            if tries == crate::limits::COMMIT_ATTEMPTS_MAX {
                return Err(crate::refusal::Refusal::Contended { what: $what });
            }
        }
    }};
}

pub(crate) use attempt;
