//! What the examples have paid, and what was contributed for it: one transaction, on the disk before anything leaves.

use fieldfare_fleet::{Digest, RoundId};
use fieldfare_privacy::ledger::payment::{self, Due, Kept, Payment, Trained, Unpaid, price};
use fieldfare_privacy::{
    Accountant, ChargeKey, ChargeRecord, Delta, JobName, JobNameError, Ledger, Mechanism, Spending,
};
use redb::ReadableTable;
use serde::{Deserialize, Serialize};

pub use fieldfare_privacy::ledger::payment::Budgets;

use super::store::{CONTRIBUTIONS, LEDGER, META, PrivateStore, StoreError};

/// Names one attempt at one round of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundKey(ChargeKey);

impl RoundKey {
    /// The key of a round.
    ///
    /// # Errors
    /// The job's name is none.
    pub fn new(round: &RoundId) -> Result<Self, JobNameError> {
        let job = JobName::new(round.job.as_str())?;
        Ok(Self(ChargeKey {
            job,
            round: u64::from(round.round.0),
            attempt: round.attempt.0,
        }))
    }

    fn due(&self, mechanism: Mechanism, budgets: Budgets, now_unix_ms: u64) -> Due<'_> {
        Due {
            key: &self.0,
            mechanism,
            budgets,
            now_unix_ms,
        }
    }

    fn text(&self) -> String {
        format!("{}/{:010}/{:010}", self.0.job, self.0.round, self.0.attempt)
    }
}

/// A contribution that was paid for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contribution {
    /// Digest of the configuration under which it was made.
    pub configuration: Digest,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether the trainer has it.
    pub acknowledged: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    configuration: Digest,
    acknowledged: bool,
}

/// What training brought forth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Offered<'a> {
    /// The configuration that was trained under.
    pub configuration: Digest,
    /// [`TrainingSet::removals`](super::TrainingSet) of what was trained on.
    pub removals: u64,
    /// The contribution.
    pub bytes: &'a [u8],
}

/// Why a round was not paid for.
#[derive(Debug, thiserror::Error)]
pub enum PayError {
    /// The rules of payments.
    #[error(transparent)]
    Unpaid(#[from] Unpaid),
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The ledger's rules and the database fail in one function: both become its error by `?`.
macro_rules! from_database {
    ($($error:ty),+) => {$(
        impl From<$error> for PayError {
            fn from(error: $error) -> Self {
                Self::Store(error.into())
            }
        }
    )+};
}

from_database!(
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError
);

fn damaged(table: &'static str, key: &str, reason: &dyn std::fmt::Display) -> StoreError {
    StoreError::Record {
        table,
        key: key.to_owned(),
        reason: reason.to_string(),
    }
}

fn records<T>(table: &T) -> Result<Vec<ChargeRecord>, PayError>
where
    T: ReadableTable<&'static str, &'static str>,
{
    let mut records: Vec<ChargeRecord> = Vec::new();
    for entry in table.iter()? {
        let (key, json) = entry?;
        records.push(serde_json::from_str(json.value()).map_err(|error| damaged("ledger", key.value(), &error))?);
    }
    Ok(records)
}

fn read((json, bytes): (&str, &[u8]), key: &str) -> Result<Contribution, StoreError> {
    let known: Known = serde_json::from_str(json).map_err(|error| damaged("contributions", key, &error))?;
    Ok(Contribution {
        configuration: known.configuration,
        bytes: bytes.to_vec(),
        acknowledged: known.acknowledged,
    })
}

fn known(configuration: Digest, acknowledged: bool, key: &str) -> Result<String, StoreError> {
    serde_json::to_string(&Known {
        configuration,
        acknowledged,
    })
    .map_err(|error| damaged("contributions", key, &error))
}

impl PrivateStore {
    /// Whether a round could be paid for, without paying.
    ///
    /// # Errors
    /// [`PayError`] says why not.
    pub fn quote(
        &self,
        key: &RoundKey,
        mechanism: Mechanism,
        budgets: Budgets,
        now_unix_ms: u64,
    ) -> Result<(), PayError> {
        let records = records(&self.reading()?.open_table(LEDGER)?)?;
        Ok(price(records, key.due(mechanism, budgets, now_unix_ms)).map(drop)?)
    }

    /// Pays for a contribution and keeps its bytes, in one transaction. Only what this returns may leave the device: for a round
    /// that was paid for before, these are the bytes of then, whatever is offered now.
    ///
    /// # Errors
    /// [`PayError`]; nothing was paid then, and nothing may leave.
    pub fn pay(
        &self,
        key: &RoundKey,
        mechanism: Mechanism,
        budgets: Budgets,
        now_unix_ms: u64,
        offered: Offered<'_>,
    ) -> Result<Contribution, PayError> {
        let Offered {
            configuration,
            removals,
            bytes,
        } = offered;
        let text = key.text();
        let writing = self.writing()?;
        {
            let mut contributions = writing.open_table(CONTRIBUTIONS)?;
            let before = contributions
                .get(text.as_str())?
                .map(|value| read(value.value(), &text))
                .transpose()?;
            let kept = Kept {
                contribution: before.as_ref().map(|before| *before.configuration.as_bytes()),
                removals: Self::removals(&writing.open_table(META)?)?,
            };
            let trained = Trained {
                configuration: *configuration.as_bytes(),
                removals,
            };
            let mut table = writing.open_table(LEDGER)?;
            let due = key.due(mechanism, budgets, now_unix_ms);
            let record = match (payment::pay(kept, trained, due, || records(&table))?, before) {
                (Payment::New(record), _) => record,
                (Payment::Before, Some(before)) => return Ok(before),
                (Payment::Before, None) => return Err(Unpaid::BytesLost.into()),
            };
            let json = serde_json::to_string(&record).map_err(|error| damaged("ledger", &text, &error))?;
            table.insert(text.as_str(), json.as_str())?;
            contributions.insert(text.as_str(), (known(configuration, false, &text)?.as_str(), bytes))?;
        }
        writing.commit()?;
        Ok(Contribution {
            configuration,
            bytes: bytes.to_vec(),
            acknowledged: false,
        })
    }

    /// What was contributed to a round.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn contribution(&self, key: &RoundKey) -> Result<Option<Contribution>, StoreError> {
        let text = key.text();
        let table = self.reading()?.open_table(CONTRIBUTIONS)?;
        table
            .get(text.as_str())?
            .map(|value| read(value.value(), &text))
            .transpose()
    }

    /// Notes that the trainer has a contribution. Its bytes stay, for a trainer that lost its disk.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn acknowledge(&self, key: &RoundKey) -> Result<(), StoreError> {
        let text = key.text();
        let writing = self.writing()?;
        {
            let mut table = writing.open_table(CONTRIBUTIONS)?;
            let before = table
                .get(text.as_str())?
                .map(|value| read(value.value(), &text))
                .transpose()?;
            if let Some(before) = before {
                let json = known(before.configuration, true, &text)?;
                table.insert(text.as_str(), (json.as_str(), before.bytes.as_slice()))?;
            }
        }
        Ok(writing.commit()?)
    }

    /// What the examples have paid so far.
    ///
    /// # Errors
    /// [`PayError`].
    pub fn spending(&self, delta: Delta) -> Result<Spending, PayError> {
        let records = records(&self.reading()?.open_table(LEDGER)?)?;
        let ledger = Ledger::restore(Accountant::Rdp, records).map_err(Unpaid::from)?;
        Ok(ledger.spending(delta))
    }
}
