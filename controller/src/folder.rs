//! The folder of a fleet: where keys, certificates, the store and the blobs lie.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fieldfare_store::Location;
use serde::{Deserialize, Serialize};

/// The folder of a fleet, and the names in it.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
}

/// `fleet.json`: what `init` decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetFile {
    /// Version of this file.
    pub schema: u32,
    /// The trust domain.
    pub domain: String,
    /// The tenant.
    pub tenant: String,
    /// Hosts under which others reach the controller; at least one.
    pub advertise: Vec<String>,
}

/// `endpoints.json`: where a running controller listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointsFile {
    /// HTTPS address of the gRPC services.
    pub grpc: String,
    /// HTTPS address of metadata and artifacts.
    pub artifacts: String,
    /// Plain HTTP address of metrics and health checks.
    pub metrics: String,
}

/// A file of the folder that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}", path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

/// Whether others on the machine may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    /// A private key: its owner alone.
    Secret,
    /// Anything else.
    Public,
}

impl Folder {
    /// The folder at this path.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `fleet.json`, written last by `init`: with it, everything else is there.
    pub fn fleet(&self) -> PathBuf {
        self.root.join("fleet.json")
    }

    /// Certificate of the authority, PEM.
    pub fn authority_certificate(&self) -> PathBuf {
        self.root.join("authority/ca.pem")
    }

    /// Private key of the authority, PEM.
    pub fn authority_key(&self) -> PathBuf {
        self.root.join("authority/key.pem")
    }

    /// Certificate of the authority that will issue next, PEM; missing unless one is announced.
    pub fn next_authority_certificate(&self) -> PathBuf {
        self.root.join("authority/next/ca.pem")
    }

    /// Private key of the authority that will issue next, PEM.
    pub fn next_authority_key(&self) -> PathBuf {
        self.root.join("authority/next/key.pem")
    }

    /// Certificate of the authority that issued before and is still trusted, PEM; missing unless one is.
    pub fn previous_authority(&self) -> PathBuf {
        self.root.join("authority/previous.pem")
    }

    /// Private key with which the controller serves and signs tickets, PEM.
    pub fn identity_key(&self) -> PathBuf {
        self.root.join("identity/key.pem")
    }

    /// Private key of the snapshot role, PEM.
    pub fn snapshot_key(&self) -> PathBuf {
        self.root.join("online/snapshot.pem")
    }

    /// Private key of the timestamp role, PEM.
    pub fn timestamp_key(&self) -> PathBuf {
        self.root.join("online/timestamp.pem")
    }

    /// As [`Folder::snapshot_key`], for when a root names it; missing unless one is wanted.
    pub fn next_snapshot_key(&self) -> PathBuf {
        self.root.join("online/next-snapshot.pem")
    }

    /// As [`Folder::timestamp_key`], for when a root names it; missing unless one is wanted.
    pub fn next_timestamp_key(&self) -> PathBuf {
        self.root.join("online/next-timestamp.pem")
    }

    /// The audit log of the controller that serves from this folder.
    pub fn audit(&self) -> PathBuf {
        self.root.join("audit")
    }

    /// Private key of the audit log, PEM. Outside of the log's own folder, which may be copied as it is.
    pub fn audit_key(&self) -> PathBuf {
        self.root.join("audit-key.pem")
    }

    /// The store that is named, or the embedded one of this folder.
    pub fn store(&self, named: Option<&Location>) -> Location {
        let own = || Location::Embedded(self.root.join("store.redb"));
        named.cloned().unwrap_or_else(own)
    }

    /// Large objects.
    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// The first operator's credential: an identity, and, once the controller runs, `endpoints.json`.
    pub fn operator(&self) -> PathBuf {
        self.root.join("operator")
    }

    /// Where the running controller listens.
    pub fn endpoints(&self) -> PathBuf {
        self.root.join("endpoints.json")
    }
}

/// Reads a file as text.
pub fn read(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(|source| FileError {
        path: path.to_owned(),
        source,
    })
}

/// Writes a file so that whoever reads it sees the old or the new content, never a part; it and its folder are synced.
pub fn write(path: &Path, content: &str, secrecy: Secrecy) -> Result<(), FileError> {
    write_atomically(path, content, secrecy).map_err(|source| FileError {
        path: path.to_owned(),
        source,
    })
}

/// Makes a folder and those above it. Each that is new survives a power cut, so that what is synced in it does.
pub fn make(folder: &Path) -> io::Result<()> {
    if folder.is_dir() || folder.as_os_str().is_empty() {
        return Ok(());
    }
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty());
    above.map_or(Ok(()), make)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
        made => made?,
    }
    fs::File::open(above.unwrap_or(Path::new(".")))?.sync_all()
}

fn write_atomically(path: &Path, content: &str, secrecy: Secrecy) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    make(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = folder.join(name);
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(if secrecy == Secrecy::Secret { 0o600 } else { 0o644 });
    }
    let mut file = options.open(&temporary)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(folder)?.sync_all()
}
