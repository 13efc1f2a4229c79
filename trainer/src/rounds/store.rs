//! Contributions on disk, under job, round, attempt and device: there before they are acknowledged, and never replaced.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fieldfare_files::{self as files, FileError, Secrecy};
use fieldfare_fleet::{DeviceId, Digest, RoundId};
use fieldfare_release::Sha256Digest;

use crate::download::digest_of;

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
}

/// Names what is being written: two stores of one round, of two claims, must not write to one file.
static STAGED: AtomicU64 = AtomicU64::new(0);

/// Removes what earlier lives left half-written.
fn sweep(folder: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(folder).map_err(FileError::of("list", folder))? {
        let path = entry.map_err(FileError::of("list", folder))?.path();
        if path.extension().is_some_and(|ending| ending == "part") {
            files::remove(&path)?;
        }
    }
    Ok(())
}

/// Writes a new file and syncs it; where that fails, nothing of it stays.
fn stage(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), FileError> {
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(FileError::of("create", path))?;
    let written = write(&mut file)
        .map_err(FileError::of("write", path))
        .and_then(|()| file.sync_all().map_err(FileError::of("sync", path)));
    if written.is_err() {
        // A disk that is full stays so otherwise, with another part for each time that the device comes back.
        let _ = files::remove(path);
    }
    written
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
        sweep(&folder)?;
        // They, and what lies in them, may have been made just before the process died.
        files::sync_folder(&folder)?;
        files::sync_parent(&folder)?;
        if let Some(all) = folder.parent() {
            files::sync_parent(all)?;
        }
        Ok(Self {
            folder: Arc::new(folder),
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
        let number = STAGED.fetch_add(1, Ordering::Relaxed);
        let staged = self.folder.join(format!("{number}.part"));
        stage(&staged, |file| file.write_all(bytes))?;
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
                _ => {
                    // Whoever linked it may not have come to its sync yet.
                    files::sync_parent(&path)?;
                    Ok(Put::Repeated)
                }
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
        if !path.try_exists().map_err(FileError::of("read", &path))? {
            return Ok(None);
        }
        let (found, length) = digest_of(&path)?;
        Ok(Some(Kept {
            device: *device,
            digest: Digest::from_bytes(*found.as_bytes()),
            length,
        }))
    }

    /// Whether these bytes of a device are kept; when this says so, they survive a power loss.
    ///
    /// # Errors
    /// The system refuses.
    pub fn has(&self, device: &DeviceId, told: Digest) -> Result<bool, StoreError> {
        let has = self.kept(device)?.is_some_and(|kept| kept.digest == told);
        if has {
            // What was put and not acknowledged may have lost its process before its sync.
            files::sync_folder(&self.folder)?;
        }
        Ok(has)
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

#[cfg(test)]
mod tests {
    use fieldfare_fleet::{Attempt, JobName, RoundNumber};

    use super::*;

    fn parts(folder: &Path) -> usize {
        let entries = fs::read_dir(folder).unwrap();
        entries
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some())
            .count()
    }

    #[test]
    fn a_full_disk_is_not_filled_with_parts() {
        let folder = tempfile::tempdir().unwrap();
        let refused = stage(&folder.path().join("0.part"), |file| {
            file.write_all(b"the first half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(matches!(refused, Err(FileError { .. })), "{refused:?}");
        assert_eq!(parts(folder.path()), 0);
    }

    #[test]
    fn what_a_crash_left_half_written_is_swept_and_what_is_whole_stays() {
        let job = tempfile::tempdir().unwrap();
        let round = RoundId {
            job: JobName::new("night").unwrap(),
            round: RoundNumber(1),
            attempt: Attempt(1),
        };
        let store = ContributionStore::open(job.path(), &round).unwrap();
        let device = DeviceId::from_bytes([7; 16]);
        assert_eq!(store.put(&device, b"whole").unwrap(), Put::Stored);
        fs::write(store.folder.join("3.part"), b"the first half").unwrap();
        let store = ContributionStore::open(job.path(), &round).unwrap();
        assert_eq!(parts(&store.folder), 0);
        assert!(store.has(&device, digest(b"whole")).unwrap());
        assert!(!store.has(&device, digest(b"other")).unwrap());
        assert_eq!(store.put(&device, b"whole").unwrap(), Put::Repeated);
    }
}
