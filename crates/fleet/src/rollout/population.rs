//! The devices of a deployment as a rollout sees them: what they last reported, in memory.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{Observation, Outcome, Progress, Refused};
use super::gate::Evidence;
use super::state::RolloutState;
use super::wave::{Rank, Slot};
use crate::{DeviceId, Generation, ProfileClass, ReleaseId, Timestamp};

/// One device of the deployment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Member {
    pub(super) slot: Slot,
    pub(super) class: ProfileClass,
    pub(super) last_heard: Option<Timestamp>,
    /// Newest generation that the device has reported.
    pub(super) seen: Generation,
    pub(super) observation: Option<Observation>,
    /// What the device last reported about the previous release.
    pub(super) baseline: Option<Evidence>,
}

impl Member {
    fn new(slot: Slot, class: ProfileClass) -> Self {
        Self {
            slot,
            class,
            last_heard: None,
            seen: Generation::ZERO,
            observation: None,
            baseline: None,
        }
    }

    /// Whether the device was heard within the policy's time.
    pub(super) fn is_heard(&self, state: &RolloutState, now: Timestamp) -> bool {
        self.last_heard
            .is_some_and(|last| now.since(last) <= state.policy.offline_after)
    }

    /// Its outcome for its present target; none while it is at work or has not yet seen the target.
    pub(super) fn outcome(&self, state: &RolloutState, now: Timestamp) -> Option<Outcome> {
        if !self.is_heard(state, now) {
            return Some(Outcome::NotHeardFrom);
        }
        let observation = self.observation.as_ref()?;
        let target = state.target_for(self.slot);
        // The same release may come again under another assignment, as another variant.
        if observation.target != target.release || observation.generation < target.assignment {
            return None;
        }
        match &observation.progress {
            Progress::Converged if observation.running == target.release => Some(Outcome::Converged),
            Progress::CannotConverge(obstacle) => Some(Outcome::CannotConverge(obstacle.clone())),
            Progress::Converged | Progress::Working(_) => None,
        }
    }

    /// Evidence about this release, if that is what the device runs.
    pub(super) fn evidence_on(&self, release: Option<&ReleaseId>) -> Option<&Evidence> {
        let observation = self.observation.as_ref()?;
        (observation.running.is_some() && observation.running.as_ref() == release).then_some(&observation.evidence)
    }
}

/// All devices of the deployment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Population {
    members: BTreeMap<DeviceId, Member>,
    order: BTreeSet<(Rank, DeviceId)>,
}

/// How the devices stand, counted once for each decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    /// Devices that were there when the rollout began and are heard from.
    pub(super) heard: u32,
    /// Of these, devices whose target is the new release.
    pub(super) offered: u32,
    /// Of the offered, devices without an outcome.
    pub(super) working: u32,
    /// Of the offered, devices that converged.
    pub(super) converged: u32,
    /// Of the offered, devices that cannot converge.
    pub(super) cannot_converge: u32,
    /// Devices whose target is the new release and that are not heard from.
    pub(super) silent: u32,
    /// The next time at which a working device counts as not heard from.
    pub(super) next_silence: Option<Timestamp>,
}

impl Population {
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn get(&self, device: DeviceId) -> Option<&Member> {
        self.members.get(&device)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Takes a device in; one that is known keeps what it reported and its slot.
    pub(super) fn join(&mut self, device: DeviceId, slot: Slot, class: ProfileClass) {
        let member = self
            .members
            .entry(device)
            .or_insert_with(|| Member::new(slot, class.clone()));
        member.class = class;
        if let Slot::Ranked(rank) = member.slot {
            self.order.insert((rank, device));
        }
    }

    pub(super) fn leave(&mut self, device: DeviceId) -> Result<(), Refused> {
        let member = self.members.remove(&device).ok_or(Refused::UnknownDevice { device })?;
        if let Slot::Ranked(rank) = member.slot {
            self.order.remove(&(rank, device));
        }
        Ok(())
    }

    /// Takes in what a device reports.
    pub(super) fn observe(
        &mut self,
        state: &RolloutState,
        now: Timestamp,
        device: DeviceId,
        observation: Observation,
    ) -> Result<(), Refused> {
        let member = self.members.get_mut(&device).ok_or(Refused::UnknownDevice { device })?;
        let reported = observation.generation;
        if reported > state.generation {
            return Err(Refused::NeverPublished {
                reported,
                published: state.generation,
            });
        }
        if reported < member.seen {
            return Err(Refused::Stale {
                reported,
                seen: member.seen,
            });
        }
        member.seen = reported;
        member.last_heard = member.last_heard.max(Some(now));
        let moves_out = observation.running.is_some() && observation.running == state.previous;
        if moves_out && (state.previous.as_ref() != Some(&state.release) || reported < state.assignment) {
            member.baseline = Some(observation.evidence.clone());
        }
        member.observation = Some(observation);
        Ok(())
    }

    /// Counts how the devices stand.
    pub(super) fn census(&self, state: &RolloutState, now: Timestamp) -> Census {
        let mut census = Census::default();
        for member in self.members.values() {
            let offered = state
                .opened_to
                .is_some_and(|opened| matches!(member.slot, Slot::Ranked(r) if r <= opened));
            let ranked = member.slot != Slot::Late;
            let outcome = member.outcome(state, now);
            if outcome == Some(Outcome::NotHeardFrom) {
                census.silent += u32::from(offered);
                continue;
            }
            census.heard += u32::from(ranked);
            if !offered {
                continue;
            }
            census.offered += 1;
            match outcome {
                Some(Outcome::Converged) => census.converged += 1,
                Some(Outcome::CannotConverge(_)) => census.cannot_converge += 1,
                _ => census.count_working(member, state),
            }
        }
        census
    }

    /// The rank up to which the rollout opens so that `more` further devices that are heard from are offered the
    /// release; none where nobody is left.
    pub(super) fn widened(&self, state: &RolloutState, now: Timestamp, more: u32) -> Option<Rank> {
        let beyond = self
            .order
            .iter()
            .filter(|(rank, _)| state.opened_to.is_none_or(|opened| *rank > opened));
        let heard = beyond.filter(|(_, device)| self.members.get(device).is_some_and(|m| m.is_heard(state, now)));
        heard
            .take(usize::try_from(more).unwrap_or(usize::MAX))
            .last()
            .map(|(rank, _)| *rank)
    }

    /// How many devices that are heard from come before this rank.
    pub(super) fn heard_before(&self, state: &RolloutState, now: Timestamp, rank: Rank) -> u32 {
        let before = self.order.iter().take_while(|(other, _)| *other < rank);
        let heard = before.filter(|(_, device)| self.members.get(device).is_some_and(|m| m.is_heard(state, now)));
        u32::try_from(heard.count()).unwrap_or(u32::MAX)
    }
}

impl Census {
    fn count_working(&mut self, member: &Member, state: &RolloutState) {
        self.working += 1;
        // One millisecond later, because a device counts as heard up to and including `offline_after`.
        let silence = member.last_heard.map(|last| {
            last.saturating_add(state.policy.offline_after)
                .saturating_add(std::time::Duration::from_millis(1))
        });
        self.next_silence = [self.next_silence, silence].into_iter().flatten().min();
    }
}
