//! `backup` and `restore`: everything that makes a fleet, in one file that everybody's tools open.
//!
//! The file is a tar archive (POSIX.1-1988 ustar, with GNU's form of lengths over 8 GiB): `backup.json` first, the keys and credentials
//! of the fleet's folder, the records in pages of protobuf, every blob that a record names, and `SHA256SUMS` last, which lists the rest
//! as `sha256sum --check` reads it. Without that last file a backup is not whole. It holds private keys.
//!
//! The records are those of one revision of the store. The audit log is left out: two machines that go on with one log sign two
//! histories of it.

mod archive;
mod epoch;
mod records;
mod restore;

use std::path::Path;

use anyhow::{Context, Result, bail};
use fieldfare_fleet::TenantName;
use fieldfare_release::UnixSeconds;
use fieldfare_tls::TimeSource;
use prost::Message;
use serde::{Deserialize, Serialize};

use self::archive::Writer;
pub(crate) use self::epoch::first_number;
pub use self::records::{Records, page};
pub use self::restore::{Restored, restore};
use crate::audit::Given;
use crate::blobs::Blobs;
use crate::config::Backup;
use crate::folder::{FleetFile, Folder};
use crate::init::{load_fleet, own_principal};
use crate::keys::Keys;
use crate::named::Names;

/// Version of the form of backups.
pub const SCHEMA: u32 = 1;

const HEADER: &str = "backup.json";
const FLEET: &str = "fleet.json";
const RECORDS: &str = "records/";
const BLOBS: &str = "blobs/sha256/";
const SUMS: &str = "SHA256SUMS";

/// Folders of keys and credentials, which are kept as they are.
const KEPT: [&str; 4] = ["authority", "identity", "online", "operator"];

/// Left out of them: where the controller listened.
const ENDPOINTS: &str = "endpoints.json";

/// `backup.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    schema: u32,
    version: String,
    created_unix_ms: u64,
    domain: String,
    tenant: String,
    /// Whether the artifacts of releases are in it.
    artifacts: bool,
}

/// What was backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Records.
    pub records: u64,
    /// Blobs.
    pub blobs: u64,
    /// Length of the file, in bytes.
    pub bytes: u64,
}

impl std::fmt::Display for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { records, blobs, bytes } = self;
        write!(f, "{records} records and {blobs} blobs, {bytes} bytes,")
    }
}

/// Writes the backup of a fleet. Its controller may run meanwhile.
///
/// # Errors
/// The file exists already, or something cannot be read or written; there is no file then.
pub async fn backup(options: &Backup, clock: &TimeSource) -> Result<Made> {
    let folder = Folder::at(&options.dir);
    let fleet = load_fleet(&folder)?;
    let words = format!("backup --to {}", options.to.display());
    let given = Given::begin(&folder, &own_principal(&fleet.domain)?, &words, clock)?;
    given.end(fill(options, &folder, &fleet, clock).await)
}

async fn fill(options: &Backup, folder: &Folder, fleet: &FleetFile, clock: &TimeSource) -> Result<Made> {
    let now = clock.now();
    let mut writer = Writer::create(&options.to, now).with_context(|| format!("--to {}", options.to.display()))?;
    let header = Header {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        created_unix_ms: now.unix_ms(),
        domain: fleet.domain.clone(),
        tenant: fleet.tenant.clone(),
        artifacts: !options.without_artifacts,
    };
    let to = || format!("writing {}", options.to.display());
    writer
        .add(HEADER, &serde_json::to_vec_pretty(&header)?)
        .with_context(to)?;
    let text = crate::folder::read(&folder.fleet())?;
    writer.add(FLEET, text.as_bytes()).with_context(to)?;
    for name in KEPT {
        keep(&mut writer, folder.root(), name)?;
    }

    let keys = Keys::of(&TenantName::new(fleet.tenant.as_str())?);
    let mut source = Records::open(folder, fleet, options.store.as_ref(), clock).await?;
    let blobs = Blobs::local(&folder.blobs(), clock.clone())?;
    let mut next = source.page(&keys, String::new()).await?;
    // After the first page, which settles the revision: what those records name was there before them.
    let inventory = blobs.inventory().await?;
    let mut names = Names::new(&keys, &inventory);
    let (mut pages, mut count) = (0_u32, 0);
    loop {
        for record in &next.records {
            names.see(record)?;
        }
        count += next.records.len() as u64;
        let token = std::mem::take(&mut next.next_page_token);
        writer
            .add(&format!("{RECORDS}{pages:06}.pb"), &next.encode_to_vec())
            .with_context(to)?;
        pages += 1;
        if token.is_empty() {
            break;
        }
        next = source.page(&keys, token).await?;
    }
    source.close().await?;
    if count == 0 {
        bail!(
            "--store: it holds no record of the fleet {}: name the one that `init` made",
            fleet.domain
        );
    }

    let named = names.finish(&blobs).await?;
    let left_out = |sha256| options.without_artifacts && named.artifacts.contains(sha256);
    let mut stored = 0;
    for sha256 in named.blobs.iter().filter(|sha256| !left_out(sha256)) {
        writer.add_blob(&blobs, sha256).await?;
        stored += 1;
    }
    let bytes = writer.finish().with_context(to)?;
    Ok(Made {
        records: count,
        blobs: stored,
        bytes,
    })
}

/// Adds every file below a folder of the fleet.
fn keep(writer: &mut Writer, root: &Path, name: &str) -> Result<()> {
    let folder = root.join(name);
    let reading = || format!("reading {}", folder.display());
    let mut entries = std::fs::read_dir(&folder)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .with_context(reading)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let file = entry.file_name();
        let Some(file) = file.to_str().filter(|file| *file != ENDPOINTS) else {
            continue;
        };
        let inner = format!("{name}/{file}");
        if entry.file_type().with_context(reading)?.is_dir() {
            keep(writer, root, &inner)?;
            continue;
        }
        let bytes = std::fs::read(entry.path()).with_context(|| format!("reading {}", entry.path().display()))?;
        writer
            .add(&inner, &bytes)
            .with_context(|| format!("writing {inner} into the backup"))?;
    }
    Ok(())
}

/// A moment for people.
fn moment(unix_ms: u64) -> UnixSeconds {
    UnixSeconds::new(unix_ms / 1000)
}
