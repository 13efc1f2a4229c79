//! Whether an agent runs in the folder, and what it says of itself.

use serde_json::Value;

use crate::folder::Folder;
use crate::process;
use crate::status::{self, AskError};

/// Whether an agent runs.
#[derive(Debug)]
pub(super) enum Presence {
    /// None does.
    Absent,
    /// None does; the last one was killed.
    Killed,
    /// One should, and does not answer.
    Silent(String),
    /// One does, and says this.
    Running(Value),
}

impl Presence {
    pub(super) const fn runs(&self) -> bool {
        matches!(self, Self::Running(_))
    }

    /// What a running agent says at a place of its status.
    pub(super) fn says(&self, pointer: &str) -> Option<&Value> {
        match self {
            Self::Running(status) => status.pointer(pointer).filter(|value| !value.is_null()),
            _ => None,
        }
    }
}

/// Asks the agent of a folder.
pub(super) async fn look(folder: &Folder) -> Presence {
    match status::ask(folder).await {
        Ok(status) => Presence::Running(status),
        Err(AskError::NotRunning { .. }) => Presence::Absent,
        Err(AskError::Request(error)) if error.is_connect() => Presence::Killed,
        Err(error) => Presence::Silent(process::chain(&error)),
    }
}
