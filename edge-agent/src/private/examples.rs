//! The device's own examples.

use fieldfare_lm::example::Example;
use redb::{ReadableTable, ReadableTableMetadata};
use serde::{Deserialize, Serialize};

use super::store::{EXAMPLES, META, PrivateStore, StoreError};
use crate::limits::MAX_EXAMPLES;

/// An example with its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredExample {
    /// Its number; never used again after it was erased.
    pub id: u64,
    /// The example.
    pub example: Example,
}

/// Some examples, in the order of their numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Page {
    /// The examples.
    pub examples: Vec<StoredExample>,
    /// How many there are in all.
    pub total: u64,
    /// The number after which the next page begins, unless this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// What a round trains on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainingSet {
    /// All examples.
    pub examples: Vec<StoredExample>,
    /// How often examples had been erased or corrected.
    pub removals: u64,
}

fn read(id: u64, json: &str) -> Result<Example, StoreError> {
    serde_json::from_str(json).map_err(|error| StoreError::Record {
        table: "examples",
        key: id.to_string(),
        reason: error.to_string(),
    })
}

impl PrivateStore {
    /// Adds examples, all or none; nothing where they would be more than [`MAX_EXAMPLES`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn add(&self, examples: &[Example]) -> Result<Option<Vec<u64>>, StoreError> {
        let writing = self.writing()?;
        let first = Self::next_numbers(&writing, examples.len() as u64)?;
        let ids: Vec<u64> = (first..).take(examples.len()).collect();
        {
            let mut table = writing.open_table(EXAMPLES)?;
            if table.len()? + examples.len() as u64 > MAX_EXAMPLES {
                return Ok(None);
            }
            for (id, example) in ids.iter().zip(examples) {
                table.insert(id, example.to_string().as_str())?;
            }
        }
        writing.commit()?;
        Ok(Some(ids))
    }

    /// Examples with numbers above `after`, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn page(&self, after: u64, limit: usize) -> Result<Page, StoreError> {
        let table = self.reading()?.open_table(EXAMPLES)?;
        let mut examples = Vec::new();
        let mut next = None;
        for entry in table.range(after.saturating_add(1)..)? {
            let (id, json) = entry?;
            if examples.len() == limit {
                next = examples.last().map(|last: &StoredExample| last.id);
                break;
            }
            examples.push(StoredExample {
                id: id.value(),
                example: read(id.value(), json.value())?,
            });
        }
        Ok(Page {
            examples,
            total: table.len()?,
            next,
        })
    }

    /// All examples, and how often some had been taken back: what is learnt from them is worth nothing once that has grown.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn training_set(&self) -> Result<TrainingSet, StoreError> {
        let reading = self.reading()?;
        let table = reading.open_table(EXAMPLES)?;
        let removals = Self::removals(&reading.open_table(META)?)?;
        let mut examples = Vec::new();
        for entry in table.iter()? {
            let (id, json) = entry?;
            let (id, json) = (id.value(), json.value());
            let example = read(id, json)?;
            examples.push(StoredExample { id, example });
        }
        Ok(TrainingSet { examples, removals })
    }

    /// How many examples there are.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn count(&self) -> Result<u64, StoreError> {
        Ok(self.reading()?.open_table(EXAMPLES)?.len()?)
    }

    /// Corrects an example; false where there is none of this number.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn correct(&self, id: u64, example: &Example) -> Result<bool, StoreError> {
        let writing = self.writing()?;
        {
            let mut table = writing.open_table(EXAMPLES)?;
            if table.get(id)?.is_none() {
                return Ok(false);
            }
            table.insert(id, example.to_string().as_str())?;
            Self::note_removal(&writing)?;
        }
        writing.commit()?;
        Ok(true)
    }

    /// Erases an example; false where there is none of this number.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn erase(&self, id: u64) -> Result<bool, StoreError> {
        let writing = self.writing()?;
        let found = writing.open_table(EXAMPLES)?.remove(id)?.is_some();
        if found {
            Self::note_removal(&writing)?;
        }
        writing.commit()?;
        Ok(found)
    }

    /// Erases all examples and says how many there were. What they have paid stays in the ledger.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn erase_all(&self) -> Result<u64, StoreError> {
        let writing = self.writing()?;
        let erased = {
            let mut table = writing.open_table(EXAMPLES)?;
            let count = table.len()?;
            table.retain(|_, _| false)?;
            count
        };
        Self::note_removal(&writing)?;
        writing.commit()?;
        Ok(erased)
    }
}
