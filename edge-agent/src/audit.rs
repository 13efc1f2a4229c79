//! The device's audit log: every change of the model that serves, and every answer that it generated, by figures alone.
//!
//! A release begins to serve only after the log says so. Answers are never held up by the log: their records go through a bounded
//! queue to the thread that writes, are signed and synced within seconds, and where there is no room, or no working disk, the log
//! itself says later how many are missing. Neither a prompt nor an answer ever comes near it.

use std::io;
use std::path::PathBuf;

use fieldfare_audit::limits::SEGMENT_BYTES;
use fieldfare_audit::log::{Log, OpenError, Opened, Settings};
use fieldfare_audit::writer::{Handle, Host, Unwritten, Writer};
use fieldfare_files as files;
use fieldfare_proto::v1::audit_record::Event;
use fieldfare_proto::v1::{AuditGap, AuditInference, AuditModelChange, AuditOpened, AuditRecord};
use prost::Message;
use ring::rand::SystemRandom;
use tokio::sync::oneshot;

use crate::clock;
use crate::folder::Folder;
use crate::limits::{AUDIT_BYTES_MAX, AUDIT_LOGS_KEPT};
use crate::process;

/// The way to the log.
#[derive(Clone, Debug)]
pub struct Audit(Handle);

fn encoded(event: Event) -> Vec<u8> {
    let at_unix_ms = i64::try_from(clock::now().unix_ms()).unwrap_or(i64::MAX);
    AuditRecord {
        at_unix_ms,
        event: Some(event),
    }
    .encode_to_vec()
}

struct Device;

impl Host for Device {
    fn now_unix_ms(&self) -> u64 {
        clock::now().unix_ms()
    }

    fn gap(&self, records: u64, since_unix_ms: u64) -> Vec<u8> {
        let since_unix_ms = i64::try_from(since_unix_ms).unwrap_or(i64::MAX);
        encoded(Event::Gap(AuditGap { records, since_unix_ms }))
    }

    fn trouble(&self, error: &(dyn std::error::Error + 'static)) {
        tracing::error!(error = process::chain(error), "the audit log cannot be written");
    }
}

impl Audit {
    /// Starts the thread that opens the log of a folder, or begins one, and writes it. A device serves also while that cannot be
    /// done; a log that is damaged is set aside, and the new one says so.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(folder: &Folder, spiffe_id: &str) -> io::Result<(Self, Writer)> {
        let (folder, spiffe_id) = (folder.clone(), spiffe_id.to_owned());
        let open = move |now| open(&folder, &spiffe_id, now);
        let writer = Writer::start_opening(Box::new(open), Device)?;
        Ok((Self(writer.handle()), writer))
    }

    /// Records an answer. Never waits.
    pub fn inference(&self, inference: AuditInference) {
        self.0.note(encoded(Event::Inference(inference)));
    }

    /// Records a change of what serves, and waits until it is signed and durable.
    ///
    /// # Errors
    /// It is not in the log.
    pub async fn announce(&self, change: AuditModelChange) -> Result<(), Unwritten> {
        let (tell, told) = oneshot::channel();
        let answer = move |outcome: Result<u64, Unwritten>| drop(tell.send(outcome.map(drop)));
        self.0.commit(encoded(Event::ModelChange(change)), Box::new(answer));
        told.await.map_err(|_| Unwritten::Closed)?
    }

    /// Records a change that happens whatever becomes of the record: it goes back to what served before, or nothing serves.
    pub fn tell(&self, change: AuditModelChange) {
        let answer = |outcome: Result<u64, Unwritten>| {
            if let Err(error) = outcome {
                tracing::error!(
                    error = process::chain(&error),
                    "a change of the model is not in the audit log"
                );
            }
        };
        self.0.commit(encoded(Event::ModelChange(change)), Box::new(answer));
    }

    /// Records written since the start, and records that could not be.
    pub fn counts(&self) -> (u64, u64) {
        (self.0.written(), self.0.unwritten())
    }
}

fn open(folder: &Folder, spiffe_id: &str, now: u64) -> Result<(Log, Vec<u8>), OpenError> {
    let settings = Settings {
        folder: folder.audit(),
        key: folder.audit_key(),
        owner: spiffe_id.strip_prefix("spiffe://").unwrap_or(spiffe_id).to_owned(),
        segment_bytes: SEGMENT_BYTES,
        keep_bytes: AUDIT_BYTES_MAX,
    };
    let try_open = || Log::open(settings.clone(), now, SystemRandom::new());
    let (log, opened, replaces) = match try_open() {
        Ok((log, opened)) => (log, opened, String::new()),
        Err(error @ (OpenError::Damaged { .. } | OpenError::KeyLost(_))) => {
            let why = process::chain(&error);
            // Where it cannot be moved, there is no log, and that is tried again.
            let Ok(aside) = set_aside(folder) else {
                return Err(error);
            };
            tracing::error!(error = why, aside = %aside.display(), "the audit log is set aside, and a new one begun");
            let (log, opened) = try_open()?;
            (log, opened, format!("{why}; it lies in {}", aside.display()))
        }
        Err(error) => return Err(error),
    };
    let Opened { began, cut_bytes, .. } = opened;
    let first = AuditOpened {
        program: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        spiffe_id: spiffe_id.to_owned(),
        began,
        cut_bytes,
        replaces,
    };
    Ok((log, encoded(Event::Opened(first))))
}

/// Moves a log that cannot be continued out of the way, for somebody to look at. The oldest of several makes room.
fn set_aside(folder: &Folder) -> io::Result<PathBuf> {
    let place = |number| folder.damaged_audit(number);
    let number = (1..=AUDIT_LOGS_KEPT)
        .find(|number| !place(*number).exists())
        .unwrap_or(AUDIT_LOGS_KEPT);
    if place(number).exists() {
        files::remove_folder(&place(1)).map_err(io::Error::other)?;
        for later in 2..=AUDIT_LOGS_KEPT {
            std::fs::rename(place(later), place(later - 1))?;
        }
    }
    std::fs::rename(folder.audit(), place(number))?;
    Ok(place(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_damaged_logs_are_kept_and_the_oldest_leaves() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::new(place.path());
        for round in 0..5 {
            std::fs::create_dir(folder.audit()).unwrap();
            std::fs::write(folder.audit().join("round"), round.to_string()).unwrap();
            set_aside(&folder).unwrap();
        }
        let round = |number: usize| std::fs::read_to_string(folder.damaged_audit(number).join("round")).unwrap();
        assert_eq!([round(1), round(2), round(3)], ["2", "3", "4"]);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 3);
    }
}
