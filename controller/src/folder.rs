//! The folder of a fleet: where keys, certificates, the store and the blobs lie.

use std::io;
use std::path::{Path, PathBuf};

use fieldfare_files::{self as files, FileError, Secrecy};
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

    /// What commands were given while a controller wrote the audit log, for it to take up.
    pub fn audit_commands(&self) -> PathBuf {
        self.root.join("audit-commands")
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

/// Reads a file, which must be there, as text.
///
/// # Errors
/// It is not there, is no text, or the system refuses.
pub fn read(path: &Path) -> Result<String, FileError> {
    let missing = || FileError::of("open", path)(io::ErrorKind::NotFound.into());
    files::read_text(path)?.ok_or_else(missing)
}

/// Replaces a file whole or not at all, in a folder that is made if need be.
///
/// # Errors
/// The system refuses.
pub fn write(path: &Path, content: &str, secrecy: Secrecy) -> Result<(), FileError> {
    if let Some(folder) = path.parent() {
        files::make_folder(folder, Secrecy::Public)?;
    }
    files::replace(path, content.as_bytes(), secrecy)
}
