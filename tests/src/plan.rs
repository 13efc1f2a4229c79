//! What a process is to die of, in a file that it looks at (`tests/shim`, `crates/crash`), and what it passed, in another.
//!
//! A process is told while it lives: it need not be started anew for that.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of the file; the rest of them is blank.
const BYTES: usize = 128;

/// The files of a process.
#[derive(Debug)]
pub struct Plan {
    file: PathBuf,
    trace: PathBuf,
    /// Each plan has another number.
    number: u64,
}

impl Plan {
    /// Files beside the log of a process: it is to live on.
    ///
    /// # Errors
    /// The folder refuses.
    pub fn beside(log: &Path) -> io::Result<Self> {
        let plan = Self {
            file: log.with_extension("plan"),
            trace: log.with_extension("trace"),
            number: 0,
        };
        File::create(&plan.file)?;
        File::create(&plan.trace)?;
        Ok(plan)
    }

    /// What tells a process of the files.
    pub fn variables(&self, shim: &Path) -> Vec<(String, String)> {
        let all = [
            ("LD_PRELOAD", shim),
            ("FIELDFARE_FAULT_PLAN", &self.file),
            ("FIELDFARE_FAULT_TRACE", &self.trace),
            ("FIELDFARE_CRASH_PLAN", &self.file),
            ("FIELDFARE_CRASH_TRACE", &self.trace),
        ];
        let text = |(name, path): (&str, &Path)| (name.to_owned(), path.display().to_string());
        all.into_iter().map(text).collect()
    }

    /// The process is to die of this from now on, or of nothing.
    ///
    /// # Errors
    /// The file refuses, or the words are too many.
    pub fn set(&mut self, words: Option<&str>) -> io::Result<()> {
        self.number += 1;
        let mut text = format!("{} {} {}", self.number, words.unwrap_or("nothing"), self.number).into_bytes();
        if text.len() > BYTES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        text.resize(BYTES, b' ');
        File::options().write(true).open(&self.file)?.write_all_at(&text, 0)
    }

    /// What the process passed since this was asked last, and how often.
    ///
    /// # Errors
    /// The file refuses.
    pub fn passed(&self) -> io::Result<BTreeMap<String, u64>> {
        let text = std::fs::read_to_string(&self.trace)?;
        File::options().write(true).open(&self.trace)?.set_len(0)?;
        let mut passed = BTreeMap::new();
        for line in text.lines() {
            *passed.entry(line.to_owned()).or_default() += 1;
        }
        Ok(passed)
    }
}
