//! What an installation is told, and what it answers.

use serde::{Deserialize, Serialize};

use super::state::{Assignment, Installed, Stage};
use crate::{ByteSize, Generation, Obstacle};

/// What an installation is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Desired state names a release for this device. Repeating it changes nothing.
    Assigned {
        /// What to run.
        assignment: Assignment,
        /// Free bytes on the disk that holds releases.
        disk_free: ByteSize,
    },
    /// Desired state names no release that this device can run.
    Unassigned {
        /// The assignment that says so.
        assignment: Generation,
        /// Why, where the deployment has a release and the device cannot run it.
        obstacle: Option<Obstacle>,
    },
    /// Desired state names a newer assignment, which is being looked up: what is on its way in under an older one must not switch
    /// meanwhile.
    Superseded {
        /// The newer assignment.
        assignment: Generation,
    },
    /// A step is done.
    Done {
        /// The assignment that it belongs to.
        assignment: Generation,
        /// The step.
        stage: Stage,
    },
    /// The probes have been answered.
    Probed {
        /// The assignment that they belong to.
        assignment: Generation,
        /// Probes answered exactly.
        matched: u32,
        /// Probes answered.
        run: u32,
    },
    /// A step failed.
    Failed {
        /// The assignment that it belongs to.
        assignment: Generation,
        /// The step.
        stage: Stage,
        /// Whether trying again can help.
        failure: StepFailure,
    },
    /// The serving process of the active release crashed.
    Crashed,
    /// The bytes of the active release have changed, and were not started.
    Damaged {
        /// The release.
        install: Installed,
    },
    /// The agent has started: whatever was going on before is taken up again.
    Started,
    /// Time has passed.
    Tick,
}

/// How a step failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepFailure {
    /// Trying again may help: the network, a busy disk.
    Transient(String),
    /// Trying again cannot help: bytes that are not those of the signed release, a model that does not load.
    Permanent(String),
}

/// What the shell does, after it has persisted the state. Every action may be repeated after a restart and must then
/// do no harm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Do this step for this release, and tell the outcome.
    Run {
        /// The step.
        stage: Stage,
        /// The release.
        install: Installed,
    },
    /// Serve this release, which was serving before: start it if it does not run.
    Serve(Installed),
    /// Stop serving: there is no release to serve.
    StopServing,
    /// These bytes are no longer needed by anything that is kept.
    Discard(Installed),
    /// Tell the controller: what is observed changed.
    Report,
}

/// Why an event changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The assignment is older than one that was already seen.
    #[error("assignment {told} is older than {known}")]
    Stale {
        /// The assignment of the event.
        told: Generation,
        /// The newest one seen.
        known: Generation,
    },
    /// No step of this kind is under way.
    #[error("no step {told} is under way")]
    NotUnderWay {
        /// The step of the event.
        told: Stage,
    },
    /// Nothing serves, so that nothing can have crashed.
    #[error("no release is active")]
    NothingActive,
}
