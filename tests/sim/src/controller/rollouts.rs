//! The shell around a rollout: it tells what devices report, persists what is decided, and lets that count only then.

use std::collections::btree_map::Entry;
use std::rc::Rc;

use fieldfare_fleet::placement::{Correction, place};
use fieldfare_fleet::rollout::{Action, Event, Observation, Rollout, RolloutStart, RolloutState, RolloutStatus};
use fieldfare_fleet::{Generation, ReleaseId, Timestamp};

use super::Controller;
use crate::ground::Ground;
use crate::message::Desired;

impl Controller {
    /// Takes in what is new and makes the decisions that are due.
    pub(super) fn step(&mut self, ground: &mut Ground) {
        self.assign(ground);
        self.take_in(ground);
        let due = self
            .process
            .as_ref()
            .and_then(|process| process.live.as_ref()?.next_deadline());
        if due.is_some_and(|due| due <= ground.now) {
            self.decide(ground, Event::Tick);
        }
    }

    /// Decides the variant of both releases for every class that has devices, and keeps it.
    fn assign(&mut self, ground: &Ground) {
        let (Some(state), Some(process)) = (&self.store.rollout, &mut self.process) else {
            return;
        };
        if process.assigned == process.version {
            return;
        }
        let releases: Vec<ReleaseId> = [Some(state.release.clone()), state.previous.clone()]
            .into_iter()
            .flatten()
            .collect();
        for enrolled in self.store.devices.iter().flatten() {
            for release in &releases {
                let key = (release.clone(), enrolled.class.clone());
                if let Entry::Vacant(unassigned) = self.store.assignments.entry(key) {
                    let (variants, needs) = (&ground.setting.variants, &ground.setting.requirements);
                    let report = place(&enrolled.class.capacity(), variants, needs, Correction::NONE);
                    unassigned.insert(report.chosen);
                    process.desired.clear();
                    process.version += 1;
                }
            }
        }
    }

    /// Tells the decider who belongs to the deployment, and what each connected device last said.
    fn take_in(&mut self, ground: &mut Ground) {
        let Some(process) = &mut self.process else { return };
        let Some(state) = &self.store.rollout else { return };
        let now = ground.now;
        let live = process.live.get_or_insert_with(|| Rollout::resume(state.clone(), now));
        if std::mem::replace(&mut process.assigned, process.version) != process.version {
            for (joined, enrolled) in process.joined.iter_mut().zip(&self.store.devices) {
                if let Some(enrolled) = enrolled
                    && !std::mem::replace(joined, true)
                {
                    let event = Event::Joined {
                        device: enrolled.id,
                        class: enrolled.class.clone(),
                        joined_at: enrolled.joined_at,
                    };
                    tell(live, now, event, ground);
                }
            }
        }
        for (device, news) in (0..).zip(&mut process.news) {
            let (sign, enrolled) = (&process.signs[device as usize], &self.store.devices[device as usize]);
            let (true, Some(sign), Some(enrolled)) = (std::mem::take(news), sign, enrolled) else {
                continue;
            };
            if !sign.open {
                continue;
            }
            let slot = state.slot_of(enrolled.id, enrolled.joined_at);
            let target = state.target_for(slot);
            let key = target
                .release
                .as_ref()
                .map(|release| (release.clone(), enrolled.class.clone()));
            let assigned = key.and_then(|key| self.store.assignments.get(&key));
            let said = sign.observed.as_ref().or(enrolled.observed.as_ref());
            let said = said.map(|said| Observation::clone(said));
            let unplaced = assigned.is_some_and(Option::is_none);
            let observation = Observation::of_connected(said, target, unplaced);
            ground.checks.reports(device, &observation, sign.last_heard, state);
            let event = Event::Observed {
                device: enrolled.id,
                observation,
            };
            tell(live, sign.last_heard, event, ground);
        }
    }

    /// Decides, persists, and only then lets the decision count.
    fn decide(&mut self, ground: &mut Ground, event: Event) {
        let Some(live) = self.process.as_mut().and_then(|process| process.live.as_mut()) else {
            return;
        };
        let before = live.state().clone();
        let mut actions = Vec::new();
        let order = format!("{event:?}");
        if let Err(refused) = live.handle(ground.now, event.clone(), &mut actions) {
            ground.say(|| format!("the rollout refuses {order}: {refused}"));
            return;
        }
        let after = live.state().clone();
        if before != after {
            if self.dies(ground) {
                return;
            }
            ground.say(|| format!("the rollout is {:?}, opened to {:?}", after.phase, after.opened_to));
            ground.checks.publishes(&before, &after, &event, ground.now);
            self.keep(after);
            if self.dies(ground) {
                return;
            }
        }
        for action in actions {
            if let Action::Announce(milestone) = action {
                ground.say(|| format!("announced: {milestone:?}"));
            }
        }
    }

    fn keep(&mut self, state: RolloutState) {
        self.store.rollout = Some(state);
        if let Some(process) = &mut self.process {
            process.desired.clear();
            process.version += 1;
            process.news.fill(true);
        }
    }

    /// The operator orders something; false where the controller is down.
    pub(crate) fn command(&mut self, ground: &mut Ground, event: Event) -> bool {
        if self.process.is_none() {
            return false;
        }
        self.step(ground);
        self.decide(ground, event);
        self.tell_all(ground);
        true
    }

    /// How the rollout stands.
    pub(crate) fn status(&self, now: Timestamp) -> Option<RolloutStatus> {
        Some(self.process.as_ref()?.live.as_ref()?.status(now))
    }

    /// The operator rolls a release out; false where that must wait.
    pub(crate) fn deploy(&mut self, ground: &mut Ground, release: ReleaseId) -> bool {
        let last = self.store.rollout.as_ref();
        if self.process.is_none() || last.is_some_and(|state| !state.phase.is_over()) {
            return false;
        }
        let (name, seed) = (ground.setting.deployment.clone(), ground.dice.number());
        let mut start = RolloutStart::after(
            last,
            name,
            release,
            ground.setting.policy(false, &mut ground.dice),
            seed,
        );
        if start.previous.is_none() {
            start.policy = ground.setting.policy(true, &mut ground.dice);
        }
        ground.say(|| format!("the operator deploys {start:?}"));
        let state = match RolloutState::begin(start, ground.now) {
            Ok(state) => state,
            Err(error) => {
                ground
                    .checks
                    .fail("a policy of the simulation works", error.to_string(), ground.now);
                return false;
            }
        };
        ground.checks.begins(last, &state, ground.now);
        self.keep(state);
        if self.dies(ground) {
            return true;
        }
        if let Some(process) = &mut self.process {
            process.live = None;
            process.joined.fill(false);
        }
        self.step(ground);
        self.tell_all(ground);
        true
    }

    /// What a device shall run, as its session is told.
    pub(super) fn desired(&mut self, device: u32) -> Option<Rc<Desired>> {
        let Some(state) = &self.store.rollout else {
            let nothing = Desired {
                generation: Generation::ZERO,
                entry: None,
            };
            return Some(Rc::new(nothing));
        };
        let (slot, enrolled) = self.slot(device)?;
        let key = (state.has_new_release(slot), enrolled.class.clone());
        let process = self.process.as_ref()?;
        if let Some(known) = process.desired.get(&key) {
            return Some(Rc::clone(known));
        }
        let entry = state.entry_for(slot, |moves_in| {
            let release = if moves_in {
                Some(&state.release)
            } else {
                state.previous.as_ref()
            };
            let assigned = self
                .store
                .assignments
                .get(&(release?.clone(), enrolled.class.clone()))?;
            assigned.clone()
        });
        let desired = Rc::new(Desired {
            generation: state.generation,
            entry,
        });
        let process = self.process.as_mut()?;
        process.desired.insert(key, Rc::clone(&desired));
        Some(desired)
    }
}

fn tell(live: &mut Rollout, at: Timestamp, event: Event, ground: &mut Ground) {
    if let Err(refused) = live.handle(at, event, &mut Vec::new()) {
        ground.say(|| format!("a report changes nothing: {refused}"));
    }
}
