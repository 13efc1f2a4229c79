//! The audit log: its hashes against the reference vectors, its files, and those who tamper with them.
#![allow(
    clippy::unwrap_used,
    reason = "a file of tests: clippy sees only functions with the attribute as such"
)]

mod attacks;
mod bits;
mod files;
mod kill;
mod power;
mod vectors;
mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use fieldfare_audit::folder::LogFolder;
use fieldfare_audit::log::{Log, OpenError, Opened, Settings};
use fieldfare_audit::read::{Examined, Trust, examine};
use ring::rand::SystemRandom;
use tempfile::TempDir;

/// A folder for a log, and how it is kept there: its key beside it.
struct Place {
    folder: TempDir,
    segment_bytes: u64,
    keep_bytes: u64,
}

/// The files of a log by their names.
type Files = BTreeMap<String, Vec<u8>>;

const NOW: u64 = 1_795_366_724_000;

impl Place {
    fn new(segment_bytes: u64, keep_bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            folder,
            segment_bytes,
            keep_bytes,
        }
    }

    fn large() -> Self {
        Self::new(1 << 20, 1 << 30)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("audit")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("audit-key.pem")
    }

    fn settings(&self) -> Settings {
        settings(self.folder.path(), self.segment_bytes, self.keep_bytes)
    }

    fn try_open(&self) -> Result<(Log, Opened), OpenError> {
        Log::open(self.settings(), NOW, SystemRandom::new())
    }

    fn open(&self) -> (Log, Opened) {
        self.try_open().unwrap()
    }

    /// Writes `count` records behind those that are there, `batch` in each commit.
    fn write(&self, count: u64, batch: u64) {
        let (mut log, _) = self.open();
        for written in 1..=count {
            let index = log.size();
            log.append(&record(index)).unwrap();
            if written % batch == 0 {
                log.commit(NOW + index).unwrap();
            }
        }
        log.commit(NOW).unwrap();
    }

    fn files(&self) -> Files {
        let entries = fs::read_dir(self.path()).unwrap().map(Result::unwrap);
        entries
            .map(|entry| {
                (
                    entry.file_name().into_string().unwrap(),
                    fs::read(entry.path()).unwrap(),
                )
            })
            .filter(|(name, _)| name != "lock")
            .collect()
    }

    fn examine(&self) -> Seen {
        seen(&self.path(), &Trust::default())
    }
}

fn settings(folder: &Path, segment_bytes: u64, keep_bytes: u64) -> Settings {
    Settings {
        folder: folder.join("audit"),
        key: folder.join("audit-key.pem"),
        owner: "fleet.example/tenant/farm/device/1".to_owned(),
        segment_bytes,
        keep_bytes,
    }
}

/// A record that tells its index.
fn record(index: u64) -> Vec<u8> {
    format!("record number {index}").into_bytes()
}

/// A log that was looked at, with its records.
struct Seen {
    examined: Examined,
    records: BTreeMap<u64, Vec<u8>>,
}

fn seen(path: &Path, trust: &Trust) -> Seen {
    let mut records = BTreeMap::new();
    let mut see = |index, bytes: &[u8]| drop(records.insert(index, bytes.to_vec()));
    let examined = examine(&LogFolder::at(path), trust, &mut see).unwrap();
    Seen { examined, records }
}

impl Seen {
    /// The findings, as people read them.
    fn told(&self) -> Vec<String> {
        self.examined.report.findings.iter().map(ToString::to_string).collect()
    }

    /// Asserts that the log is sound and has exactly these records.
    fn assert_whole(&self, kept: std::ops::Range<u64>) {
        let report = &self.examined.report;
        assert_eq!(self.told(), Vec::<String>::new());
        assert_eq!((report.first, report.records), (kept.start, kept.end), "{report:?}");
        let expected: BTreeMap<u64, Vec<u8>> = kept.map(|index| (index, record(index))).collect();
        assert_eq!(self.records, expected);
    }
}

/// Writes files into a new folder.
fn lay(files: &Files) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}
