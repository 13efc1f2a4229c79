//! The few things that a log does with a disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::verify::segment_name;

/// The system refuses.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct DiskError {
    /// What was tried.
    pub action: &'static str,
    /// With which file.
    pub path: PathBuf,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

impl DiskError {
    /// Says with which file the system refused to do what: `.map_err(DiskError::of("open", path))`.
    pub fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }
}

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
    pub fn segments(&self) -> Result<Vec<u64>, DiskError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(DiskError::of("list", &self.0))? {
            let entry = entry.map_err(DiskError::of("list", &self.0))?;
            let name = entry.file_name();
            let first = name.to_str().and_then(|name| name.strip_suffix(".log")?.parse().ok());
            found.extend(first.filter(|first| name.to_str() == Some(&segment_name(*first))));
        }
        found.sort_unstable();
        Ok(found)
    }
}

/// Makes a folder and those above it, for their owner alone. Each that is new survives a power cut, so that what is synced in it
/// does.
pub(crate) fn make_folder(path: &Path) -> Result<(), DiskError> {
    if path.is_dir() || path.as_os_str().is_empty() {
        return Ok(());
    }
    let above = path.parent().unwrap_or(Path::new(""));
    make_folder(above)?;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        // Somebody else made it meanwhile. A file of that name is no folder.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made.map_err(DiskError::of("make", path))?,
    }
    sync_folder(above)
}

/// Makes what was done to the entries of a folder survive a power cut.
pub(crate) fn sync_folder(path: &Path) -> Result<(), DiskError> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(DiskError::of("sync", path))
}

/// A new file that only its owner reads, or an old one emptied.
pub(crate) fn create(path: &Path) -> Result<File, DiskError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(DiskError::of("create", path))
}

/// A file that waits, whole and synced, to take the place of another.
#[derive(Debug)]
pub(crate) struct Staged {
    staged: PathBuf,
    path: PathBuf,
}

impl Staged {
    /// Writes it beside the old one, as `NAME.new`. The old one is as it was.
    pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<Self, DiskError> {
        let mut staged = path.as_os_str().to_owned();
        staged.push(".new");
        let staged = PathBuf::from(staged);
        let mut file = create(&staged)?;
        file.write_all(bytes).map_err(DiskError::of("write", &staged))?;
        file.sync_all().map_err(DiskError::of("sync", &staged))?;
        Ok(Self {
            staged,
            path: path.to_owned(),
        })
    }

    /// Puts it in its place. After an error it may be there or not.
    pub(crate) fn place(self) -> Result<(), DiskError> {
        fs::rename(&self.staged, &self.path).map_err(DiskError::of("rename", &self.staged))?;
        sync_folder(self.path.parent().unwrap_or(Path::new(".")))
    }
}

/// Replaces a file whole or not at all.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    Staged::write(path, bytes)?.place()
}

/// The bytes of a file of at most `limit`, or nothing where there is none. One that is longer is read as one byte more, which
/// no reader of it accepts.
pub(crate) fn read(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, DiskError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(DiskError::of("open", path))?,
    };
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(DiskError::of("read", path))?;
    Ok(Some(bytes))
}

/// Removes a file that may not be there.
pub(crate) fn remove(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DiskError::of("remove", path)(error)),
        _ => Ok(()),
    }
}
