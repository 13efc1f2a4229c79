//! The agent's folder: where everything lies, and files that are replaced whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::MAX_STATE_FILE_BYTES;

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
    #[error("{path} is longer than the limit of {MAX_STATE_FILE_BYTES} bytes")]
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
}

/// Where everything of one agent lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at a path, which need not exist yet. Children have another working directory: the path is made absolute.
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
        make(&self.0)?;
        make(&self.blobs())?;
        make(&self.manifests())
    }

    /// Key, chain and authorities.
    pub fn identity(&self) -> PathBuf {
        self.0.join("identity")
    }

    /// What enrolment fixed.
    pub fn config(&self) -> PathBuf {
        self.0.join("agent.json")
    }

    /// What the owner may change while the agent runs.
    pub fn settings(&self) -> PathBuf {
        self.0.join("settings.json")
    }

    /// What is trusted of the release repository.
    pub fn trusted_state(&self) -> PathBuf {
        self.0.join("trusted-state.json")
    }

    /// The state of the installation.
    pub fn installation(&self) -> PathBuf {
        self.0.join("installation.json")
    }

    /// Artifacts by digest.
    pub fn blobs(&self) -> PathBuf {
        self.0.join("releases").join("blobs")
    }

    /// Release manifests by digest.
    pub fn manifests(&self) -> PathBuf {
        self.0.join("releases").join("manifests")
    }

    /// Examples, ledger and contributions.
    pub fn private_store(&self) -> PathBuf {
        self.0.join("private.redb")
    }

    /// The bearer token of the local API.
    pub fn api_token(&self) -> PathBuf {
        self.0.join("api-token")
    }

    /// Where the local API listens, written when it does.
    pub fn endpoints(&self) -> PathBuf {
        self.0.join("endpoints.json")
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.to_owned();
    move |source| FolderError::Io { action, path, source }
}

fn make(path: &Path) -> Result<(), FolderError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("make", path))
}

/// Makes what was done to the entries of a directory survive a power cut.
///
/// # Errors
/// The system refuses.
pub fn sync_directory(path: &Path) -> Result<(), FolderError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("sync", path))
}

/// Writes a file of mode 0600 beside the old one, syncs it and puts it in the old one's place.
///
/// # Errors
/// The system refuses; the old file is whole then.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    let staged = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&staged)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(failed("write", &staged))?;
    fs::rename(&staged, path).map_err(failed("rename", &staged))?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// [`replace`] with a value as JSON.
///
/// # Errors
/// As [`replace`].
pub fn replace_json(path: &Path, value: &impl Serialize) -> Result<(), FolderError> {
    let bytes = serde_json::to_vec_pretty(value);
    let bytes = bytes.map_err(|source| FolderError::Form {
        path: path.to_owned(),
        source,
    })?;
    replace(path, &bytes)
}

/// The bytes of a file, or nothing where there is none.
///
/// # Errors
/// The system refuses, or the file is longer than [`MAX_STATE_FILE_BYTES`] times 8.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, FolderError> {
    let limit = 8 * MAX_STATE_FILE_BYTES;
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed("open", path))?,
    };
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(failed("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(FolderError::TooLong { path: path.to_owned() });
    }
    Ok(Some(bytes))
}

/// The value of a JSON file, or nothing where there is none.
///
/// # Errors
/// As [`read`], and where the file is not of the value's form.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FolderError> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| FolderError::Form {
            path: path.to_owned(),
            source,
        })
}

/// Removes a file that may not be there.
///
/// # Errors
/// The system refuses.
pub fn remove(path: &Path) -> Result<(), FolderError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.json");
        replace_json(&path, &vec![1, 2, 3]).unwrap();
        replace_json(&path, &vec![4]).unwrap();
        assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), Some(vec![4]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // What a crash before the rename leaves is not looked at.
        fs::write(path.with_extension("new"), "half").unwrap();
        assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), Some(vec![4]));
        assert_eq!(read_json::<Vec<u32>>(&folder.path().join("none.json")).unwrap(), None);
        fs::write(&path, "[1,").unwrap();
        assert!(matches!(read_json::<Vec<u32>>(&path), Err(FolderError::Form { .. })));
    }
}
