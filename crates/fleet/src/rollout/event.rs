//! What a rollout is told, and what it answers.

use serde::{Deserialize, Serialize};

use super::gate::{Evidence, GateReading};
use crate::install::Stage;
use crate::{DeviceId, Generation, Obstacle, ProfileClass, ReleaseId, Timestamp};

/// How far a device is with its target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// The device is at work.
    Working(Stage),
    /// The device runs its target and has confirmed it.
    Converged,
    /// The device cannot run its target.
    CannotConverge(Obstacle),
}

/// What a device reports: level-triggered, so that losing, repeating or reordering reports changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Observation {
    /// Generation of the newest desired state that the device has seen.
    pub generation: Generation,
    /// The release that this desired state names for it.
    pub target: Option<ReleaseId>,
    /// The release that it runs.
    pub running: Option<ReleaseId>,
    /// How far it is.
    pub progress: Progress,
    /// Evidence about the release that it runs.
    pub evidence: Evidence,
}

/// Outcome of a device that is heard from and not at work, or that is not heard from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It runs its target.
    Converged,
    /// It cannot run its target.
    CannotConverge(Obstacle),
    /// It has been silent for longer than the policy's `offline_after`.
    NotHeardFrom,
}

/// What a rollout is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A device belongs to the deployment. Repeated after a restart of the controller; then it changes nothing.
    Joined {
        /// The device.
        device: DeviceId,
        /// Devices that placement cannot tell from it.
        class: ProfileClass,
        /// Since when it belongs to the deployment: its enrolment, unless something later is recorded.
        joined_at: Timestamp,
    },
    /// A device no longer belongs to the deployment.
    Left {
        /// The device.
        device: DeviceId,
    },
    /// A device reported; every heartbeat is such a report.
    Observed {
        /// The device.
        device: DeviceId,
        /// What it says.
        observation: Observation,
    },
    /// Time has passed: the moment for decisions. [`super::Rollout::next_deadline`] says when it is due.
    Tick,
    /// The operator stops the rollout where it is.
    Pause {
        /// Who.
        by: String,
    },
    /// The operator lets it go on.
    Resume {
        /// Who.
        by: String,
    },
    /// The operator opens the next wave without waiting for gates that have not failed.
    Promote {
        /// Who.
        by: String,
    },
    /// The operator ends the rollout: devices that have the release keep it, nobody else gets it.
    Abort {
        /// Who.
        by: String,
    },
    /// The operator sends every device back to the previous release.
    RollBack {
        /// Who.
        by: String,
    },
}

/// What the shell does, after it has persisted the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Desired state changed: ask [`super::RolloutState::target_for`] again for every connected device.
    PublishTargets {
        /// Generation of the new desired state.
        generation: Generation,
    },
    /// Something to show, to log and to record.
    Announce(Milestone),
}

/// What happened in a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Milestone {
    /// A wave began.
    WaveOpened {
        /// Its position, from 0.
        wave: u32,
    },
    /// Every device of the wave that is heard from has an outcome; the wave is watched from now on.
    ObservationBegan {
        /// The wave.
        wave: u32,
        /// When the wave can pass at the earliest.
        until: Timestamp,
    },
    /// A wave passed.
    WavePassed {
        /// The wave.
        wave: u32,
        /// What its gates said.
        readings: Vec<GateReading>,
    },
    /// The operator opened the next wave.
    Promoted {
        /// The wave that was cut short.
        wave: u32,
        /// Who.
        by: String,
    },
    /// The rollout stopped where it is.
    Paused {
        /// Who.
        by: String,
    },
    /// The rollout goes on.
    Resumed {
        /// Who.
        by: String,
    },
    /// A wave missed its deadline and waits on.
    DeadlineMissed {
        /// The wave.
        wave: u32,
    },
    /// Devices go back to the previous release.
    RollbackBegan {
        /// Why.
        cause: RollbackCause,
    },
    /// Every device heard from is back, or the time for it has run out.
    RolledBack {
        /// Devices heard from that are not back.
        missing: u32,
    },
    /// Every wave passed.
    Completed,
    /// The operator ended the rollout.
    Aborted {
        /// Who.
        by: String,
    },
}

/// Why a rollout went back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum RollbackCause {
    /// A gate failed.
    Gate {
        /// The wave.
        wave: u32,
        /// The failed gate, with its numbers.
        reading: GateReading,
    },
    /// A wave missed its deadline.
    Deadline {
        /// The wave.
        wave: u32,
    },
    /// The operator said so.
    Operator {
        /// Who.
        by: String,
    },
}

/// Why an event changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The device is not part of the deployment.
    #[error("device {device} is not part of this deployment")]
    UnknownDevice {
        /// The device.
        device: DeviceId,
    },
    /// The report is older than one that was already seen.
    #[error("report of generation {reported}, {seen} was already seen")]
    Stale {
        /// Generation of the report.
        reported: Generation,
        /// Newest generation seen from the device.
        seen: Generation,
    },
    /// The report speaks of a desired state that was never published.
    #[error("report of generation {reported}, the newest published is {published}")]
    NeverPublished {
        /// Generation of the report.
        reported: Generation,
        /// Newest published generation.
        published: Generation,
    },
    /// The rollout is over.
    #[error("the rollout is {phase}")]
    Over {
        /// Name of the phase.
        phase: &'static str,
    },
    /// The rollout is paused already, or must be resumed first.
    #[error("the rollout is paused")]
    Paused,
    /// The rollout is not paused.
    #[error("the rollout is not paused")]
    NotPaused,
}
