//! The file: opened, checked, and its tables.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use super::overlay::Overlay;

/// Schema of `private.redb`.
pub(super) const SCHEMA: u64 = 1;

pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Examples by their number, as JSON.
pub(super) const EXAMPLES: TableDefinition<'_, u64, &str> = TableDefinition::new("examples");
/// Charges by round, as JSON.
pub(super) const LEDGER: TableDefinition<'_, &str, &str> = TableDefinition::new("ledger");
/// What was contributed, by round: what is known of it, as JSON, and its bytes.
pub(super) const CONTRIBUTIONS: TableDefinition<'_, &str, (&str, &[u8])> = TableDefinition::new("contributions");

/// Why the private store cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another agent has it open.
    #[error("{path} is open already: another agent runs in this folder")]
    Open {
        /// Which file.
        path: PathBuf,
    },
    /// The database refuses.
    #[error("the private store")]
    Database(#[source] Box<redb::Error>),
    /// It was written by another version.
    #[error("the private store has schema {found}, expected {SCHEMA}")]
    Schema {
        /// Its schema.
        found: u64,
    },
    /// A record is not what this version wrote.
    #[error("record {key} of table {table} is damaged: {reason}")]
    Record {
        /// Which table.
        table: &'static str,
        /// Which record.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

/// The store. Each change is one transaction, on the disk when the call returns. Calls block.
#[derive(Debug)]
pub struct PrivateStore {
    /// Where the file is opened again; nowhere for somebody who only looks.
    path: Option<PathBuf>,
    /// None after the disk has refused a write, until the next call opens the file again: only that tells what the disk has.
    database: Mutex<Option<Database>>,
}

/// Whether it is the disk that refuses, now or before. The database does nothing more then.
const fn is_of_the_disk(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo)
}

impl PrivateStore {
    /// Opens the store, or makes an empty one, for its owner alone. One that a full disk keeps from opening opens later: a device
    /// serves without it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = match Self::open_file(path) {
            Ok(database) => Some(database),
            Err(StoreError::Database(error)) if matches!(&*error, redb::Error::Io(error) if error.kind() == ErrorKind::StorageFull) =>
            {
                tracing::error!(%error, "the private store is not open: no training, and no example is taken");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            path: Some(path.to_owned()),
            database: Mutex::new(database),
        })
    }

    fn open_file(path: &Path) -> Result<Database, StoreError> {
        let database = match Database::create(path) {
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(StoreError::Open { path: path.to_owned() }),
            opened => opened?,
        };
        let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path, owner_only).map_err(redb::Error::Io)?;
        // redb syncs the file. A power cut also takes a new file whose name was not synced.
        fieldfare_files::sync_parent(path).map_err(|error| redb::Error::Io(error.source))?;
        Self::check_schema(&database)?;
        Ok(database)
    }

    /// Opens the store for somebody who only looks: no lock is taken, and whatever the database repairs stays in memory. Beside a
    /// running agent this may find what is half written.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn look(path: &Path) -> Result<Self, StoreError> {
        let overlay = Overlay::open(path).map_err(redb::Error::Io)?;
        let database = Database::builder().create_with_backend(overlay)?;
        Self::check_schema(&database)?;
        Ok(Self {
            path: None,
            database: Mutex::new(Some(database)),
        })
    }

    fn check_schema(database: &Database) -> Result<(), StoreError> {
        let writing = database.begin_write()?;
        {
            let mut meta = writing.open_table(META)?;
            let found = meta.get("schema")?.map(|value| value.value());
            match found {
                None => drop(meta.insert("schema", SCHEMA)?),
                Some(SCHEMA) => {}
                Some(found) => return Err(StoreError::Schema { found }),
            }
            writing.open_table(EXAMPLES)?;
            writing.open_table(LEDGER)?;
            writing.open_table(CONTRIBUTIONS)?;
        }
        Ok(writing.commit()?)
    }

    /// A number that grows with each call and is never given twice, also after everything was erased.
    pub(super) fn next_numbers(writing: &redb::WriteTransaction, count: u64) -> Result<u64, StoreError> {
        let mut meta = writing.open_table(META)?;
        let next = meta.get("next_example")?.map_or(1, |value| value.value());
        meta.insert("next_example", next + count)?;
        Ok(next)
    }

    /// How often examples were erased or corrected.
    pub(super) fn removals<T: ReadableTable<&'static str, u64>>(meta: &T) -> Result<u64, StoreError> {
        Ok(meta.get("removals")?.map_or(0, |value| value.value()))
    }

    /// Counts that examples are taken back, in the transaction that takes them.
    pub(super) fn note_removal(writing: &redb::WriteTransaction) -> Result<(), StoreError> {
        let mut meta = writing.open_table(META)?;
        let next = Self::removals(&meta)? + 1;
        meta.insert("removals", next)?;
        Ok(())
    }

    pub(super) fn reading(&self) -> Result<redb::ReadTransaction, StoreError> {
        self.begin(|database| Ok(database.begin_read()?))
    }

    pub(super) fn writing(&self) -> Result<redb::WriteTransaction, StoreError> {
        self.begin(|database| Ok(database.begin_write()?))
    }

    /// Begins a transaction, in a file that is opened again where the disk has refused a write.
    fn begin<T>(&self, begin: impl Fn(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = database.as_ref().map(&begin);
        let path = match (begun, &self.path) {
            (Some(Err(error)), Some(path)) if is_of_the_disk(&error) => path,
            (Some(begun), _) => return Ok(begun?),
            (None, Some(path)) => path,
            (None, None) => return Err(redb::Error::PreviousIo.into()),
        };
        *database = None;
        let opened = Self::open_file(path)?;
        let begun = begin(&opened);
        *database = Some(opened);
        Ok(begun?)
    }
}
