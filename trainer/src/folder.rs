//! The trainer's folder: where everything lies, and files that are replaced whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use fieldfare_release::tuf::{KeyError, SigningKey};
use ring::rand::SecureRandom;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::STATE_FILE_BYTES_MAX;

/// Why a file of the folder could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The system refuses.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file is longer than any of ours.
    #[error("{path} is longer than the limit of {STATE_FILE_BYTES_MAX} bytes")]
    TooLong {
        /// Which file.
        path: PathBuf,
    },
    /// The file is not what this version wrote.
    #[error("{path} is not of the expected form")]
    Form {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The delegation key cannot be read or made.
    #[error("the delegation key in {path}")]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: KeyError,
    },
}

pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.to_owned();
    move |source| FolderError::Io { action, path, source }
}

/// Where everything of one trainer lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at a path, which need not exist yet.
    pub fn new(path: &Path) -> Self {
        Self(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the folder, for its owner alone.
    ///
    /// # Errors
    /// The system refuses.
    pub fn create(&self) -> Result<(), FolderError> {
        make(&self.0)
    }

    /// Key, chain and authorities.
    pub fn identity(&self) -> PathBuf {
        self.0.join("identity")
    }

    /// What enrolment fixed.
    pub fn config(&self) -> PathBuf {
        self.0.join("trainer.json")
    }

    /// Where the rounds service listens, written when it does.
    pub fn endpoints(&self) -> PathBuf {
        self.0.join("endpoints.json")
    }

    /// Removes what an earlier process told about where it listened.
    ///
    /// # Errors
    /// The system refuses.
    pub fn forget_endpoints(&self) -> Result<(), FolderError> {
        match fs::remove_file(self.endpoints()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &self.endpoints())(error)),
            _ => Ok(()),
        }
    }

    /// Files of one job that is being worked on; made if need be.
    ///
    /// # Errors
    /// The system refuses.
    pub fn job(&self, job: &str) -> Result<PathBuf, FolderError> {
        let path = self.0.join("jobs").join(job);
        make(&path)?;
        Ok(path)
    }

    /// Removes the files of a job that is over.
    ///
    /// # Errors
    /// The system refuses.
    pub fn forget_job(&self, job: &str) -> Result<(), FolderError> {
        let path = self.0.join("jobs").join(job);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// The key that signs adapter releases, made at its first use and readable by its owner alone.
    ///
    /// # Errors
    /// The system refuses, or the file holds no such key.
    pub fn delegation_key(&self, rng: &dyn SecureRandom) -> Result<SigningKey, FolderError> {
        let path = self.0.join("delegation.pem");
        let wrong = |source| FolderError::Key {
            path: path.clone(),
            source,
        };
        if let Some(text) = read(&path)? {
            return SigningKey::from_pem(&text, rng).map_err(wrong);
        }
        let key = SigningKey::generate(rng).map_err(wrong)?;
        replace(&path, key.to_pem().as_bytes())?;
        Ok(key)
    }
}

fn make(path: &Path) -> Result<(), FolderError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("make", path))
}

/// The text of a file; nothing where there is none.
pub(crate) fn read(path: &Path) -> Result<Option<String>, FolderError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed("open", path))?,
    };
    let mut text = String::new();
    let length = file
        .take(STATE_FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(failed("read", path))?;
    if length as u64 > STATE_FILE_BYTES_MAX {
        return Err(FolderError::TooLong { path: path.to_owned() });
    }
    Ok(Some(text))
}

/// The value in a JSON file; nothing where there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FolderError> {
    let parse = |text: String| {
        serde_json::from_str(&text).map_err(|source| FolderError::Form {
            path: path.to_owned(),
            source,
        })
    };
    read(path)?.map(parse).transpose()
}

/// Writes a value as JSON, as [`replace`] does.
pub(crate) fn replace_json<T: Serialize>(path: &Path, value: &T) -> Result<(), FolderError> {
    let form = |source| FolderError::Form {
        path: path.to_owned(),
        source,
    };
    let mut text = serde_json::to_string_pretty(value).map_err(form)?;
    text.push('\n');
    replace(path, text.as_bytes())
}

/// Writes a file whole or not at all, synced, readable by its owner alone.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    let mut staged = path.as_os_str().to_owned();
    staged.push(".new");
    let staged = PathBuf::from(staged);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&staged)
        .map_err(failed("create", &staged))?;
    file.write_all(bytes).map_err(failed("write", &staged))?;
    file.sync_all().map_err(failed("sync", &staged))?;
    fs::rename(&staged, path).map_err(failed("rename", &staged))?;
    sync_parent(path)
}

/// Makes a rename or a new file in the folder of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), FolderError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("sync", parent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    use ring::rand::SystemRandom;

    #[test]
    fn the_delegation_key_stays_the_same_and_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::new(&directory.path().join("trainer"));
        folder.create().unwrap();
        let made = folder.delegation_key(&SystemRandom::new()).unwrap();
        let again = folder.delegation_key(&SystemRandom::new()).unwrap();
        assert_eq!(made.public(), again.public());
        let mode = fs::metadata(folder.path().join("delegation.pem"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(folder.path().join("delegation.pem"), "not a key").unwrap();
        assert!(matches!(
            folder.delegation_key(&SystemRandom::new()),
            Err(FolderError::Key { .. })
        ));
    }

    #[test]
    fn a_file_longer_than_any_of_ours_is_refused_unread() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trainer.json");
        fs::write(&path, "x".repeat(STATE_FILE_BYTES_MAX as usize + 1)).unwrap();
        assert!(matches!(read(&path), Err(FolderError::TooLong { .. })));
        assert!(read(&directory.path().join("missing")).unwrap().is_none());
    }
}
