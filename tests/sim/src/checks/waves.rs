//! A rollout as one sees it from its record and from what devices report.

use fieldfare_fleet::rollout::{Event, Evidence, Metric, Observation, Phase, Progress, RolloutState, Slot, WaveSize};
use fieldfare_fleet::{DeviceId, Generation, Obstacle, Timestamp};

use super::Checks;

const GENERATIONS: &str = "generations only grow";
const WAVE: &str = "no wave opens before the gates of the one before it passed with the minimum of evidence";
const BUDGET: &str = "no more than max_unavailable devices that are heard from change release at once";
const BACK: &str = "a rollout that goes back never offers its release again";

/// What the controller's process has heard of a device since it took the rollout up.
#[derive(Clone, Debug)]
struct Seen {
    id: DeviceId,
    joined_at: Timestamp,
    heard_at: Option<Timestamp>,
    newest: Generation,
    said: Option<Observation>,
}

#[derive(Debug)]
pub(super) struct Waves {
    devices: Vec<Option<Seen>>,
    widened_at: Timestamp,
}

impl Waves {
    pub(super) fn new(devices: u32) -> Self {
        Self {
            devices: vec![None; devices as usize],
            widened_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn forget(&mut self) {
        for seen in self.devices.iter_mut().flatten() {
            (seen.heard_at, seen.newest, seen.said) = (None, Generation::ZERO, None);
        }
    }

    fn heard(&self, state: &RolloutState, now: Timestamp) -> impl Iterator<Item = (&Seen, Slot)> {
        let patience = state.policy.offline_after;
        let is_heard = move |seen: &&Seen| seen.heard_at.is_some_and(|at| now.since(at) <= patience);
        let all = self.devices.iter().flatten().filter(is_heard);
        all.map(|seen| (seen, state.slot_of(seen.id, seen.joined_at)))
    }

    /// How the devices stand that are heard from: all, those that are offered the release, and those of them without an outcome.
    fn stand(&self, state: &RolloutState, now: Timestamp) -> (u32, u32, u32) {
        let (mut heard, mut offered, mut working) = (0, 0, 0);
        for (seen, slot) in self.heard(state, now) {
            heard += u32::from(slot != Slot::Late);
            if state.has_new_release(slot) && slot != Slot::Late {
                offered += 1;
                working += u32::from(seen.outcome(state).is_none());
            }
        }
        (heard, offered, working)
    }
}

enum Settled<'a> {
    Converged(&'a Evidence),
    Cannot(&'a Obstacle),
}

impl Seen {
    /// What became of the release on a device that is offered it.
    fn outcome(&self, state: &RolloutState) -> Option<Settled<'_>> {
        let said = self.said.as_ref()?;
        let about_it = said.target.as_ref() == Some(&state.release) && said.generation >= state.assignment;
        match &said.progress {
            Progress::Converged if about_it && said.running == said.target => Some(Settled::Converged(&said.evidence)),
            Progress::CannotConverge(obstacle) if about_it => Some(Settled::Cannot(obstacle)),
            _ => None,
        }
    }
}

impl Checks {
    pub(crate) fn controller_restarts(&mut self) {
        self.waves.forget();
    }

    /// A device enrols, or opens another session.
    pub(crate) fn enrols(&mut self, device: u32, id: DeviceId, joined_at: Timestamp) {
        self.waves.devices[device as usize].get_or_insert(Seen {
            id,
            joined_at,
            heard_at: None,
            newest: Generation::ZERO,
            said: None,
        });
    }

    /// The report of a device reaches whoever decides. One that is older than another, or of the future, says nothing.
    pub(crate) fn reports(&mut self, device: u32, said: &Observation, heard_at: Timestamp, state: &RolloutState) {
        let Some(seen) = &mut self.waves.devices[device as usize] else {
            return;
        };
        if said.generation <= state.generation && said.generation >= seen.newest {
            seen.newest = said.generation;
            seen.heard_at = seen.heard_at.max(Some(heard_at));
            seen.said = Some(said.clone());
        }
    }

    /// A rollout begins.
    pub(crate) fn begins(&mut self, last: Option<&RolloutState>, state: &RolloutState, now: Timestamp) {
        if let Some(last) = last
            && state.generation <= last.generation
        {
            let seen = format!("{} after {}", state.generation, last.generation);
            self.fail(GENERATIONS, seen, now);
        }
        self.waves.forget();
    }

    /// The record of a rollout is changed by an order, or by what was reported and the time.
    pub(crate) fn publishes(&mut self, before: &RolloutState, after: &RolloutState, why: &Event, now: Timestamp) {
        if after.generation < before.generation {
            let seen = format!("{} after {}", after.generation, before.generation);
            return self.fail(GENERATIONS, seen, now);
        }
        let went_back =
            |state: &RolloutState| matches!(state.phase, Phase::RollingBack { .. } | Phase::RolledBack { .. });
        if went_back(after) && after.previous_assignment <= after.assignment {
            return self.fail(BACK, "the way back is no newer assignment".to_owned(), now);
        }
        if went_back(before) && !went_back(after) {
            return self.fail(BACK, format!("{:?} after {:?}", after.phase, before.phase), now);
        }
        let promoted = matches!(why, Event::Promote { .. });
        match (&before.phase, &after.phase) {
            (Phase::Advancing { wave, .. }, Phase::Advancing { wave: next, .. }) if next > wave && !promoted => {
                self.check_passed(before, *wave, now);
            }
            (Phase::Advancing { wave, .. }, Phase::Completed { .. }) if !promoted => {
                self.check_passed(before, *wave, now);
            }
            _ => {}
        }
        if after.opened_to != before.opened_to {
            self.check_widening(before, after, now);
            self.waves.widened_at = now;
        }
    }

    fn check_widening(&mut self, before: &RolloutState, after: &RolloutState, now: Timestamp) {
        let (_, offered_before, _) = self.waves.stand(before, now);
        let (heard, offered, working) = self.waves.stand(after, now);
        let Phase::Advancing { wave, .. } = after.phase else {
            return self.fail(WAVE, format!("opened in phase {:?}", after.phase), now);
        };
        let size = match after.policy.waves.get(wave as usize) {
            Some(WaveSize::Count(count)) => (*count).min(heard),
            Some(WaveSize::Percent(percent)) => (heard * u32::from(*percent)).div_ceil(100),
            None => heard,
        };
        if offered > offered_before && offered > size {
            let seen = format!("wave {wave} has {size} of {heard} devices, and {offered} are offered the release");
            return self.fail(WAVE, seen, now);
        }
        let most = after.policy.max_unavailable;
        if offered > offered_before && working > most {
            let seen = format!("{working} of {offered} devices change release, {most} may");
            self.fail(BUDGET, seen, now);
        }
    }

    /// A wave passed without an order: there must be what it passed by.
    fn check_passed(&mut self, state: &RolloutState, wave: u32, now: Timestamp) {
        let policy = &state.policy;
        let waited = now.since(self.waves.widened_at);
        if waited < policy.observation {
            let seen = format!(
                "wave {wave} passed {waited:?} after it opened, {:?} are asked for",
                policy.observation
            );
            return self.fail(WAVE, seen, now);
        }
        let offered = self
            .waves
            .heard(state, now)
            .filter(|(_, slot)| state.has_new_release(*slot));
        let settled: Vec<_> = offered.map(|(seen, _)| seen.outcome(state)).collect();
        let least = policy
            .minimum_evidence
            .devices
            .min(u32::try_from(settled.len()).unwrap_or(u32::MAX))
            .max(1);
        let converged: Vec<&Evidence> = settled
            .iter()
            .filter_map(|outcome| match outcome {
                Some(Settled::Converged(evidence)) => Some(*evidence),
                _ => None,
            })
            .collect();
        let probes: u64 = converged.iter().map(|evidence| u64::from(evidence.probes_run)).sum();
        let problem = if converged.len() < least as usize {
            Some(format!("{} devices converged, {least} are asked for", converged.len()))
        } else if !policy.gates.is_empty() && probes < u64::from(policy.minimum_evidence.probes) {
            Some(format!(
                "{probes} probes were answered, {} are asked for",
                policy.minimum_evidence.probes
            ))
        } else {
            let failing = policy.gates.iter().find(|gate| {
                let value = absolute(gate.metric, &settled);
                !gate.bound.is_relative() && !value.is_some_and(|value| gate.bound.admits(value))
            });
            failing.map(|gate| format!("{:?} reads {:?}", gate, absolute(gate.metric, &settled)))
        };
        if let Some(problem) = problem {
            self.fail(WAVE, format!("wave {wave} passed, and {problem}"), now);
        }
    }
}

/// What a gate with an absolute bound reads, worked out from its description alone.
fn absolute(metric: Metric, settled: &[Option<Settled<'_>>]) -> Option<f64> {
    let (mut sum, mut weight) = (0.0, 0.0);
    for outcome in settled.iter().flatten() {
        let (value, by) = match (metric, outcome) {
            (Metric::CannotConverge, Settled::Cannot(_)) => (1.0, 1.0),
            (Metric::CannotConverge, Settled::Converged(_)) => (0.0, 1.0),
            (Metric::CrashingDevices, Settled::Cannot(Obstacle::CrashLoop { .. })) => (1.0, 1.0),
            (Metric::CrashingDevices, Settled::Cannot(_)) => (0.0, 1.0),
            (Metric::CrashingDevices, Settled::Converged(e)) => (f64::from(u8::from(e.crashes > 0)), 1.0),
            (Metric::ProbeExactMatch, Settled::Converged(e)) => (f64::from(e.probes_matched), f64::from(e.probes_run)),
            (Metric::ErrorRate, Settled::Converged(e)) => (e.errors as f64, e.requests as f64),
            (Metric::Confidence, Settled::Converged(e)) => match e.confidence {
                Some(confidence) => (confidence.get(), 1.0),
                None => continue,
            },
            _ => continue,
        };
        sum += value;
        weight += by;
    }
    (weight > 0.0).then(|| sum / weight)
}
