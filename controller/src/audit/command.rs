//! Commands that are given on the controller's own machine: what changes a fleet's folder, or copies it, is logged before it is done.
//!
//! While a controller runs, the log is its alone. A command leaves its record beside the log then, on the disk before it does anything,
//! and the controller takes it up. The file is locked for as long as the command is at work.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use fieldfare_audit::log::{Log, OpenError};
use fieldfare_files::{Secrecy, make_folder};
use fieldfare_proto::v1::audit_record::Event;
use fieldfare_proto::v1::{AuditCall, AuditOutcome, AuditRecord};
use fieldfare_release::Sha256Digest;
use fieldfare_tls::{Principal, TimeSource};
use prost::Message;
use ring::rand::SystemRandom;
use tonic::Code;

use super::{Audit, advice, encoded, opened_by, settings};
use crate::clock::{random_bytes, unix_ms};
use crate::folder::Folder;
use crate::limits::AUDIT_MESSAGE_BYTES_MAX;

/// A command that is in the log, and whose outcome is not yet.
#[derive(Debug)]
pub(crate) struct Given {
    clock: TimeSource,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// Nobody else writes the log.
    Log(Box<Log>, u64),
    /// A controller does.
    Left(File, PathBuf),
}

/// The call by which a command stands in the log: by the name of the controller on whose machine it was given.
pub(crate) fn call(owner: &Principal, words: &str) -> AuditCall {
    AuditCall {
        spiffe_id: owner.to_string(),
        method: format!("{}/{words}", env!("CARGO_PKG_NAME")),
        request_sha256: Sha256Digest::of(&[]).as_bytes().to_vec(),
        ..AuditCall::default()
    }
}

impl Given {
    /// Logs a command by its words, durably.
    ///
    /// # Errors
    /// It cannot be logged, and must not be carried out.
    pub(crate) fn begin(folder: &Folder, owner: &Principal, words: &str, clock: &TimeSource) -> Result<Self> {
        let now = clock.now();
        let record = encoded(unix_ms(now), Event::Call(call(owner, words)));
        let way = match Log::open(settings(folder, owner), now.unix_ms(), SystemRandom::new()) {
            Ok((mut log, opened)) => {
                log.append(&encoded(unix_ms(now), opened_by(owner, opened)))?;
                let index = log.append(&record)?;
                log.commit(now.unix_ms())?;
                Way::Log(Box::new(log), index)
            }
            Err(OpenError::Locked(_)) => {
                let (file, path) = leave(&folder.audit_commands(), now.unix_ms(), &record)
                    .with_context(|| format!("writing into {}", folder.audit_commands().display()))?;
                Way::Left(file, path)
            }
            Err(error) => return Err(advice(error, &folder.audit())),
        };
        let clock = clock.clone();
        Ok(Self { clock, way })
    }

    /// Logs what came of it, and gives that back.
    ///
    /// # Errors
    /// It failed, or it was done and its outcome cannot be logged.
    pub(crate) fn end<T>(self, done: Result<T>) -> Result<T> {
        let mut outcome = AuditOutcome::default();
        if let Err(error) = &done {
            (outcome.code, outcome.detail) = (Code::Unknown as u32, format!("{error:#}"));
        }
        let logged = self.log(outcome);
        let done = done?;
        logged.context("it was done, but its outcome is not in the audit log")?;
        Ok(done)
    }

    fn log(self, outcome: AuditOutcome) -> Result<()> {
        let now = self.clock.now();
        match self.way {
            Way::Log(mut log, of_record) => {
                let outcome = AuditOutcome { of_record, ..outcome };
                log.append(&encoded(unix_ms(now), Event::Outcome(outcome)))?;
                Ok(log.commit(now.unix_ms())?)
            }
            Way::Left(mut file, path) => {
                let record = encoded(unix_ms(now), Event::Outcome(outcome));
                let written = file.write_all(&framed(&record)).and_then(|()| file.sync_all());
                written.with_context(|| format!("writing {}", path.display()))
            }
        }
    }
}

fn framed(record: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(record.len() + 10);
    prost::encode_length_delimiter(record.len(), &mut bytes).unwrap_or_default();
    bytes.extend_from_slice(record);
    bytes
}

/// Writes a record where the controller that runs finds it.
fn leave(commands: &Path, at_unix_ms: u64, record: &[u8]) -> Result<(File, PathBuf)> {
    make_folder(commands, Secrecy::Secret)?;
    let path = commands.join(format!("{at_unix_ms:020}-{}.pb", hex::encode(random_bytes::<8>()?)));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    file.lock()?;
    file.write_all(&framed(record))?;
    file.sync_all()?;
    File::open(commands)?.sync_all()?;
    Ok((file, path))
}

/// What a command that is over left: its call, and its outcome unless it was killed. None of one that is at work, or that was killed
/// before anything counted.
fn left(path: &Path) -> std::io::Result<Option<(AuditRecord, Option<AuditRecord>)>> {
    let mut file = File::open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let mut bytes = Vec::new();
    Read::by_ref(&mut file)
        .take(2 * AUDIT_MESSAGE_BYTES_MAX as u64)
        .read_to_end(&mut bytes)?;
    let mut rest = bytes.as_slice();
    let call = AuditRecord::decode_length_delimited(&mut rest);
    let outcome = AuditRecord::decode_length_delimited(&mut rest);
    Ok(call.ok().map(|call| (call, outcome.ok())))
}

impl Audit {
    /// Takes up the records of commands that were given while the log was this process's alone.
    ///
    /// # Errors
    /// They cannot be read, logged or removed; what is left is taken up later. One may be logged twice then.
    pub(crate) async fn take_up(&self, folder: &Folder) -> Result<()> {
        let entries = match fs::read_dir(folder.audit_commands()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let mut paths = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<Vec<_>>>()?;
        paths.sort();
        for path in paths {
            let Some((call, outcome)) = left(&path)? else { continue };
            let of_record = self.append(call.encode_to_vec()).await?;
            if let Some(AuditRecord {
                at_unix_ms,
                event: Some(Event::Outcome(outcome)),
            }) = outcome
            {
                let outcome = AuditOutcome { of_record, ..outcome };
                self.append(encoded(at_unix_ms, Event::Outcome(outcome))).await?;
            }
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(())
    }
}
