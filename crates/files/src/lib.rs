//! Files and folders that survive a power cut, replaced whole or not at all.
//!
//! POSIX promises little: a file that was written is on the disk when it was synced, and its name, new or changed, when the folder
//! around it was. Whatever here makes a name syncs that folder too, unless it says otherwise. All of it blocks.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::STATE_FILE_BYTES_MAX;

pub mod limits;
#[cfg(test)]
mod tests;

/// What could not be done with which file or folder.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct FileError {
    /// What was tried: a verb.
    pub action: &'static str,
    /// With which file or folder.
    pub path: PathBuf,
    /// What the system says, or what is wrong with the content.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// Says what was tried with which file: `.map_err(FileError::of("open", path))`.
    pub fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }
}

/// Whether others on the machine may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    /// Its owner alone: mode 0600, and 0700 for a folder.
    Secret,
    /// Anybody: mode 0644, and 0755 for a folder, less what the process's umask takes.
    Public,
}

impl Secrecy {
    fn file_mode(self) -> u32 {
        match self {
            Self::Secret => 0o600,
            Self::Public => 0o644,
        }
    }

    fn folder_mode(self) -> u32 {
        match self {
            Self::Secret => 0o700,
            Self::Public => 0o755,
        }
    }
}

/// The folder that a path's name is in.
fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Makes a folder and those above it that are missing. Each that is new survives a power cut, so that what is synced in it does. One
/// that is there stays as it is.
///
/// # Errors
/// The system refuses, or something else has the name of one of them.
pub fn make_folder(path: &Path, secrecy: Secrecy) -> Result<(), FileError> {
    // The parent of a relative path's first folder has no name.
    if path.is_dir() || path.as_os_str().is_empty() {
        return Ok(());
    }
    make_folder(parent(path), secrecy)?;
    match DirBuilder::new().mode(secrecy.folder_mode()).create(path) {
        // Somebody else was faster. A file of that name is no folder.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made.map_err(FileError::of("make", path))?,
    }
    sync_parent(path)
}

/// Makes what was done to the names in a folder survive a power cut. The empty path is the present folder.
///
/// # Errors
/// The system refuses.
pub fn sync_folder(path: &Path) -> Result<(), FileError> {
    let path = match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    };
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(FileError::of("sync", path))
}

/// [`sync_folder`] with the folder that a file's name is in.
///
/// # Errors
/// The system refuses.
pub fn sync_parent(path: &Path) -> Result<(), FileError> {
    sync_folder(parent(path))
}

/// Opens a new and empty file for reading and writing. One that a crash left there is replaced and never reused: its mode may be
/// another. Neither its content nor its name is synced.
///
/// # Errors
/// The system refuses.
pub fn create(path: &Path, secrecy: Secrecy) -> Result<File, FileError> {
    remove(path)?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(secrecy.file_mode())
        .open(path)
        .map_err(FileError::of("create", path))
}

/// Writes a new file, as [`create`], and syncs its content, but not its name.
///
/// # Errors
/// The system refuses; a part of the file may be there then.
pub fn write(path: &Path, bytes: &[u8], secrecy: Secrecy) -> Result<(), FileError> {
    let mut file = create(path, secrecy)?;
    file.write_all(bytes).map_err(FileError::of("write", path))?;
    file.sync_all().map_err(FileError::of("sync", path))
}

/// Where a file waits for its turn: beside its place, as `NAME.new`.
pub fn staged(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// A file that waits, whole and synced, to take the place of another.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
}

impl Staged {
    /// Writes the file beside its place, as [`staged`] says.
    ///
    /// # Errors
    /// The system refuses. What is in the place stays.
    pub fn write(path: &Path, bytes: &[u8], secrecy: Secrecy) -> Result<Self, FileError> {
        write(&staged(path), bytes, secrecy)?;
        Ok(Self { path: path.to_owned() })
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// The system refuses. Either of the two files may be in the place then, whole.
    pub fn place(self) -> Result<(), FileError> {
        rename(&staged(&self.path), &self.path)
    }
}

/// Replaces a file whole or not at all, whoever reads it and whenever the power fails.
///
/// # Errors
/// The system refuses. Either of the two files may be in the place then, whole.
pub fn replace(path: &Path, bytes: &[u8], secrecy: Secrecy) -> Result<(), FileError> {
    Staged::write(path, bytes, secrecy)?.place()
}

/// [`replace`] with a value as JSON, indented.
///
/// # Errors
/// As [`replace`], and where the value has no JSON.
pub fn replace_json(path: &Path, value: &impl Serialize, secrecy: Secrecy) -> Result<(), FileError> {
    let mut bytes =
        serde_json::to_vec_pretty(value).map_err(|error| FileError::of("write", path)(io::Error::from(error)))?;
    bytes.push(b'\n');
    replace(path, &bytes, secrecy)
}

/// Gives a file another name, in the place of what has that name. The new name is synced; the old one, in another folder, is not.
///
/// # Errors
/// The system refuses; the source is [`io::ErrorKind::NotFound`] where the file is not there.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(FileError::of("rename", from))?;
    sync_parent(to)
}

/// The first bytes of a file, at most so many; nothing where there is no file.
///
/// # Errors
/// The system refuses.
pub fn read_start(path: &Path, bytes: u64) -> Result<Option<Vec<u8>>, FileError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(FileError::of("open", path))?,
    };
    let mut start = Vec::new();
    file.take(bytes)
        .read_to_end(&mut start)
        .map_err(FileError::of("read", path))?;
    Ok(Some(start))
}

/// The bytes of a file, or nothing where there is none.
///
/// # Errors
/// The system refuses, or the file is longer than [`STATE_FILE_BYTES_MAX`] ([`io::ErrorKind::FileTooLarge`]).
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let bytes = read_start(path, STATE_FILE_BYTES_MAX + 1)?;
    if bytes.as_ref().map_or(0, Vec::len) as u64 > STATE_FILE_BYTES_MAX {
        let found = format!("it is longer than the limit of {STATE_FILE_BYTES_MAX} bytes");
        return Err(FileError::of("read", path)(io::Error::new(
            io::ErrorKind::FileTooLarge,
            found,
        )));
    }
    Ok(bytes)
}

/// [`read`] as text.
///
/// # Errors
/// As [`read`], and where the bytes are not UTF-8 ([`io::ErrorKind::InvalidData`]).
pub fn read_text(path: &Path) -> Result<Option<String>, FileError> {
    let text = |bytes| {
        String::from_utf8(bytes)
            .map_err(|error| FileError::of("read", path)(io::Error::new(io::ErrorKind::InvalidData, error)))
    };
    read(path)?.map(text).transpose()
}

/// The value of a JSON file, or nothing where there is none.
///
/// # Errors
/// As [`read`], and where the file is not of the value's form; the action is `parse` then.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FileError> {
    let parse = |bytes: Vec<u8>| {
        serde_json::from_slice(&bytes).map_err(|error| FileError::of("parse", path)(io::Error::from(error)))
    };
    read(path)?.map(parse).transpose()
}

/// Whether others than its owner may read or write a file, which [`Secrecy::Secret`] prevents.
///
/// # Errors
/// The system refuses, or the file is not there.
pub fn is_exposed(path: &Path) -> Result<bool, FileError> {
    let facts = fs::metadata(path).map_err(FileError::of("look at", path))?;
    Ok(facts.permissions().mode() & 0o077 != 0)
}

/// Removes a file that may not be there. That it is gone is not synced.
///
/// # Errors
/// The system refuses.
pub fn remove(path: &Path) -> Result<(), FileError> {
    gone(path, fs::remove_file(path))
}

/// Removes a folder, with all that is in it, that may not be there. That it is gone is not synced.
///
/// # Errors
/// The system refuses.
pub fn remove_folder(path: &Path) -> Result<(), FileError> {
    gone(path, fs::remove_dir_all(path))
}

fn gone(path: &Path, removed: io::Result<()>) -> Result<(), FileError> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(FileError::of("remove", path)),
    }
}
