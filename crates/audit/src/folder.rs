//! The folder of a log, and the names in it.

use std::fs;
use std::path::{Path, PathBuf};

use fieldfare_files::{FileError, read_start};

use crate::verify::segment_name;

/// The names in the folder of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFolder(PathBuf);

impl LogFolder {
    /// The log in this folder.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The public key, PEM. Written last when a log begins: with it, everything else is there.
    pub fn public_key(&self) -> PathBuf {
        self.0.join("log.pub")
    }

    /// The newest signed head.
    pub fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint")
    }

    /// The signed statement of what was removed.
    pub fn removed(&self) -> PathBuf {
        self.0.join("removed")
    }

    /// Held by the process that writes.
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// The segment that begins with this record.
    pub fn segment(&self, first: u64) -> PathBuf {
        self.0.join(segment_name(first))
    }

    /// The first records of all segments by the names of their files, in order.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn segments(&self) -> Result<Vec<u64>, FileError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(FileError::of("list", &self.0))? {
            let entry = entry.map_err(FileError::of("list", &self.0))?;
            let name = entry.file_name();
            let first = name.to_str().and_then(|name| name.strip_suffix(".log")?.parse().ok());
            found.extend(first.filter(|first| name.to_str() == Some(&segment_name(*first))));
        }
        found.sort_unstable();
        Ok(found)
    }
}

/// The bytes of a file of at most `limit`, or nothing where there is none. One that is longer is read as one byte more, which
/// no reader of it accepts.
pub(crate) fn read_file(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, FileError> {
    read_start(path, limit as u64 + 1)
}
