//! The real agent as a process of its own: what it logs, what it says of itself, and its death.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;

use fieldfare_agent::folder::Folder;
use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::device::PATIENCE;
use crate::local_api::Owner;

/// An agent that runs.
pub(crate) struct Running {
    child: Child,
    folder: Folder,
    log: watch::Receiver<Vec<String>>,
}

impl Running {
    /// Starts the agent of a folder, up to the moment when its local API listens.
    pub(crate) async fn start(folder: &Folder) -> Self {
        Self::with(folder, &[]).await
    }

    /// Under a clock that is wrong by what a file says: see [`set_clock`].
    pub(crate) async fn with_clock(folder: &Folder, shift: &Path) -> Self {
        Self::with(folder, &[("FIELDFARE_CLOCK_SHIFT_FILE", shift.as_os_str())]).await
    }

    /// With these variables in its environment.
    pub(crate) async fn with(folder: &Folder, variables: &[(&str, &OsStr)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_fieldfare-agent"))
            .args(["run", "--dir"])
            .arg(folder.path())
            .env("FIELDFARE_LOG", "info")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (sender, log) = watch::channel(Vec::new());
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                sender.send_modify(|log: &mut Vec<String>| log.push(line));
            }
        });
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = timeout(PATIENCE, out.next_line()).await.unwrap().unwrap();
        let ready = ready.unwrap_or_else(|| panic!("it ended:\n{}", log.borrow().join("\n")));
        assert!(ready.starts_with("ready: "), "{ready}");
        let folder = folder.clone();
        Self { child, folder, log }
    }

    /// Waits for a line of the log that has all of these words, and gives it.
    pub(crate) async fn says(&self, words: &[&str]) -> String {
        let is_it = |line: &&String| words.iter().all(|word| line.contains(word));
        let mut log = self.log.clone();
        let said = timeout(PATIENCE, log.wait_for(|log| log.iter().any(|line| is_it(&line)))).await;
        match said {
            Ok(Ok(log)) => log.iter().find(is_it).unwrap().clone(),
            _ => panic!("it never said {words:?}:\n{}", self.log.borrow().join("\n")),
        }
    }

    /// Lines of the log so far that have all of these words.
    pub(crate) fn said(&self, words: &[&str]) -> Vec<String> {
        let log = self.log.borrow();
        let lines = log.iter().filter(|line| words.iter().all(|word| line.contains(word)));
        lines.cloned().collect()
    }

    /// Waits until so many lines of the log have all of these words.
    pub(crate) async fn says_often(&self, words: &[&str], times: usize) {
        let is_it = |line: &&String| words.iter().all(|word| line.contains(word));
        let mut log = self.log.clone();
        let often = log.wait_for(|log| log.iter().filter(is_it).count() >= times);
        assert!(
            timeout(PATIENCE, often).await.is_ok(),
            "it said {words:?} less than {times} times"
        );
    }

    /// Waits until it serves a release, by the log.
    pub(crate) async fn serves(&self, release: &str) {
        self.says(&["serving", &format!("release={release}")]).await;
    }

    /// The local API, as the owner uses it.
    pub(crate) fn owner(&self) -> Owner {
        Owner::at(&self.folder)
    }

    /// What `fieldfare-agent status` shows.
    pub(crate) async fn status(&self) -> Value {
        self.owner().granted(Method::GET, "status", "").await
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// `kill -9`.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits until it has died by itself.
    pub(crate) async fn dies(mut self) {
        let status = timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
        assert!(!status.success(), "{status}");
    }
}

/// Makes the clock of an agent that was started with this file wrong by so many milliseconds, from now on.
pub(crate) fn set_clock(shift: &Path, ms: i64) {
    fieldfare_files::replace(shift, ms.to_string().as_bytes(), fieldfare_files::Secrecy::Secret).unwrap();
}
