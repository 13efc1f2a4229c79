//! How a writer begins a log, or goes on with one after whatever happened to its process or machine.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::PathBuf;

use fieldfare_files::{self as files, FileError, Secrecy};
use fieldfare_release::tuf::{KeyError, SigningKey};
use ring::rand::SystemRandom;

use super::{Closed, Log, LogError, Mark, Settings, begin_segment};
use crate::folder::{LogFolder, read_file};
use crate::head::{Removal, TreeHead};
use crate::limits::{MAX_KEY_BYTES, MAX_NOTE_BYTES};
use crate::note::is_origin;
use crate::read::{fingerprint, walk};
use crate::tree::Tree;
use crate::verify::{Anchor, Finding, Verifier};

/// Why a log is not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk refuses.
    #[error(transparent)]
    Disk(#[from] FileError),
    /// A key cannot be made or read.
    #[error("the key of the audit log")]
    Key(#[from] KeyError),
    /// What was found at its end cannot be signed.
    #[error("the end of the audit log cannot be signed")]
    Commit(#[source] LogError),
    /// Another process writes it.
    #[error("another process writes the audit log in {}", .0.display())]
    Locked(PathBuf),
    /// Its owner's name cannot be part of an origin.
    #[error("{0:?} cannot name an audit log")]
    Owner(String),
    /// It has another private key, or that is gone: nobody can go on with it.
    #[error("the private key of the audit log is not in {}", .0.display())]
    KeyLost(PathBuf),
    /// What was acknowledged is not there as it was written. It must not be written any more, so that it can be looked at.
    #[error("the audit log in {} is damaged: {finding}", folder.display())]
    Damaged {
        /// Where it lies.
        folder: PathBuf,
        /// The first thing that is wrong.
        finding: Finding,
    },
}

/// What was found when a log was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Whether it is a new one.
    pub began: bool,
    /// Bytes at the end that were no whole record and were cut off. Nobody had been told that they were written.
    pub cut_bytes: u64,
    /// How many records there are.
    pub records: u64,
}

impl Log {
    /// Goes on with a log, or begins one where there is none. What is found at its end without a signature is signed.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(settings: Settings, at_unix_ms: u64, rng: SystemRandom) -> Result<(Self, Opened), OpenError> {
        if !is_origin(&settings.owner) {
            return Err(OpenError::Owner(settings.owner));
        }
        let folder = LogFolder::at(&settings.folder);
        files::make_folder(folder.path(), Secrecy::Secret)?;
        let lock = lock(&folder)?;
        let known = read_file(&folder.public_key(), MAX_KEY_BYTES)?;
        let Some(public) = known else {
            return begin(folder, settings, lock, at_unix_ms, rng);
        };
        let key = read_file(&settings.key, MAX_KEY_BYTES)?.and_then(|pem| String::from_utf8(pem).ok());
        let key = key.and_then(|pem| SigningKey::from_pem(&pem, &rng).ok());
        let key = key.filter(|key| key.public().to_pem().as_bytes() == public);
        let key = key.ok_or_else(|| OpenError::KeyLost(settings.key.clone()))?;
        go_on(folder, settings, lock, key, at_unix_ms, rng)
    }
}

fn lock(folder: &LogFolder) -> Result<File, OpenError> {
    let path = folder.lock();
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(FileError::of("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(folder.path().to_owned())),
        Err(TryLockError::Error(error)) => Err(FileError::of("lock", &path)(error).into()),
    }
}

fn damaged(folder: &LogFolder, finding: Finding) -> OpenError {
    OpenError::Damaged {
        folder: folder.path().to_owned(),
        finding,
    }
}

fn missing(folder: &LogFolder, file: &str) -> OpenError {
    let (file, why) = (file.to_owned(), "it is missing".to_owned());
    damaged(folder, Finding::BadFile { file, why })
}

/// A new log has a new key: two logs with one key would be two histories of one log.
fn begin(
    folder: LogFolder,
    settings: Settings,
    lock: File,
    at_unix_ms: u64,
    rng: SystemRandom,
) -> Result<(Log, Opened), OpenError> {
    // A beginning that was cut off leaves at most the first segment and an empty head; anything else has lost its key.
    let segments = folder.segments()?;
    let checkpoint = read_file(&folder.checkpoint(), MAX_NOTE_BYTES)?.unwrap_or_default();
    let unbegun = segments.iter().all(|first| *first == 0) && (checkpoint.is_empty() || is_empty_head(&checkpoint));
    if !unbegun {
        return Err(missing(&folder, "log.pub"));
    }
    let key = SigningKey::generate(&rng)?;
    files::replace(&settings.key, key.to_pem().as_bytes(), Secrecy::Secret)?;
    let id: String = fingerprint(key.public()).to_string().chars().take(16).collect();
    let origin = format!("{}/{id}", settings.owner);
    let tree = Tree::new();
    let (size, root) = (tree.size(), tree.root());
    let head = TreeHead {
        origin: origin.clone(),
        size,
        root,
        at_unix_ms,
    };
    let note = head.sign(&key, &rng)?;
    let (file, end) = begin_segment(&folder, &tree, &note)?;
    files::replace(&folder.checkpoint(), note.as_bytes(), Secrecy::Secret)?;
    files::replace(&folder.public_key(), key.public().to_pem().as_bytes(), Secrecy::Secret)?;
    files::sync_parent(folder.path())?;
    let now = Mark { end, tree };
    let log = Log {
        folder,
        settings,
        origin,
        key,
        rng,
        _lock: lock,
        closed: Vec::new(),
        first: 0,
        file,
        committed: now.clone(),
        now,
        signed: 0,
        spilt: false,
    };
    Ok((
        log,
        Opened {
            began: true,
            cut_bytes: 0,
            records: 0,
        },
    ))
}

/// Whether a checkpoint, whoever signed it, says that there are no records.
fn is_empty_head(note: &[u8]) -> bool {
    str::from_utf8(note).is_ok_and(|text| text.lines().nth(1) == Some("0"))
}

fn go_on(
    folder: LogFolder,
    settings: Settings,
    lock: File,
    key: SigningKey,
    at_unix_ms: u64,
    rng: SystemRandom,
) -> Result<(Log, Opened), OpenError> {
    let checkpoint = read_file(&folder.checkpoint(), MAX_NOTE_BYTES)?;
    let checkpoint = checkpoint.ok_or_else(|| missing(&folder, "checkpoint"))?;
    let bad_note = |why| {
        let note = "the checkpoint".to_owned();
        damaged(&folder, Finding::BadNote { note, why })
    };
    let checkpoint = TreeHead::open(&checkpoint, key.public()).map_err(bad_note)?;
    let mut segments = folder.segments()?;
    let mut cut_bytes = 0;
    let (first, end) = loop {
        let Some(first) = segments.last().copied() else {
            return Err(missing(&folder, "the last segment"));
        };
        let end = last_segment(&folder, &key, &checkpoint, first)?;
        cut_bytes += end.cut_bytes;
        segments.pop();
        match end.mark {
            Some(mark) => break (first, (mark, end.signed)),
            // A segment that was just being made: the one before it is whole, and is the last.
            None => files::remove(&folder.segment(first))?,
        }
    };
    let (mark, signed) = end;
    let path = folder.segment(first);
    let file = OpenOptions::new().read(true).write(true).open(&path);
    let file = file.map_err(FileError::of("open", &path))?;
    file.set_len(mark.end).map_err(FileError::of("truncate", &path))?;
    file.sync_all().map_err(FileError::of("sync", &path))?;
    files::sync_folder(folder.path())?;
    let closed = segments
        .iter()
        .map(|first| closed(&folder, *first))
        .collect::<Result<_, _>>()?;
    let mut log = Log {
        origin: checkpoint.origin,
        folder,
        settings,
        key,
        rng,
        _lock: lock,
        closed,
        first,
        file,
        committed: mark.clone(),
        now: mark,
        signed: signed.min(checkpoint.size),
        spilt: false,
    };
    log.finish_removal()?;
    let records = log.size();
    log.commit(at_unix_ms).map_err(OpenError::Commit)?;
    Ok((
        log,
        Opened {
            began: false,
            cut_bytes,
            records,
        },
    ))
}

fn closed(folder: &LogFolder, first: u64) -> Result<Closed, FileError> {
    let path = folder.segment(first);
    let facts = std::fs::metadata(&path).map_err(FileError::of("look at", &path))?;
    Ok(Closed {
        first,
        bytes: facts.len(),
    })
}

/// What a writer finds in the last segment.
struct End {
    /// Where its whole records end; none where not even its beginning is whole.
    mark: Option<Mark>,
    cut_bytes: u64,
    signed: u64,
}

/// Judges the last segment as verification does, and what is wrong where nothing was acknowledged is cut off.
fn last_segment(folder: &LogFolder, key: &SigningKey, checkpoint: &TreeHead, first: u64) -> Result<End, OpenError> {
    let path = folder.segment(first);
    let length = std::fs::metadata(&path).map_err(FileError::of("look at", &path))?.len();
    let anchor = Anchor {
        name: "the checkpoint".to_owned(),
        head: checkpoint.clone(),
    };
    let mut verifier = Verifier::new(key.public().clone(), None, vec![anchor]).from_segment(first);
    verifier.begin_segment(first, true);
    walk(&path, &mut verifier, &mut |_, _| {})?;
    let tree = verifier.tree().cloned();
    let report = verifier.finish();
    if let Some(finding) = report.findings.into_iter().next() {
        return Err(damaged(folder, finding));
    }
    let end = report.torn.map_or(length, |torn| torn.offset);
    Ok(End {
        mark: tree.map(|tree| Mark { end, tree }),
        cut_bytes: length.saturating_sub(end),
        signed: report.signed,
    })
}

impl Log {
    /// Removes what a statement says is removed, and a crash left.
    fn finish_removal(&mut self) -> Result<(), FileError> {
        let Some(note) = read_file(&self.folder.removed(), MAX_NOTE_BYTES)? else {
            return Ok(());
        };
        match Removal::open(&note, self.key.public()) {
            Ok(removal) => self.remove_before(removal.first),
            // Verification tells about it.
            Err(_) => Ok(()),
        }
    }
}
