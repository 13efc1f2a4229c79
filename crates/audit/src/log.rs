//! A log in files, as its one writer has it.
//!
//! [`Log::append`] writes a record; [`Log::commit`] makes all of them durable and signs them. What was committed is there
//! after `kill -9` and after a power cut; what was not may be there or not, and never makes what was unreadable.
//!
//! The order within a commit is: sync the segment, place the checkpoint, and then write the same head into the segment. So a
//! head that anybody can see never covers a record that may vanish.

mod open;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use fieldfare_files::{self as files, FileError, Secrecy, Staged};
use fieldfare_release::tuf::{KeyError, PublicKey, SigningKey};
use ring::rand::SystemRandom;

pub use open::{OpenError, Opened};

use crate::folder::LogFolder;
use crate::frame::{self, Kind};
use crate::head::{Removal, TreeHead};
use crate::limits::MAX_RECORD_BYTES;
use crate::read::start_of;
use crate::tree::Tree;

/// Where a log lies and how it is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder with everything that verification needs, to be copied as it is.
    pub folder: PathBuf,
    /// The private key, outside of that folder. It is made with the log.
    pub key: PathBuf,
    /// Whose log it is; its origin is this, a slash, and 16 digits of its key's fingerprint.
    pub owner: String,
    /// A segment is closed when it passes this many bytes.
    pub segment_bytes: u64,
    /// The oldest segments are removed, with a signed statement, while all of them are more than this many bytes.
    pub keep_bytes: u64,
}

/// A record was not written, or not committed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It is longer than any may be.
    #[error("a record of {bytes} bytes is longer than the limit of {MAX_RECORD_BYTES}")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// The disk refuses.
    #[error(transparent)]
    Disk(#[from] FileError),
    /// The head cannot be signed.
    #[error("the head of the audit log cannot be signed")]
    Key(#[from] KeyError),
}

/// A closed segment.
#[derive(Clone, Copy, Debug)]
struct Closed {
    first: u64,
    bytes: u64,
}

/// The end of the file and the tree at some moment.
#[derive(Clone, Debug)]
struct Mark {
    end: u64,
    tree: Tree,
}

/// A log that is being written.
#[derive(Debug)]
pub struct Log {
    folder: LogFolder,
    settings: Settings,
    origin: String,
    key: SigningKey,
    rng: SystemRandom,
    /// Held for as long as the log is open.
    _lock: File,
    /// The segments before the one that is written, oldest first.
    closed: Vec<Closed>,
    /// The first record of the segment that is written.
    first: u64,
    file: File,
    now: Mark,
    /// What is durable, whatever happens.
    committed: Mark,
    /// How many records the newest published head covers.
    signed: u64,
    /// Whether bytes beyond the end may be in the file.
    spilt: bool,
}

impl Log {
    /// The log's name.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The key that verifies it.
    pub fn public_key(&self) -> &PublicKey {
        self.key.public()
    }

    /// How many records there are.
    pub const fn size(&self) -> u64 {
        self.now.tree.size()
    }

    /// How many of them are committed.
    pub const fn signed(&self) -> u64 {
        self.signed
    }

    fn path(&self) -> PathBuf {
        self.folder.segment(self.first)
    }

    /// Cuts off what a failed write may have left.
    fn mend(&mut self) -> Result<(), FileError> {
        if self.spilt {
            self.file
                .set_len(self.now.end)
                .map_err(FileError::of("truncate", &self.path()))?;
            self.spilt = false;
        }
        Ok(())
    }

    /// Writes a record behind the others, and gives its index. It may be lost until it is committed.
    ///
    /// # Errors
    /// The record is too long, or the disk refuses; the log is as it was.
    pub fn append(&mut self, record: &[u8]) -> Result<u64, LogError> {
        if record.len() > MAX_RECORD_BYTES {
            return Err(LogError::TooLong { bytes: record.len() });
        }
        self.mend()?;
        let index = self.size();
        let mut bytes = Vec::with_capacity(frame::HEADER_BYTES + record.len());
        let leaf = frame::encode(Kind::Record, index, record, &mut bytes);
        self.put(&bytes)?;
        self.now.tree.append(leaf);
        Ok(index)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        if let Err(error) = self.file.write_all_at(bytes, self.now.end) {
            self.spilt = true;
            return Err(FileError::of("write", &self.path())(error));
        }
        self.now.end += bytes.len() as u64;
        Ok(())
    }

    /// Makes every record so far durable, signs a head that covers them, and keeps within the limits of disk.
    ///
    /// # Errors
    /// The disk refuses, and the records since the last commit are gone; or, where the checkpoint could not be put in its
    /// place, they are there and the next commit signs them.
    pub fn commit(&mut self, at_unix_ms: u64) -> Result<(), LogError> {
        if self.signed == self.size() {
            return Ok(());
        }
        let (note, staged) = match self.prepare(at_unix_ms) {
            Ok(prepared) => prepared,
            Err(error) => {
                self.roll_back();
                return Err(error);
            }
        };
        staged.place()?;
        let mut bytes = Vec::new();
        frame::encode(Kind::Head, self.size(), note.as_bytes(), &mut bytes);
        // The checkpoint holds the same head. Without it here, a later finding is only less precise.
        let _ = self.put(&bytes);
        self.signed = self.size();
        self.committed = self.now.clone();
        if self.now.end >= self.settings.segment_bytes {
            // Neither is owed to anybody now: both are tried again after the next commit.
            let _ = self.rotate(&note).and_then(|()| self.prune(at_unix_ms));
        }
        Ok(())
    }

    fn prepare(&mut self, at_unix_ms: u64) -> Result<(String, Staged), LogError> {
        self.mend()?;
        self.file.sync_data().map_err(FileError::of("sync", &self.path()))?;
        let head = TreeHead {
            origin: self.origin.clone(),
            size: self.size(),
            root: self.now.tree.root(),
            at_unix_ms,
        };
        let note = head.sign(&self.key, &self.rng)?;
        let staged = Staged::write(&self.folder.checkpoint(), note.as_bytes(), Secrecy::Secret)?;
        Ok((note, staged))
    }

    /// After a failed sync nobody knows what is on the disk, and a second sync would not tell: the records are written anew
    /// or not at all.
    fn roll_back(&mut self) {
        self.now = self.committed.clone();
        self.spilt = true;
        // Otherwise before the next write.
        let _ = self.mend();
    }

    fn rotate(&mut self, note: &str) -> Result<(), FileError> {
        // The next segment must not be there while the end of this one may still vanish.
        self.mend()?;
        self.file.sync_data().map_err(FileError::of("sync", &self.path()))?;
        let (file, end) = begin_segment(&self.folder, &self.now.tree, note)?;
        let (first, bytes) = (self.first, self.now.end);
        self.closed.push(Closed { first, bytes });
        self.first = self.size();
        self.file = file;
        self.now.end = end;
        self.committed = self.now.clone();
        Ok(())
    }

    /// Removes the oldest segments while there is too much, and says so first.
    fn prune(&mut self, at_unix_ms: u64) -> Result<(), FileError> {
        let mut bytes = self.now.end + self.closed.iter().map(|segment| segment.bytes).sum::<u64>();
        let mut leaving = 0;
        while bytes > self.settings.keep_bytes && leaving < self.closed.len() {
            bytes -= self.closed[leaving].bytes;
            leaving += 1;
        }
        if leaving == 0 {
            return Ok(());
        }
        let first = self.closed.get(leaving).map_or(self.first, |segment| segment.first);
        // A segment that does not begin as it was written stays, and those before it with it, for somebody to look at.
        let Some(tree) = start_of(&self.folder.segment(first), first)? else {
            return Ok(());
        };
        let removal = Removal {
            origin: self.origin.clone(),
            first,
            root: tree.root(),
            at_unix_ms,
        };
        let Ok(note) = removal.sign(&self.key, &self.rng) else {
            return Ok(());
        };
        files::replace(&self.folder.removed(), note.as_bytes(), Secrecy::Secret)?;
        self.remove_before(first)
    }

    fn remove_before(&mut self, first: u64) -> Result<(), FileError> {
        while let Some(oldest) = self.closed.first().filter(|segment| segment.first < first) {
            files::remove(&self.folder.segment(oldest.first))?;
            self.closed.remove(0);
        }
        files::sync_folder(self.folder.path())
    }
}

/// Makes the segment that goes on from a tree, whose signed head is given; durable when this returns.
fn begin_segment(folder: &LogFolder, tree: &Tree, note: &str) -> Result<(File, u64), FileError> {
    let path = folder.segment(tree.size());
    let file = files::create(&path, Secrecy::Secret)?;
    let bytes = frame::encode_start(tree, note);
    file.write_all_at(&bytes, 0).map_err(FileError::of("write", &path))?;
    file.sync_all().map_err(FileError::of("sync", &path))?;
    files::sync_folder(folder.path())?;
    Ok((file, bytes.len() as u64))
}
