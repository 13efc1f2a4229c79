//! The folder of a quickstart: one new folder for each run, and nothing deleted.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::exit::Advice;

/// Says that the folder around it is one of ours.
const MARKER: &str = "fieldfare-quickstart";

/// What the marker file says to whoever finds it.
const MARKER_TEXT: &str =
    "Runs of `fieldfare quickstart`. Each run has a folder of its own; all of it may be deleted.\n";

/// The folder of one run, made by [`RunFolder::create`].
#[derive(Clone, Debug)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// Makes the next run's folder in `parent`: `run-1`, `run-2` and so on. What earlier runs left stays.
    ///
    /// # Errors
    /// `parent` is there, is not empty and no quickstart made it; or the system refuses.
    pub fn create(parent: &Path) -> Result<Self> {
        let parent = std::path::absolute(parent).with_context(|| format!("finding {}", parent.display()))?;
        private(&parent, true).with_context(|| format!("creating {}", parent.display()))?;
        claim(&parent)?;
        let mut number = last_run(&parent)? + 1;
        loop {
            let folder = parent.join(format!("run-{number}"));
            match private(&folder, false) {
                // Another run began at the same moment.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                made => {
                    made.with_context(|| format!("creating {}", folder.display()))?;
                    let run = Self(folder);
                    private(&run.logs(), false).with_context(|| format!("creating {}", run.logs().display()))?;
                    return Ok(run);
                }
            }
        }
    }

    /// The folder itself, absolute.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What each process wrote.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// The controller's folder.
    pub fn controller(&self) -> PathBuf {
        self.0.join("controller")
    }

    /// The trainer's folder.
    pub fn trainer(&self) -> PathBuf {
        self.0.join("trainer")
    }

    /// The folder of a device's agent.
    pub fn device(&self, name: &str) -> PathBuf {
        self.0.join("devices").join(name)
    }

    /// The operator's contexts: credential, signing keys, trusted root.
    pub fn operator(&self) -> PathBuf {
        self.0.join("operator")
    }

    /// The text that the run uses.
    pub fn text(&self) -> PathBuf {
        self.0.join("text")
    }
}

/// Makes a folder for its owner alone.
fn private(path: &Path, recursive: bool) -> io::Result<()> {
    fs::DirBuilder::new().recursive(recursive).mode(0o700).create(path)
}

/// Marks an empty folder as ours, and accepts one that is marked.
fn claim(parent: &Path) -> Result<()> {
    let marker = parent.join(MARKER);
    if marker.is_file() {
        return Ok(());
    }
    let mut entries = fs::read_dir(parent).with_context(|| format!("reading {}", parent.display()))?;
    if entries.next().is_some() {
        let what = format!("{} is not empty, and no quickstart made it", parent.display());
        return Err(Advice::new(what, "name an empty or a new folder with --dir").into());
    }
    fs::write(&marker, MARKER_TEXT).with_context(|| format!("writing {}", marker.display()))
}

/// The greatest number of a run in the folder; 0 before the first.
fn last_run(parent: &Path) -> Result<u64> {
    let entries = fs::read_dir(parent).with_context(|| format!("reading {}", parent.display()))?;
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names
        .filter_map(|name| name.strip_prefix("run-")?.parse().ok())
        .max()
        .unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_has_a_folder_of_its_own_and_the_first_stays() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("quickstart");
        let first = RunFolder::create(&dir).unwrap();
        fs::write(first.path().join("kept"), "x").unwrap();
        let second = RunFolder::create(&dir).unwrap();
        assert_ne!(first.path(), second.path());
        assert!(first.path().join("kept").exists());
        assert!(second.logs().is_dir());
    }

    #[test]
    fn a_folder_that_holds_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let error = RunFolder::create(dir.path()).unwrap_err();
        assert!(error.to_string().contains("no quickstart made it"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
