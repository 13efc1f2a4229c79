//! From the file to a fleet that can be served.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use fieldfare_files::{Secrecy, make_folder};
use fieldfare_fleet::{JobName, TenantName};
use fieldfare_proto::v1::{ExportRecordsResponse, FleetRecord, JobRecord, JobStatusRecord, StoredRecord};
use fieldfare_release::Sha256Digest;
use fieldfare_store::{Condition, Key, List, Prefix, Store};
use fieldfare_tls::TimeSource;
use prost::Message;

use super::archive::{Member, members, open, verify};
use super::{BLOBS, FLEET, HEADER, Header, KEPT, RECORDS, SCHEMA, SUMS, epoch, moment};
use crate::audit::Given;
use crate::batch::Batch;
use crate::blobs::Blobs;
use crate::clock::unix_ms;
use crate::config::Restore;
use crate::folder::{Folder, write};
use crate::init::own_principal;
use crate::keys::{Keys, Place};
use crate::limits::BLOB_PART_BYTES;
use crate::records::{Record, decode_at};
use crate::schema;

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The trust domain.
    pub domain: String,
    /// The tenant.
    pub tenant: String,
    /// When the backup was made.
    pub as_of: fieldfare_release::UnixSeconds,
    /// The epoch in which the fleet goes on.
    pub epoch: u32,
    /// Records.
    pub records: u64,
    /// Blobs.
    pub blobs: u64,
    /// Whether the artifacts of releases were in the backup.
    pub artifacts: bool,
}

impl std::fmt::Display for Restored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (domain, tenant, as_of) = (&self.domain, &self.tenant, self.as_of);
        let (records, blobs, epoch) = (self.records, self.blobs, self.epoch);
        write!(
            f,
            "the fleet {domain}, tenant {tenant}, as of {as_of}: {records} records and {blobs} blobs, in epoch {epoch}"
        )?;
        match self.artifacts {
            true => Ok(()),
            false => write!(f, ", without artifacts: copy them to `blobs`"),
        }
    }
}

/// What is known of a backup once all of it was read and found right.
struct Contents {
    header: Header,
    keys: Keys,
    fleet: FleetRecord,
    jobs: BTreeMap<JobName, JobRecord>,
}

/// Makes a fleet of a backup, in a folder and a store that hold nothing. `fleet.json` comes last: without it nothing serves.
///
/// # Errors
/// The backup is damaged, cut off, or of a newer version; the clock is before it; the folder or the store is not empty; or something
/// cannot be written. What was written then is no fleet.
pub async fn restore(options: &Restore, clock: &TimeSource) -> Result<Restored> {
    let from = || format!("--from {}", options.from.display());
    let contents = read(&options.from).with_context(from)?;
    let header = &contents.header;
    let now = clock.now();
    if now.unix_ms() < header.created_unix_ms {
        bail!(
            "the backup is of {}, and the clock shows {}: set the clock, by which what is restored is told from what was before",
            moment(header.created_unix_ms),
            moment(now.unix_ms())
        );
    }
    let epoch = epoch::next(contents.fleet.generation().epoch, now.unix_ms());
    let folder = Folder::at(&options.into);
    empty(folder.root()).with_context(|| format!("--into {}", options.into.display()))?;
    make_folder(&folder.blobs(), Secrecy::Public)?;
    let words = format!("restore --from {}", options.from.display());
    let given = Given::begin(&folder, &own_principal(&header.domain)?, &words, clock)?;
    given.end(fill(options, &contents, &folder, epoch, clock).await)
}

/// Fills an empty folder and an empty store.
async fn fill(
    options: &Restore,
    contents: &Contents,
    folder: &Folder,
    epoch: u32,
    clock: &TimeSource,
) -> Result<Restored> {
    let from = || format!("--from {}", options.from.display());
    let Contents { header, keys, .. } = contents;
    let now = clock.now();
    let location = folder.store(options.store.as_ref());
    let store = Store::open(&location).await.context("--store")?;
    let held = store.list(List::under(&Prefix::root()).limit(1)).await?;
    if !held.entries.is_empty() {
        bail!("--store: {location} is not empty: name another one, or, in etcd, another prefix=");
    }

    let mut restored = Restored {
        domain: header.domain.clone(),
        tenant: header.tenant.clone(),
        as_of: moment(header.created_unix_ms),
        epoch,
        records: 0,
        blobs: 0,
        artifacts: header.artifacts,
    };
    let blobs = Blobs::local(&folder.blobs(), clock.clone())?;
    let mut fleet_file = None;
    let mut batch = Batch::new(&store, "--store: somebody else writes into it");
    let mut last = None;
    let mut archive = open(&options.from).with_context(from)?;
    for member in members(&mut archive).with_context(from)? {
        let mut member = member.with_context(from)?;
        if let Some(name) = member.name.strip_prefix(BLOBS) {
            let sha256 = name.split_once('/').and_then(|(_, hex)| hex.parse().ok());
            let sha256 = sha256.with_context(|| format!("{} is no name of a blob", member.name))?;
            put_blob(&blobs, sha256, &mut member).await?;
            restored.blobs += 1;
        } else if member.name.starts_with(RECORDS) {
            let page = ExportRecordsResponse::decode(member.read()?.as_slice())?;
            restored.records += page.records.len() as u64;
            for record in page.records {
                let key = Key::new(&record.key)?;
                let value = contents.record(&key, &record, epoch, unix_ms(now))?;
                if key == keys.fleet() {
                    last = Some(value);
                } else {
                    batch.put(Condition::Absent(key.clone()), key, value).await?;
                }
            }
        } else if member.name == FLEET {
            fleet_file = Some(String::from_utf8(member.read()?).context(FLEET)?);
        } else if ![HEADER, SUMS].contains(&member.name.as_str()) {
            let path = folder.root().join(kept(&member.name)?);
            let text = String::from_utf8(member.read()?).with_context(|| member.name.clone())?;
            write(&path, &text, Secrecy::Secret)?;
        }
    }
    // With the fleet's own record a store is taken for one, and with its file a folder.
    batch.flush().await?;
    if let Some(value) = last {
        batch.put(Condition::Absent(keys.fleet()), keys.fleet(), value).await?;
        batch.flush().await?;
    }
    store.close().await.context("closing the store")?;
    let fleet_file = fleet_file.with_context(|| format!("{FLEET} is missing"))?;
    write(&folder.fleet(), &fleet_file, Secrecy::Public)?;
    Ok(restored)
}

/// Reads a backup to its end.
fn read(file: &Path) -> Result<Contents> {
    let mut header: Option<Header> = None;
    let mut fleet: Option<FleetRecord> = None;
    let mut jobs = BTreeMap::new();
    verify(file, |name, bytes| {
        if name == HEADER {
            header = Some(read_header(bytes)?);
        }
        let Some(header) = header.as_ref() else {
            bail!("{HEADER} is not its first file");
        };
        if !name.starts_with(RECORDS) {
            return Ok(());
        }
        let keys = Keys::of(&TenantName::new(header.tenant.as_str())?);
        for StoredRecord { key, value } in ExportRecordsResponse::decode(bytes)?.records {
            let key = Key::new(&key)?;
            if key == keys.fleet() {
                fleet = Some(decode_at(&key, value.into())?);
            } else if let Some(Place::Job(job)) = keys.parse(&key) {
                jobs.insert(job, decode_at(&key, value.into())?);
            }
        }
        Ok(())
    })?;
    let header = header.with_context(|| format!("{HEADER} is missing"))?;
    let fleet = fleet.context("the record of the fleet is missing")?;
    schema::check(fleet.schema)?;
    Ok(Contents {
        keys: Keys::of(&TenantName::new(header.tenant.as_str())?),
        fleet,
        header,
        jobs,
    })
}

fn read_header(bytes: &[u8]) -> Result<Header> {
    #[derive(serde::Deserialize)]
    struct Version {
        schema: u32,
    }
    let Version { schema } = serde_json::from_slice(bytes).context(HEADER)?;
    if schema != SCHEMA {
        bail!(
            "the backup has schema {schema}, and this version reads {SCHEMA}: restore it with the version that made it, or a later one"
        );
    }
    serde_json::from_slice(bytes).context(HEADER)
}

impl Contents {
    fn record(&self, key: &Key, record: &StoredRecord, epoch: u32, now_unix_ms: i64) -> Result<Bytes> {
        let mut value = record.value.clone();
        if let Some(present) = schema::migrated(&self.keys, key, &value, self.fleet.schema)? {
            value = present;
        }
        if *key == self.keys.fleet() {
            let mut fleet = self.fleet.clone();
            fleet.schema = schema::RECORDS;
            value = fleet.encode_to_vec();
        }
        if let Some(Place::JobStatus(name)) = self.keys.parse(key)
            && let Some(job) = self.jobs.get(&name)
        {
            let status: JobStatusRecord = decode_at(key, value.clone().into())?;
            if let Some(ended) = epoch::ended(job, status, now_unix_ms) {
                value = ended.encode_to_vec();
            }
        }
        Ok(epoch::raised(&self.keys, key, &value, epoch)?)
    }
}

/// The folder is missing or empty.
fn empty(folder: &Path) -> Result<()> {
    match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => bail!("the folder is not empty: restore into a new one"),
        },
    }
}

/// The place of a kept file: below one of the folders that a backup keeps, and nowhere else.
fn kept(name: &str) -> Result<&Path> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    let known = name.split_once('/').is_some_and(|(folder, _)| KEPT.contains(&folder));
    if !known || !name.split('/').all(plain) {
        bail!("{name} is no file of a fleet");
    }
    Ok(Path::new(name))
}

async fn put_blob(blobs: &Blobs, sha256: Sha256Digest, member: &mut Member<'_>) -> Result<()> {
    let length = member.length;
    let chunks = std::iter::from_fn(|| match member.read_some(BLOB_PART_BYTES) {
        Ok(bytes) if bytes.is_empty() => None,
        chunk => Some(chunk.map(Bytes::from)),
    });
    let chunks = futures_util::stream::iter(chunks);
    blobs
        .put_stream(sha256, length, chunks)
        .await
        .with_context(|| format!("restoring the blob {sha256}"))
}
