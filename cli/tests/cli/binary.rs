//! The binary under test, and a person's fleet to use it on.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use fieldfare_controller_peers::device::{Obedient, hello};
use fieldfare_controller_peers::{Enrolled, Fleet, PATIENCE};
use fieldfare_tls::{Identity, JoinToken, PrivateKey};
use serde_json::Value;
use tokio::process::Command;

/// The small model of this repository.
pub(crate) const MODEL_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/farm-alert/farm-alert-f16.gguf");

/// Somebody's home folder, with the contexts in it.
pub(crate) struct Home {
    folder: tempfile::TempDir,
}

/// What a run of the binary left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, and gives its path as text.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The folder of a context.
    pub(crate) fn context(&self, name: &str) -> PathBuf {
        self.path(".config/fieldfare/contexts").join(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fieldfare"));
        command.args(words(line)).env_clear().env("HOME", self.folder.path());
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    pub(crate) async fn run(&self, line: &str) -> Finished {
        let output = tokio::time::timeout(PATIENCE, self.command(line).output()).await;
        let output = output.unwrap_or_else(|_| panic!("{line:?} does not end")).unwrap();
        let finished = Finished {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        assert!(!finished.stderr.contains("panicked"), "{line:?}: {finished:?}");
        finished
    }

    /// Runs a command that succeeds, and gives what it printed.
    pub(crate) async fn ok(&self, line: &str) -> String {
        let finished = self.run(line).await;
        assert_eq!(finished.code, Some(0), "{line:?}: {finished:?}");
        finished.stdout
    }

    /// Runs a command that succeeds with `--output json`, and gives the one value that it printed.
    pub(crate) async fn json(&self, line: &str) -> Value {
        let text = self.ok(&format!("{line} --output json")).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line:?}: {error} in {text}"))
    }

    /// Runs a command that fails with this code, prints no result, and says all of this on standard error.
    pub(crate) async fn fails(&self, code: i32, line: &str, says: &[&str]) {
        let finished = self.run(line).await;
        assert_eq!(finished.code, Some(code), "{line:?}: {finished:?}");
        assert_eq!(finished.stdout, "", "{line:?}: {finished:?}");
        for part in says {
            assert!(
                finished.stderr.contains(part),
                "{line:?} does not say {part:?}:\n{}",
                finished.stderr
            );
        }
    }
}

/// A person with a fleet: the first operator's credential is the context `farm`, and the release root is there.
pub(crate) struct Farm {
    pub(crate) fleet: Fleet,
    pub(crate) home: Home,
}

impl Farm {
    pub(crate) async fn start() -> Self {
        let farm = Self::without_root().await;
        farm.home.ok("release init").await;
        farm
    }

    pub(crate) async fn without_root() -> Self {
        let farm = Self {
            fleet: Fleet::start().await,
            home: Home::new(),
        };
        let from = farm.operator_folder();
        farm.home.ok(&format!("context add farm --from {from}")).await;
        farm
    }

    pub(crate) fn operator_folder(&self) -> String {
        let folder: &Path = self.fleet.folder();
        folder.join("operator").to_str().unwrap().to_owned()
    }

    /// Makes a join token with the binary.
    pub(crate) async fn token(&self, line: &str) -> JoinToken {
        let text = self.home.ok(&format!("token create {line}")).await;
        JoinToken::parse(&text).unwrap()
    }

    /// Enrols with a token that the binary made.
    pub(crate) async fn enrol(&self, token: &JoinToken, name: &str) -> Enrolled {
        let key = PrivateKey::generate().unwrap();
        self.fleet.enrol(&token.secret, &key, name).await.unwrap()
    }

    /// A principal of this role, enrolled with a token that the binary made.
    pub(crate) async fn join(&self, role: &str, name: &str) -> Identity {
        let token = self.token(&format!("--role {role}")).await;
        match self.enrol(&token, name).await {
            Enrolled::Issued(identity) => *identity,
            Enrolled::Pending => panic!("{name} must wait for approval"),
        }
    }

    /// A connected device that does whatever it is told, at half the speed that the roofline promises (of the tests' tiny model it
    /// promises the greatest that there is); the probes of release `bad` fail on it.
    pub(crate) async fn device(&self, name: &str, bad: u32) {
        let identity = self.join("device", name).await;
        let behaviour = Obedient {
            bad,
            tokens_per_second: Some(500_000.0),
        };
        behaviour.run(&self.fleet, &identity, hello(name)).await;
    }
}

/// The strings in a field of each object of an array.
pub(crate) fn column<'a>(array: &'a Value, field: &str) -> Vec<&'a str> {
    let rows = array.as_array().unwrap_or_else(|| panic!("no array: {array}"));
    rows.iter().map(|row| row[field].as_str().unwrap_or_default()).collect()
}

/// The words of a command line; those between single quotes are one.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}
