//! Files of state, readable by their owner alone, replaced whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::STATE_FILE_BYTES_MAX;

/// Why a file of state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
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
}

impl FileError {
    /// Says with which file the system refused to do what: `.map_err(FileError::io("open", path))`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// Makes a folder and those above it, for their owner alone. Each that is new survives a power cut, so that what is synced in it
/// does.
///
/// # Errors
/// The system refuses.
pub fn make_folder(path: &Path) -> Result<(), FileError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        make_folder(above)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        // Somebody else was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made.map_err(FileError::io("make", path))?,
    }
    sync_parent(path)
}

/// Makes what was done to the entries of a folder survive a power cut.
///
/// # Errors
/// The system refuses.
pub fn sync_folder(path: &Path) -> Result<(), FileError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(FileError::io("sync", path))
}

/// [`sync_folder`] with the folder that a file lies in.
///
/// # Errors
/// The system refuses.
pub fn sync_parent(path: &Path) -> Result<(), FileError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_folder(parent.unwrap_or(Path::new(".")))
}

/// Writes a file of mode 0600 beside the old one (as `NAME.new`), syncs it and puts it in the old one's place.
///
/// # Errors
/// The system refuses; the old file is whole then.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut staged = path.as_os_str().to_owned();
    staged.push(".new");
    let staged = PathBuf::from(staged);
    // One that a crash left behind is replaced, never reused: its mode may be another.
    remove(&staged)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&staged)
        .map_err(FileError::io("create", &staged))?;
    file.write_all(bytes).map_err(FileError::io("write", &staged))?;
    file.sync_all().map_err(FileError::io("sync", &staged))?;
    fs::rename(&staged, path).map_err(FileError::io("rename", &staged))?;
    sync_parent(path)
}

/// [`replace`] with a value as JSON.
///
/// # Errors
/// As [`replace`].
pub fn replace_json(path: &Path, value: &impl Serialize) -> Result<(), FileError> {
    let form = |source| FileError::Form {
        path: path.to_owned(),
        source,
    };
    let mut bytes = serde_json::to_vec_pretty(value).map_err(form)?;
    bytes.push(b'\n');
    replace(path, &bytes)
}

/// The bytes of a file, or nothing where there is none.
///
/// # Errors
/// The system refuses, or the file is longer than [`STATE_FILE_BYTES_MAX`].
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(FileError::io("open", path))?,
    };
    let mut bytes = Vec::new();
    file.take(STATE_FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(FileError::io("read", path))?;
    if bytes.len() as u64 > STATE_FILE_BYTES_MAX {
        return Err(FileError::TooLong { path: path.to_owned() });
    }
    Ok(Some(bytes))
}

/// [`read`] as text.
///
/// # Errors
/// As [`read`], and where the bytes are not UTF-8.
pub fn read_text(path: &Path) -> Result<Option<String>, FileError> {
    let text = |bytes| {
        String::from_utf8(bytes)
            .map_err(|error| FileError::io("read", path)(io::Error::new(io::ErrorKind::InvalidData, error)))
    };
    read(path)?.map(text).transpose()
}

/// The value of a JSON file, or nothing where there is none.
///
/// # Errors
/// As [`read`], and where the file is not of the value's form.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FileError> {
    let parse = |bytes: Vec<u8>| {
        serde_json::from_slice(&bytes).map_err(|source| FileError::Form {
            path: path.to_owned(),
            source,
        })
    };
    read(path)?.map(parse).transpose()
}

/// Removes a file that may not be there.
///
/// # Errors
/// The system refuses.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a folder, with all that is in it, that may not be there.
///
/// # Errors
/// The system refuses.
pub fn remove_folder(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::io("remove", path)(error)),
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
        let left_behind = folder.path().join("settings.json.new");
        fs::write(&left_behind, "half").unwrap();
        fs::set_permissions(&left_behind, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), Some(vec![4]));
        replace_json(&path, &vec![5]).unwrap();
        assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), Some(vec![5]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn a_file_that_is_missing_damaged_or_endless_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), None);
        fs::write(&path, "[1,").unwrap();
        assert!(matches!(read_json::<Vec<u32>>(&path), Err(FileError::Form { .. })));
        fs::write(&path, [0xff]).unwrap();
        assert!(matches!(read_text(&path), Err(FileError::Io { action: "read", .. })));
        File::create(&path).unwrap().set_len(STATE_FILE_BYTES_MAX + 1).unwrap();
        assert!(matches!(read(&path), Err(FileError::TooLong { .. })));
    }
}
