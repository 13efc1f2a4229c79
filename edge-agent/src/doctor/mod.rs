//! `fieldfare-agent doctor`: looks at everything that a device needs, and says what to do about what it finds.
//!
//! It changes nothing, takes no lock that an agent needs, and works whether an agent runs in the folder or not. What a running agent
//! has to itself (its ledger, the release that serves) it is asked for.

mod credentials;
mod kept;
mod network;
mod place;
mod presence;
mod release;

use std::fmt::Write;

use fieldfare_fleet::Timestamp;
use fieldfare_tls::Identity;
use serde::Serialize;

use crate::clock;
use crate::config::{AgentConfig, Settings};
use crate::folder::Folder;
use crate::process::{self, Binary};
use network::Reached;
use presence::Presence;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// The device does its work; somebody should look at this.
    Warning,
    /// The device does not do its work, or will not for long.
    Problem,
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do about it; nothing where all is well.
    pub advice: Option<String>,
}

fn ok(check: &'static str, found: impl Into<String>) -> Check {
    Check {
        check,
        level: Level::Ok,
        found: found.into(),
        advice: None,
    }
}

fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
    Check {
        level: Level::Warning,
        advice: Some(advice.into()),
        ..ok(check, found)
    }
}

fn problem(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
    Check {
        level: Level::Problem,
        ..warning(check, found, advice)
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// The worst of it.
    pub level: Level,
    /// Everything that was looked at.
    pub checks: Vec<Check>,
}

impl Diagnosis {
    fn of(checks: Vec<Check>) -> Self {
        let level = checks.iter().map(|check| check.level).max().unwrap_or(Level::Ok);
        Self { level, checks }
    }

    /// For people: a line for each check, and below it what to do.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for check in &self.checks {
            let Check { found, advice, .. } = check;
            let _ = writeln!(text, "{:<9}{:<12}{found}", check.level.word(), check.check);
            if let Some(advice) = advice {
                let _ = writeln!(text, "{:21}-> {advice}", "");
            }
        }
        text
    }
}

/// An enrolled device, and what is known of it before anything is judged.
struct Patient<'a> {
    folder: &'a Folder,
    binary: &'a Binary,
    settings: Settings,
    /// Nothing where it cannot be used, which has been said.
    identity: Option<Identity>,
    presence: Presence,
    reached: Reached,
    /// By the clock of this machine.
    now: Timestamp,
}

impl Patient<'_> {
    /// The best that is known of the time: the controller's, or this machine's where it is not behind what is proven.
    fn probable_time(&self) -> Timestamp {
        self.reached.server_time().unwrap_or(self.now)
    }
}

/// Looks at the device of a folder.
pub async fn examine(folder: &Folder, binary: &Binary) -> Diagnosis {
    let (config, settings) = match (AgentConfig::load(folder), Settings::load(folder)) {
        (Ok(config), Ok(settings)) => (config, settings),
        (Err(error), _) | (_, Err(error)) => {
            let advice = "is this the folder of an enrolled device? A file that was damaged comes back from a backup alone; without \
                one enrol this device anew in another folder";
            return Diagnosis::of(vec![problem("enrolment", process::chain(&error), advice)]);
        }
    };
    let now = clock::now();
    let (identity, mut checks) = credentials::identity(folder);
    let presence = presence::look(folder).await;
    let reached = match &identity {
        Some(identity) => network::reach(folder, &config, identity, now).await,
        None => Reached::default(),
    };
    let patient = Patient {
        folder,
        binary,
        settings,
        identity,
        presence,
        reached,
        now,
    };
    checks.insert(0, credentials::clock(&patient));
    checks.extend(credentials::certificate(&patient));
    checks.push(place::disk(&patient));
    checks.push(place::api(&patient).await);
    checks.extend(network::metadata(&patient));
    checks.push(release::installed(&patient).await);
    checks.push(kept::ledger(&patient).await);
    checks.push(kept::audit(&patient).await);
    checks.extend(network::controllers(&patient));
    Diagnosis::of(checks)
}
