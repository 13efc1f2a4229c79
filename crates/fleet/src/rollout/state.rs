//! What is kept of a rollout: plain data, a few hundred bytes whatever the size of the fleet.

use serde::{Deserialize, Serialize};

use super::event::RollbackCause;
use super::policy::{PolicyError, RolloutPolicy};
use super::wave::{Rank, Slot};
use crate::{DeploymentName, DeviceId, Generation, ReleaseId, Timestamp};

/// Where a rollout is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Phase {
    /// A wave is opening or being watched.
    Advancing {
        /// Position of the wave, from 0.
        wave: u32,
        /// When it opened.
        opened_at: Timestamp,
        /// Since when all its devices have an outcome.
        observing_since: Option<Timestamp>,
        /// Whether its deadline has passed, and been announced.
        overdue: bool,
    },
    /// Devices are going back.
    RollingBack {
        /// Since when.
        since: Timestamp,
        /// Why.
        cause: RollbackCause,
    },
    /// The previous release is the target of every device.
    RolledBack {
        /// Since when.
        at: Timestamp,
        /// Why.
        cause: RollbackCause,
    },
    /// The release is the target of every device.
    Completed {
        /// Since when.
        at: Timestamp,
    },
    /// The operator ended the rollout.
    Aborted {
        /// When.
        at: Timestamp,
        /// Who.
        by: String,
    },
}

impl Phase {
    /// Whether nothing moves any more.
    pub const fn is_over(&self) -> bool {
        matches!(
            self,
            Self::RolledBack { .. } | Self::Completed { .. } | Self::Aborted { .. }
        )
    }

    /// The name of the phase.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Advancing { .. } => "advancing",
            Self::RollingBack { .. } => "rolling back",
            Self::RolledBack { .. } => "rolled back",
            Self::Completed { .. } => "completed",
            Self::Aborted { .. } => "aborted",
        }
    }
}

/// What a device shall run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Target {
    /// The release; none where the deployment had none before and went back.
    pub release: Option<ReleaseId>,
    /// The assignment: the same for as long as the release is the same, however often desired state is published. A
    /// device that failed with a release tries it again only under another assignment.
    pub assignment: Generation,
}

/// What desired state says of a deployment to one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<V> {
    /// The assignment.
    pub assignment: Generation,
    /// The release, and its variant for the device's class; none where the deployment has no release for the device.
    pub named: Option<(ReleaseId, V)>,
}

/// What is kept of a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct RolloutState {
    /// The deployment.
    pub deployment: DeploymentName,
    /// The release that moves in.
    pub release: ReleaseId,
    /// The release that moves out; none for the first one.
    pub previous: Option<ReleaseId>,
    /// How it may move.
    pub policy: RolloutPolicy,
    /// Decides the order of devices.
    pub seed: u64,
    /// When it began.
    pub started_at: Timestamp,
    /// Assignment of the new release.
    pub assignment: Generation,
    /// Assignment of the previous release; a rollback raises it above that of the new one.
    pub previous_assignment: Generation,
    /// Generation of the newest desired state.
    pub generation: Generation,
    /// Where it is.
    pub phase: Phase,
    /// Who paused it, if it is paused.
    pub paused_by: Option<String>,
    /// Devices up to this rank have the new release as their target.
    pub opened_to: Option<Rank>,
}

/// How a rollout begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct RolloutStart {
    /// The deployment.
    pub deployment: DeploymentName,
    /// The release that moves in.
    pub release: ReleaseId,
    /// The release that moves out; none for the first one.
    pub previous: Option<ReleaseId>,
    /// Assignment under which devices have the previous release.
    pub previous_assignment: Generation,
    /// How it may move.
    pub policy: RolloutPolicy,
    /// Decides the order of devices; another one for every rollout.
    pub seed: u64,
    /// Newest generation of the deployment's desired state.
    pub generation: Generation,
}

impl RolloutStart {
    /// How a rollout begins that goes on where the last one left the deployment: with the release that its devices have, under
    /// the assignment under which they have it. Where the last one was ended halfway, some devices have its release under a newer
    /// assignment: the one before is assigned anew, since otherwise they refuse it as stale for ever.
    #[must_use]
    pub fn after(
        last: Option<&RolloutState>,
        deployment: DeploymentName,
        release: ReleaseId,
        policy: RolloutPolicy,
        seed: u64,
    ) -> Self {
        let mut generation = last.map_or(Generation::ZERO, |state| state.generation);
        let (previous, previous_assignment) = match last {
            None => (None, Generation::ZERO),
            Some(state) => match state.phase {
                Phase::Completed { .. } => (Some(state.release.clone()), state.assignment),
                Phase::Aborted { .. } if state.opened_to.is_some() => {
                    generation = generation.next();
                    (state.previous.clone(), generation)
                }
                _ => (state.previous.clone(), state.previous_assignment),
            },
        };
        Self {
            deployment,
            release,
            previous,
            previous_assignment,
            policy,
            seed,
            generation,
        }
    }
}

impl RolloutStart {
    /// As after restoring a backup: a deployment of the same name may have been further than what is known of it.
    #[must_use]
    pub fn in_epoch(mut self, epoch: u32) -> Self {
        self.generation = self.generation.max(Generation { epoch, counter: 0 });
        self
    }
}

impl RolloutState {
    /// A rollout that begins now, with no wave open yet.
    ///
    /// # Errors
    /// [`PolicyError`] where the policy cannot work.
    pub fn begin(start: RolloutStart, now: Timestamp) -> Result<Self, PolicyError> {
        start.policy.validate()?;
        let generation = start.generation.next();
        Ok(Self {
            deployment: start.deployment,
            release: start.release,
            previous: start.previous,
            policy: start.policy,
            seed: start.seed,
            started_at: now,
            assignment: generation,
            previous_assignment: start.previous_assignment,
            generation,
            phase: Phase::Advancing {
                wave: 0,
                opened_at: now,
                observing_since: None,
                overdue: false,
            },
            paused_by: None,
            opened_to: None,
        })
    }

    /// The same rollout in a later epoch, as after restoring a backup. To a device its assignments are newer than whatever it heard
    /// before; one that has the release that is named to it goes on with it.
    #[must_use]
    pub fn in_epoch(mut self, epoch: u32) -> Self {
        for generation in [
            &mut self.assignment,
            &mut self.previous_assignment,
            &mut self.generation,
        ] {
            *generation = generation.in_epoch(epoch);
        }
        self
    }

    /// The slot of a device that belongs to the deployment since `joined_at`.
    pub fn slot_of(&self, device: DeviceId, joined_at: Timestamp) -> Slot {
        Slot::of(device, self.seed, joined_at, self.started_at)
    }

    /// What the device in this slot shall run now. This is a function of the kept state alone: no record of the device
    /// is needed, and a device that was away for any time gets the right answer.
    pub fn target_for(&self, slot: Slot) -> Target {
        if self.has_new_release(slot) {
            return Target {
                release: Some(self.release.clone()),
                assignment: self.assignment,
            };
        }
        Target {
            release: self.previous.clone(),
            assignment: self.previous_assignment,
        }
    }

    /// What desired state says to a device in this slot; nothing where nothing can be said yet. `variant` gives what was assigned to
    /// the device's class of the release that moves in (true) or of the one that moves out: none before anything was, and where no
    /// variant fits. A class without a variant is not told of its target, and keeps what it has.
    pub fn entry_for<V>(&self, slot: Slot, variant: impl FnOnce(bool) -> Option<V>) -> Option<Entry<V>> {
        let Target { release, assignment } = self.target_for(slot);
        let named = match release {
            Some(release) => Some((release, variant(self.has_new_release(slot))?)),
            None => None,
        };
        Some(Entry { assignment, named })
    }

    /// Whether the new release is the target of the device in this slot.
    pub fn has_new_release(&self, slot: Slot) -> bool {
        match (&self.phase, slot) {
            (Phase::Completed { .. }, _) => true,
            (Phase::RollingBack { .. } | Phase::RolledBack { .. }, _) | (_, Slot::Late) => false,
            (_, Slot::Ranked(rank)) => self.opened_to.is_some_and(|opened| rank <= opened),
        }
    }
}
