//! The file: written under another name until it is whole, and read to its end before anything in it counts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fieldfare_files::{Secrecy, create, rename, staged};
use fieldfare_fleet::Timestamp;
use fieldfare_release::{ArtifactVerifier, Sha256Digest};
use futures_util::TryStreamExt;
use ring::digest::{Context as Hash, SHA256};
use tar::EntryType;

use super::{BLOBS, SUMS};
use crate::blobs::Blobs;
use crate::limits::{BACKUP_FILE_BYTES_MAX, BACKUP_NAMES_MAX, BLOB_PART_BYTES};

/// What tar counts in.
const BLOCK: u64 = 512;

/// A backup that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    out: BufWriter<File>,
    temporary: Temporary,
    target: PathBuf,
    sums: String,
    seconds: u64,
    written: u64,
}

/// Removed, unless it got its name.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // There is nothing more to do about a file that cannot be removed: it has another name than a backup.
        let _ = fs::remove_file(&self.0);
    }
}

impl Writer {
    /// Begins a file that nobody else may read.
    pub(super) fn create(target: &Path, now: Timestamp) -> Result<Self> {
        if target.exists() {
            bail!("the file exists already");
        }
        let temporary = staged(target);
        let file = create(&temporary, Secrecy::Secret)?;
        Ok(Self {
            out: BufWriter::new(file),
            temporary: Temporary(temporary),
            target: target.to_owned(),
            sums: String::new(),
            seconds: now.unix_ms() / 1000,
            written: 0,
        })
    }

    fn begin(&mut self, name: &str, length: u64) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_path(name)?;
        header.set_size(length);
        header.set_mode(0o600);
        header.set_mtime(self.seconds);
        header.set_entry_type(EntryType::Regular);
        header.set_cksum();
        self.write(header.as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn end(&mut self, name: &str, sha256: &str) -> io::Result<()> {
        let over = self.written % BLOCK;
        if over > 0 {
            let zeros = [0; BLOCK as usize];
            self.write(&zeros[over as usize..])?;
        }
        // As `sha256sum` writes it.
        self.sums.push_str(&format!("{sha256}  {name}\n"));
        Ok(())
    }

    /// Adds a file.
    pub(super) fn add(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.begin(name, bytes.len() as u64)?;
        self.write(bytes)?;
        self.end(name, &Sha256Digest::of(bytes).to_string())
    }

    /// Adds a blob, whose bytes are verified on the way.
    pub(super) async fn add_blob(&mut self, blobs: &Blobs, sha256: &Sha256Digest) -> Result<()> {
        let reading = || format!("reading the blob {sha256}");
        let length = blobs.length(sha256).await.with_context(reading)?;
        let length = length.with_context(|| format!("the blob {sha256} is gone"))?;
        let hex = sha256.to_string();
        let name = format!("{BLOBS}{}/{hex}", &hex[..2]);
        let mut verifier = ArtifactVerifier::new(length, *sha256);
        self.begin(&name, length)?;
        let mut bytes = blobs.stream(sha256, 0..length).await.with_context(reading)?;
        while let Some(chunk) = bytes.try_next().await.with_context(reading)? {
            verifier.update(&chunk).with_context(reading)?;
            self.write(&chunk)
                .with_context(|| format!("writing {}", self.temporary.0.display()))?;
        }
        verifier.finish().with_context(reading)?;
        Ok(self.end(&name, &hex)?)
    }

    /// Ends the file: it is on disk, and has its name. Gives its length.
    pub(super) fn finish(mut self) -> Result<u64> {
        let sums = std::mem::take(&mut self.sums);
        self.add(SUMS, sums.as_bytes())?;
        self.write(&[0; 2 * BLOCK as usize])?;
        self.out.flush()?;
        self.out.get_ref().sync_all()?;
        rename(&self.temporary.0, &self.target)?;
        Ok(self.written)
    }
}

type Archive = tar::Archive<BufReader<File>>;

/// A file of a backup.
pub(super) struct Member<'a> {
    /// Its name.
    pub(super) name: String,
    /// Its length, in bytes.
    pub(super) length: u64,
    bytes: Whole<tar::Entry<'a, BufReader<File>>>,
}

impl<'a> Member<'a> {
    fn of(entry: io::Result<tar::Entry<'a, BufReader<File>>>) -> Result<Self> {
        let entry = entry?;
        let name = entry.path()?.to_str().context("a name that is no text")?.to_owned();
        let length = entry.header().size()?;
        if entry.header().entry_type() != EntryType::Regular {
            bail!("{name} is no plain file");
        }
        let bytes = Whole {
            left: length,
            bytes: entry,
        };
        Ok(Self { name, length, bytes })
    }

    /// All of its bytes.
    pub(super) fn read(&mut self) -> Result<Vec<u8>> {
        if self.length > BACKUP_FILE_BYTES_MAX {
            bail!("{} has {} bytes, more than any such file", self.name, self.length);
        }
        let mut bytes = Vec::new();
        self.bytes.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The next bytes; none at the end.
    pub(super) fn read_some(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&mut self.bytes).take(most as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Opens a backup.
pub(super) fn open(file: &Path) -> io::Result<Archive> {
    Ok(tar::Archive::new(BufReader::new(File::open(file)?)))
}

/// The files of a backup that was just opened, in their order. Each is read before the next.
pub(super) fn members(archive: &mut Archive) -> io::Result<impl Iterator<Item = Result<Member<'_>>>> {
    Ok(archive.entries()?.map(Member::of))
}

/// A file that ends before its length is an error, and no short file.
struct Whole<R> {
    left: u64,
    bytes: R,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.bytes.read(buffer)?;
        self.left = self.left.saturating_sub(read as u64);
        if read == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file ends in the middle",
            ));
        }
        Ok(read)
    }
}

/// Reads a backup to its end and compares every file with its digest. Hands each to `see` meanwhile, whose word counts only when all of
/// it is right.
///
/// # Errors
/// It is no backup, is not whole, or was changed.
pub(super) fn verify(file: &Path, mut see: impl FnMut(&str, &[u8]) -> Result<()>) -> Result<()> {
    let mut found = BTreeMap::new();
    let mut sums = None;
    let mut archive = open(file)?;
    let broken = "the backup is damaged or cut off";
    for member in members(&mut archive).context(broken)? {
        let mut member = member.context(broken)?;
        if sums.is_some() || found.len() >= BACKUP_NAMES_MAX {
            bail!("the backup is damaged: {} should not be in it", member.name);
        }
        if member.name == SUMS {
            sums = Some(member.read().context(broken)?);
            continue;
        }
        let sha256 = if member.name.starts_with(BLOBS) {
            digest(&mut member).context(broken)?
        } else {
            let bytes = member.read().context(broken)?;
            see(&member.name, &bytes)?;
            Sha256Digest::of(&bytes).to_string()
        };
        let name = std::mem::take(&mut member.name);
        if found.insert(name, sha256).is_some() {
            bail!("the backup is damaged: a file is in it twice");
        }
    }
    let Some(sums) = sums else {
        bail!("the backup is cut off, or is none: {SUMS}, its last file, is missing");
    };
    let listed = String::from_utf8(sums).unwrap_or_default();
    let listed: BTreeMap<&str, &str> = listed
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(sha256, name)| (name, sha256))
        .collect();
    for (name, sha256) in &found {
        match listed.get(name.as_str()) {
            Some(listed) if listed == sha256 => {}
            Some(_) => bail!("the backup is damaged: {name} has other bytes than were written"),
            None => bail!("the backup is damaged: {name} is not listed in {SUMS}"),
        }
    }
    match listed.keys().find(|name| !found.contains_key(**name)) {
        Some(missing) => bail!("the backup is damaged: {missing} is missing"),
        None => Ok(()),
    }
}

fn digest(member: &mut Member<'_>) -> io::Result<String> {
    let mut hash = Hash::new(&SHA256);
    loop {
        let bytes = member.read_some(BLOB_PART_BYTES)?;
        if bytes.is_empty() {
            return Ok(hex::encode(hash.finish()));
        }
        hash.update(&bytes);
    }
}
