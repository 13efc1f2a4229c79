//! Contributions on disk, under job, round, attempt and device: there before they are acknowledged, and never replaced.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fieldfare_files::{self as files, FileError, Secrecy};
use fieldfare_fleet::{DeviceId, Digest, RoundId};
use fieldfare_release::Sha256Digest;

/// Why a contribution cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refuses.
    #[error(transparent)]
    File(#[from] FileError),
    /// The bytes on disk are not those that were accepted.
    #[error("the contribution of {device} on disk is {found}, accepted was {accepted}")]
    Changed {
        /// Whose.
        device: DeviceId,
        /// Digest of the bytes on disk.
        found: Digest,
        /// Digest of the accepted bytes.
        accepted: Digest,
    },
}

/// What became of bytes that should be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// They are on disk now.
    Stored,
    /// They were there already.
    Repeated,
    /// Other bytes of the same device are there, with this digest.
    Conflicts(Digest),
}

/// A contribution that is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Whose.
    pub device: DeviceId,
    /// Its digest.
    pub digest: Digest,
    /// Its length, in bytes.
    pub length: u64,
}

/// The contributions to one attempt at one round.
#[derive(Clone, Debug)]
pub struct ContributionStore {
    folder: Arc<PathBuf>,
    staged: Arc<AtomicU64>,
}

/// The digest of a contribution, as the round counts it.
pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(*Sha256Digest::of(bytes).as_bytes())
}

impl ContributionStore {
    /// The contributions to `round`, in the folder of its job.
    ///
    /// # Errors
    /// The system refuses.
    pub fn open(job_folder: &Path, round: &RoundId) -> Result<Self, StoreError> {
        let name = format!("round-{}.attempt-{}", round.round.0, round.attempt.0);
        let folder = job_folder.join("contributions").join(name);
        files::make_folder(&folder, Secrecy::Secret)?;
        // They may have been made just before the process died.
        files::sync_parent(&folder)?;
        if let Some(all) = folder.parent() {
            files::sync_parent(all)?;
        }
        Ok(Self {
            folder: Arc::new(folder),
            staged: Arc::default(),
        })
    }

    fn path(&self, device: &DeviceId) -> PathBuf {
        self.folder.join(device.to_string())
    }

    /// Keeps the contribution of a device; when this returns, it survives a power loss.
    ///
    /// # Errors
    /// The system refuses; the bytes must not be acknowledged then.
    pub fn put(&self, device: &DeviceId, bytes: &[u8]) -> Result<Put, StoreError> {
        let path = self.path(device);
        let staged = self
            .folder
            .join(format!("{}.part", self.staged.fetch_add(1, Ordering::Relaxed)));
        files::write(&staged, bytes, Secrecy::Secret)?;
        // A link never replaces what is there, as a rename would.
        let linked = fs::hard_link(&staged, &path);
        fs::remove_file(&staged).map_err(FileError::of("remove", &staged))?;
        match linked {
            Ok(()) => {
                files::sync_parent(&path)?;
                Ok(Put::Stored)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match self.kept(device)? {
                Some(kept) if kept.digest != digest(bytes) => Ok(Put::Conflicts(kept.digest)),
                _ => Ok(Put::Repeated),
            },
            Err(error) => Err(FileError::of("link", &path)(error).into()),
        }
    }

    /// What is kept of a device.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kept(&self, device: &DeviceId) -> Result<Option<Kept>, StoreError> {
        let path = self.path(device);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(Kept {
                device: *device,
                digest: digest(&bytes),
                length: bytes.len() as u64,
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FileError::of("read", &path)(error).into()),
        }
    }

    /// Everything that is kept, in the order of the devices.
    ///
    /// # Errors
    /// The system refuses.
    pub fn all(&self) -> Result<Vec<Kept>, StoreError> {
        let entries = fs::read_dir(&*self.folder).map_err(FileError::of("list", &self.folder))?;
        let mut all = Vec::new();
        for entry in entries {
            let name = entry.map_err(FileError::of("list", &self.folder))?.file_name();
            // What a crash left half-written has a name that is no device's.
            let Some(device) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            all.extend(self.kept(&device)?);
        }
        all.sort_by_key(|kept| kept.device);
        Ok(all)
    }

    /// The bytes of a device, if they are the accepted ones.
    ///
    /// # Errors
    /// The system refuses, or the bytes changed.
    pub fn read(&self, device: &DeviceId, accepted: Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.path(device);
        let bytes = fs::read(&path).map_err(FileError::of("read", &path))?;
        match digest(&bytes) {
            found if found == accepted => Ok(bytes),
            found => Err(StoreError::Changed {
                device: *device,
                found,
                accepted,
            }),
        }
    }

    /// Forgets the round: its sum is committed, or nobody needs it any more.
    ///
    /// # Errors
    /// The system refuses.
    pub fn remove(&self) -> Result<(), StoreError> {
        files::remove_folder(&self.folder)?;
        Ok(files::sync_parent(&self.folder)?)
    }
}
