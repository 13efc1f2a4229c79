//! Walks over a log that lies in files, offline: nothing but the files is asked.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use fieldfare_files::FileError;
use fieldfare_release::Sha256Digest;
use fieldfare_release::tuf::PublicKey;

use crate::folder::{LogFolder, read_file};
use crate::frame::{self, HEADER_BYTES, Kind, MAGIC, Next};
use crate::head::{Removal, TreeHead};
use crate::limits::{MAX_KEY_BYTES, MAX_NOTE_BYTES};
use crate::tree::Tree;
use crate::verify::{Anchor, Finding, Report, Verifier};

/// What a log is judged by, beside its own files.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// The key that it must have. Without one, its own is believed: that shows that the log is whole, not whose it is.
    pub key: Option<PublicKey>,
    /// Signed heads that were kept elsewhere, with what to call them. Only they show that the log was not put back as a whole
    /// to an earlier state, or written anew by somebody who has its key.
    pub heads: Vec<(String, Vec<u8>)>,
}

/// A log that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// Fingerprint of the key by which it was judged: SHA-256 of its SubjectPublicKeyInfo.
    pub key: Option<Sha256Digest>,
    /// Whether that key was given, rather than found beside the log.
    pub pinned: bool,
    /// The verdict.
    pub report: Report,
}

/// SHA-256 of the SubjectPublicKeyInfo of a key: what `openssl pkey -pubin -outform DER | sha256sum` says.
pub fn fingerprint(key: &PublicKey) -> Sha256Digest {
    Sha256Digest::of(&key.to_der().unwrap_or_default())
}

fn bad_file(file: &Path, why: impl std::fmt::Display) -> Finding {
    let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Finding::BadFile {
        file,
        why: why.to_string(),
    }
}

fn own_key(folder: &LogFolder) -> Result<Result<PublicKey, Finding>, FileError> {
    let path = folder.public_key();
    let Some(bytes) = read_file(&path, MAX_KEY_BYTES)? else {
        return Ok(Err(bad_file(&path, "it is missing")));
    };
    let text = String::from_utf8(bytes).unwrap_or_default();
    Ok(PublicKey::from_pem(&text).map_err(|error| bad_file(&path, error)))
}

/// Looks at every record of a log, calls `see` with each one that can be read, and judges the whole. What is wrong with the log
/// is in the report.
///
/// # Errors
/// The files cannot be read.
pub fn examine(folder: &LogFolder, trust: &Trust, see: &mut dyn FnMut(u64, &[u8])) -> Result<Examined, FileError> {
    // The checkpoint before the segments: in a log that is being written, there are then records for it.
    let checkpoint = read_file(&folder.checkpoint(), MAX_NOTE_BYTES)?;
    let removed = read_file(&folder.removed(), MAX_NOTE_BYTES)?;
    let segments = folder.segments()?;
    let mut findings = Vec::new();
    let own = own_key(folder)?;
    let key = match (&trust.key, own) {
        (None, Ok(own)) => own,
        (None, Err(finding)) => return Ok(unjudged(finding)),
        (Some(given), Ok(own)) if own.to_der() == given.to_der() => own,
        (Some(given), Ok(own)) => {
            findings.push(Finding::OtherKey {
                found: fingerprint(&own).to_string(),
            });
            given.clone()
        }
        (Some(given), Err(finding)) => {
            findings.push(finding);
            given.clone()
        }
    };
    let mut anchors = Vec::new();
    match checkpoint {
        None => findings.push(bad_file(&folder.checkpoint(), "it is missing")),
        Some(note) => anchor(&key, "the checkpoint", &note, &mut anchors, &mut findings),
    }
    for (name, note) in &trust.heads {
        anchor(&key, name, note, &mut anchors, &mut findings);
    }
    let removal = removed.and_then(|note| {
        let opened = Removal::open(&note, &key);
        let note = "the statement of what was removed".to_owned();
        opened.map_err(|why| findings.push(Finding::BadNote { note, why })).ok()
    });
    if segments.is_empty() {
        findings.push(bad_file(&folder.segment(0), "there is no segment"));
    }
    let mut verifier = Verifier::new(key.clone(), removal, anchors);
    findings.into_iter().for_each(|finding| verifier.report(finding));
    for (position, first) in segments.iter().enumerate() {
        verifier.begin_segment(*first, position + 1 == segments.len());
        walk(&folder.segment(*first), &mut verifier, see)?;
    }
    Ok(Examined {
        key: Some(fingerprint(&key)),
        pinned: trust.key.is_some(),
        report: verifier.finish(),
    })
}

fn unjudged(finding: Finding) -> Examined {
    Examined {
        key: None,
        pinned: false,
        report: Report {
            findings: vec![finding],
            ..Report::default()
        },
    }
}

fn anchor(key: &PublicKey, name: &str, note: &[u8], anchors: &mut Vec<Anchor>, findings: &mut Vec<Finding>) {
    let name = name.to_owned();
    match TreeHead::open(note, key) {
        Ok(head) => anchors.push(Anchor { name, head }),
        Err(why) => findings.push(Finding::BadNote { note: name, why }),
    }
}

/// Shows the verifier every frame of a segment.
pub(crate) fn walk(path: &Path, verifier: &mut Verifier, see: &mut dyn FnMut(u64, &[u8])) -> Result<(), FileError> {
    let file = File::open(path).map_err(FileError::of("open", path))?;
    let mut reader = BufReader::new(file);
    if !frame::read_magic(&mut reader).map_err(FileError::of("read", path))? {
        verifier.unreadable_from(0);
        return Ok(());
    }
    let mut offset = MAGIC.len() as u64;
    loop {
        match frame::read(&mut reader).map_err(FileError::of("read", path))? {
            Next::Frame(frame) => {
                if verifier.frame(offset, &frame) {
                    see(frame.index, &frame.payload);
                }
                offset += (HEADER_BYTES + frame.payload.len()) as u64;
            }
            Next::End => {
                verifier.end_segment(offset);
                return Ok(());
            }
            Next::Unreadable => {
                verifier.unreadable_from(offset);
                return Ok(());
            }
        }
    }
}

/// The tree that a segment goes on from, where its beginning is whole.
pub(crate) fn start_of(path: &Path, first: u64) -> Result<Option<Tree>, FileError> {
    let file = File::open(path).map_err(FileError::of("open", path))?;
    let mut reader = BufReader::new(file);
    let begins = frame::read_magic(&mut reader).map_err(FileError::of("read", path))?;
    let next = frame::read(&mut reader).map_err(FileError::of("read", path))?;
    Ok(match next {
        Next::Frame(frame) if begins && frame.intact && frame.kind == Kind::Start && frame.index == first => {
            frame::decode_start(first, &frame.payload).map(|(tree, _)| tree)
        }
        _ => None,
    })
}
