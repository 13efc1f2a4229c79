//! The file: its tables, its schema version, and what is refused at opening.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableHandle};

use super::fault::Fault;
use crate::limits::CACHE_BYTES;
use crate::{LeaseId, Location, OpenError};

/// The version of everything below: tables, their types, and the layout of [`super::row::Row`].
pub(super) const SCHEMA_VERSION: u64 = 1;

/// Single numbers, by the names in this file. Its name marks the file as a Fieldfare store.
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("fieldfare.store");
/// (revision, change within it) to [`super::row::Row`]: the history, and the home of every current entry.
pub(super) const LOG: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("log");
/// (key, revision) to the change within it: every version of a key that the log holds.
pub(super) const INDEX: TableDefinition<(&str, u64), u32> = TableDefinition::new("index");
/// Live lease to its time to live in seconds.
pub(super) const LEASES: TableDefinition<u64, u64> = TableDefinition::new("leases");
/// (lease, key) of every current entry with a lease.
pub(super) const LEASE_KEYS: TableDefinition<(u64, &str), ()> = TableDefinition::new("lease_keys");

/// The schema version, in [`META`].
pub(super) const SCHEMA: &str = "schema";
/// The newest revision, in [`META`].
pub(super) const REVISION: &str = "revision";
/// The revision up to which history is forgotten, in [`META`].
pub(super) const COMPACTED: &str = "compacted";
/// Bytes of the log's rows after the compacted revision, in [`META`].
pub(super) const HISTORY_BYTES: &str = "history_bytes";
/// The newest lease id given out, in [`META`].
pub(super) const LAST_LEASE: &str = "last_lease";

/// The open file and the leases found in it, with their times to live.
pub(super) type Opened = (Arc<Database>, Vec<(LeaseId, Duration)>);

/// Opens or creates the file on a blocking thread. redb reports damage as an error only when it checks the whole file,
/// which costs reading it once; the alternative is a panic, later, at the damaged page.
pub(super) async fn open(path: PathBuf) -> Result<Opened, OpenError> {
    let blocking_path = path.clone();
    let opened = tokio::task::spawn_blocking(move || open_blocking(&blocking_path));
    opened.await.unwrap_or_else(|panic| {
        Err(OpenError::Corrupt {
            place: Location::Embedded(path),
            source: Box::new(panic),
        })
    })
}

fn open_blocking(path: &Path) -> Result<Opened, OpenError> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    let db = builder.create(path).map_err(|error| refused(path, error))?;
    match identify(&db).map_err(|fault| damaged(path, fault))? {
        Identity::New => {
            initialise(&db).map_err(|fault| damaged(path, fault))?;
            // redb syncs what is in the file, and a file without a name is lost.
            fieldfare_files::sync_parent(path).map_err(|error| refused(path, DatabaseError::from(error.source)))?;
        }
        Identity::Store { schema } if schema == SCHEMA_VERSION => {}
        Identity::Store { schema } if schema > SCHEMA_VERSION => {
            return Err(OpenError::SchemaNewer {
                place: Location::Embedded(path.to_owned()),
                found: schema,
                supported: SCHEMA_VERSION,
            });
        }
        Identity::Store { schema } => return Err(not_a_store(path, format!("its schema version is {schema}"))),
        Identity::Other { table } => return Err(not_a_store(path, format!("a redb database with a table {table:?}"))),
    }
    let leases = read_leases(&db).map_err(|fault| damaged(path, fault))?;
    Ok((Arc::new(db), leases))
}

/// Whose database this is.
enum Identity {
    /// Nobody's yet: no table at all.
    New,
    /// A Fieldfare store; 0 stands for a version that is missing.
    Store { schema: u64 },
    /// Somebody else's, seen by this table.
    Other { table: String },
}

fn identify(db: &Database) -> Result<Identity, Fault> {
    let read = db.begin_read()?;
    let mut other = None;
    for table in read.list_tables()? {
        if table.name() == META.name() {
            let schema = read.open_table(META)?.get(SCHEMA)?.map_or(0, |version| version.value());
            return Ok(Identity::Store { schema });
        }
        other = Some(table.name().to_owned());
    }
    Ok(other.map_or(Identity::New, |table| Identity::Other { table }))
}

/// Writes the schema version and every table in one transaction: no reader meets half a schema.
fn initialise(db: &Database) -> Result<(), Fault> {
    let write = db.begin_write()?;
    {
        let mut meta = write.open_table(META)?;
        meta.insert(SCHEMA, SCHEMA_VERSION)?;
        for name in [REVISION, COMPACTED, HISTORY_BYTES, LAST_LEASE] {
            meta.insert(name, 0)?;
        }
        write.open_table(LOG)?;
        write.open_table(INDEX)?;
        write.open_table(LEASES)?;
        write.open_table(LEASE_KEYS)?;
    }
    Ok(write.commit()?)
}

fn read_leases(db: &Database) -> Result<Vec<(LeaseId, Duration)>, Fault> {
    let leases = db.begin_read()?.open_table(LEASES)?;
    let rows = leases.iter()?.map(|row| {
        let (id, seconds) = row?;
        Ok((LeaseId::new(id.value()), Duration::from_secs(seconds.value())))
    });
    rows.collect()
}

fn refused(path: &Path, error: DatabaseError) -> OpenError {
    let place = Location::Embedded(path.to_owned());
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::AlreadyOpen { place },
        DatabaseError::UpgradeRequired(version) => {
            not_a_store(path, format!("a redb file of the unknown format {version}"))
        }
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
            not_a_store(path, error.to_string())
        }
        // Shorter than its own header says.
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            OpenError::Corrupt {
                place,
                source: Box::new(error),
            }
        }
        DatabaseError::Storage(StorageError::Io(error)) => OpenError::Io {
            place,
            source: Box::new(error),
        },
        other => OpenError::Corrupt {
            place,
            source: Box::new(other),
        },
    }
}

fn damaged(path: &Path, fault: Fault) -> OpenError {
    OpenError::Corrupt {
        place: Location::Embedded(path.to_owned()),
        source: Box::new(fault),
    }
}

fn not_a_store(path: &Path, found: String) -> OpenError {
    OpenError::NotAStore {
        place: Location::Embedded(path.to_owned()),
        found,
    }
}
