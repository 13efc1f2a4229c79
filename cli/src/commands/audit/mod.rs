//! `fieldfare audit`: what controllers and devices did, and whether the record of it is whole. Nothing here talks to anybody.

mod decode;
mod show;
mod verify;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use fieldfare_audit::folder::LogFolder;
use fieldfare_audit::limits::{MAX_KEY_BYTES, MAX_NOTE_BYTES};
use fieldfare_audit::read::Trust;
use fieldfare_release::tuf::PublicKey;

use crate::args::Format;
use crate::exit::Advice;

/// What to do with audit logs.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Says whether a log is whole: no record changed, missing or moved. Exit code 3 where it is not.
    Verify(Judged),
    /// Prints the records of a log, and says at the end whether it is whole.
    Show(show::Arguments),
}

/// Which logs, and by what they are judged.
#[derive(Debug, Args)]
pub struct Judged {
    /// The folder of a log, of a controller or agent, or of several of them.
    pub path: PathBuf,
    /// The public key (PEM) that the log must have, as it was copied when the log began. Without it, the key beside the log is
    /// believed: that shows that the log is whole, not whose it is.
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// An earlier checkpoint of the log that was kept elsewhere; may be given several times. Only that shows that the log was not
    /// put back as a whole, or written anew by somebody who has its private key.
    #[arg(long, value_name = "FILE")]
    pub head: Vec<PathBuf>,
}

/// Does it.
///
/// # Errors
/// The files cannot be read, or a log is not whole.
pub fn run(format: Format, action: &Action) -> Result<()> {
    match action {
        Action::Verify(judged) => verify::run(format, judged),
        Action::Show(arguments) => show::run(format, arguments),
    }
}

fn read(path: &Path, limit: usize) -> Result<Vec<u8>> {
    let reading = || format!("reading {}", path.display());
    let length = std::fs::metadata(path).with_context(reading)?.len();
    if length > limit as u64 {
        anyhow::bail!("{} is longer than {limit} bytes", path.display());
    }
    std::fs::read(path).with_context(reading)
}

impl Judged {
    fn trust(&self) -> Result<Trust> {
        let key = self.key.as_deref().map(|path| {
            let pem = String::from_utf8(read(path, MAX_KEY_BYTES)?).unwrap_or_default();
            PublicKey::from_pem(&pem).with_context(|| format!("reading {}", path.display()))
        });
        let heads = self
            .head
            .iter()
            .map(|path| Ok((path.display().to_string(), read(path, MAX_NOTE_BYTES)?)));
        Ok(Trust {
            key: key.transpose()?,
            heads: heads.collect::<Result<_>>()?,
        })
    }

    /// The logs at the path: in the folder itself, or in those directly below it.
    fn logs(&self) -> Result<Vec<LogFolder>> {
        let path = &self.path;
        let is_log = |folder: &LogFolder| {
            folder.public_key().exists()
                || folder.checkpoint().exists()
                || folder.segments().is_ok_and(|all| !all.is_empty())
        };
        let itself = LogFolder::at(path);
        if is_log(&itself) {
            return Ok(vec![itself]);
        }
        let entries = std::fs::read_dir(path).with_context(|| format!("reading {}", path.display()))?;
        let mut below = Vec::new();
        for entry in entries {
            let folder = LogFolder::at(entry.with_context(|| format!("reading {}", path.display()))?.path());
            if is_log(&folder) {
                below.push(folder);
            }
        }
        below.sort_by(|a, b| a.path().cmp(b.path()));
        if below.is_empty() {
            let what = format!("there is no audit log in {}", path.display());
            let next = "name the folder `audit` of a controller or agent, or a copy of it";
            return Err(Advice::new(what, next).into());
        }
        Ok(below)
    }
}
