//! The decisions of a rollout.

use super::event::{Action, Event, Milestone, Refused, RollbackCause};
use super::gate::{GateReading, GateVerdict};
use super::policy::{DeadlineRule, WaveSize};
use super::population::{Census, Population};
use super::reading;
use super::state::{Phase, RolloutState};
use crate::Timestamp;

/// A rollout at work: what is kept of it, and what devices reported since this process began.
///
/// Reports only update what is known; decisions are made at [`Event::Tick`], so that a burst of reports costs one
/// decision. [`Rollout::next_deadline`] is due at once after anything new.
///
/// Devices not heard from are passed over when a wave opens: they neither fill nor block it. One of them that comes
/// back later and stands before the opened rank gets the new release then, beyond the wave's size and
/// `max_unavailable`; pacing its return is the session's business.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    pub(super) state: RolloutState,
    pub(super) population: Population,
    /// When this process took the rollout up.
    resumed_at: Timestamp,
    /// Since when there is something new to decide about.
    news_since: Option<Timestamp>,
    /// When time alone changes something.
    wake_at: Option<Timestamp>,
}

/// Whether a decision changed something on which the next one depends.
enum Step {
    Moved,
    Still,
}

impl Rollout {
    /// A rollout that begins or that is taken up again now. Its devices join, and report, again; until all have, or
    /// `offline_after` has passed, a wave neither opens nor passes nor misses its deadline, because a fleet that is
    /// only half heard from looks small and healthy. A gate that fails meanwhile rolls back all the same.
    pub fn resume(state: RolloutState, now: Timestamp) -> Self {
        Self {
            state,
            population: Population::default(),
            resumed_at: now,
            news_since: Some(now),
            wake_at: None,
        }
    }

    /// Until when devices that have not reported to this process are waited for; none when nobody is.
    pub(super) fn gathering_until(&self, now: Timestamp) -> Option<Timestamp> {
        let until = self.resumed_at.saturating_add(self.state.policy.offline_after);
        let waits = now < until && self.population.iter().any(|member| member.last_heard.is_none());
        waits.then_some(until)
    }

    /// What is to be kept.
    pub const fn state(&self) -> &RolloutState {
        &self.state
    }

    /// When the next [`Event::Tick`] is due; none while only an event can change something.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        [self.news_since, self.wake_at].into_iter().flatten().min()
    }

    /// Takes in an event and says what to do.
    ///
    /// # Errors
    /// [`Refused`] says why the event changed nothing.
    pub fn handle(&mut self, now: Timestamp, event: Event, actions: &mut Vec<Action>) -> Result<(), Refused> {
        match event {
            Event::Joined {
                device,
                class,
                joined_at,
            } => {
                let slot = self.state.slot_of(device, joined_at);
                self.population.join(device, slot, class);
            }
            Event::Left { device } => self.population.leave(device)?,
            Event::Observed { device, observation } => {
                self.population.observe(&self.state, now, device, observation)?;
            }
            Event::Tick => {
                self.decide(now, actions);
                return Ok(());
            }
            Event::Pause { by } => self.pause(by, actions)?,
            Event::Resume { by } => self.take_up(by, actions)?,
            Event::Promote { by } => self.promote(now, by, actions)?,
            Event::Abort { by } => self.abort(now, by, actions)?,
            Event::RollBack { by } => {
                self.refuse_unless_reversible()?;
                self.roll_back(now, RollbackCause::Operator { by }, actions);
            }
        }
        self.news_since = self.news_since.or(Some(now));
        Ok(())
    }

    fn refuse_if_over(&self) -> Result<(), Refused> {
        match &self.state.phase {
            Phase::Advancing { .. } => Ok(()),
            phase => Err(Refused::Over { phase: phase.name() }),
        }
    }

    /// A rollout that is complete, or that was ended, can still be sent back; one that is going back cannot.
    fn refuse_unless_reversible(&self) -> Result<(), Refused> {
        match &self.state.phase {
            phase @ (Phase::RollingBack { .. } | Phase::RolledBack { .. }) => {
                Err(Refused::Over { phase: phase.name() })
            }
            _ => Ok(()),
        }
    }

    fn pause(&mut self, by: String, actions: &mut Vec<Action>) -> Result<(), Refused> {
        self.refuse_if_over()?;
        if self.state.paused_by.is_some() {
            return Err(Refused::Paused);
        }
        self.state.paused_by = Some(by.clone());
        actions.push(Action::Announce(Milestone::Paused { by }));
        Ok(())
    }

    fn take_up(&mut self, by: String, actions: &mut Vec<Action>) -> Result<(), Refused> {
        self.refuse_if_over()?;
        self.state.paused_by.take().ok_or(Refused::NotPaused)?;
        actions.push(Action::Announce(Milestone::Resumed { by }));
        Ok(())
    }

    fn promote(&mut self, now: Timestamp, by: String, actions: &mut Vec<Action>) -> Result<(), Refused> {
        self.refuse_if_over()?;
        if self.state.paused_by.is_some() {
            return Err(Refused::Paused);
        }
        if let Phase::Advancing { wave, .. } = self.state.phase {
            actions.push(Action::Announce(Milestone::Promoted { wave, by }));
            self.next_wave(now, wave, actions);
        }
        Ok(())
    }

    fn abort(&mut self, now: Timestamp, by: String, actions: &mut Vec<Action>) -> Result<(), Refused> {
        self.refuse_if_over()?;
        self.state.paused_by = None;
        self.state.phase = Phase::Aborted {
            at: now,
            by: by.clone(),
        };
        actions.push(Action::Announce(Milestone::Aborted { by }));
        Ok(())
    }

    /// Makes every decision that is due.
    fn decide(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        self.news_since = None;
        self.wake_at = None;
        // Every step that moves opens a wave or leaves the phase, so that there are at most that many of them.
        for _ in 0..=self.state.policy.waves.len() + 1 {
            let step = match &self.state.phase {
                Phase::Advancing { .. } if self.state.paused_by.is_none() => self.advance(now, actions),
                Phase::RollingBack { since, .. } => {
                    let since = *since;
                    self.settle_back(now, since, actions)
                }
                _ => Step::Still,
            };
            if matches!(step, Step::Still) {
                break;
            }
        }
    }

    /// What every gate reads now.
    pub(super) fn readings(&self, census: &Census, now: Timestamp) -> Vec<GateReading> {
        let gates = self.state.policy.gates.iter();
        gates
            .map(|gate| reading::read(*gate, &self.population, census, &self.state, now))
            .collect()
    }

    /// How many devices have the release when this wave is fully open, of the devices heard from.
    pub(super) fn wave_size(&self, wave: u32, heard: u32) -> u32 {
        let size = self
            .state
            .policy
            .waves
            .get(wave as usize)
            .copied()
            .unwrap_or(WaveSize::Percent(100));
        match size {
            WaveSize::Count(count) => count.min(heard),
            WaveSize::Percent(percent) => {
                let rounded_up = (u64::from(heard) * u64::from(percent)).div_ceil(100);
                u32::try_from(rounded_up).unwrap_or(heard)
            }
        }
    }

    fn advance(&mut self, now: Timestamp, actions: &mut Vec<Action>) -> Step {
        let Phase::Advancing {
            wave,
            opened_at,
            observing_since,
            overdue,
        } = self.state.phase
        else {
            return Step::Still;
        };
        let census = self.population.census(&self.state, now);
        let readings = self.readings(&census, now);
        if let Some(failed) = readings.iter().find(|reading| reading.verdict == GateVerdict::Failed) {
            self.roll_back(now, RollbackCause::Gate { wave, reading: *failed }, actions);
            return Step::Moved;
        }
        if let Some(until) = self.gathering_until(now) {
            self.wake_at = Some(until);
            return Step::Still;
        }
        let deadline = opened_at.saturating_add(self.state.policy.wave_deadline);
        if let Some(since) = observing_since {
            let until = since.saturating_add(self.state.policy.observation);
            let missing = readings.iter().any(|reading| reading.verdict == GateVerdict::Missing);
            if now >= until && !missing && self.has_enough_converged(&census) {
                actions.push(Action::Announce(Milestone::WavePassed { wave, readings }));
                self.next_wave(now, wave, actions);
                return Step::Moved;
            }
            self.wake_at = (now < until).then_some(until);
        }
        if now >= deadline && !overdue {
            return self.miss_deadline(now, wave, actions);
        }
        self.wake_at = [self.wake_at, (!overdue).then_some(deadline), census.next_silence]
            .into_iter()
            .flatten()
            .min();
        let widened = self.widen(now, wave, &census, actions);
        if observing_since.is_none() && !widened && census.working == 0 && self.is_open(wave, &census) {
            return self.observe_wave(now, wave, actions);
        }
        Step::Still
    }

    /// Whether as many devices converged as the policy asks for, or all that were offered the release.
    pub(super) fn has_enough_converged(&self, census: &Census) -> bool {
        census.converged >= self.state.policy.minimum_evidence.devices.min(census.offered).max(1)
    }

    /// Whether the wave has all its devices, and any.
    pub(super) fn is_open(&self, wave: u32, census: &Census) -> bool {
        census.offered > 0 && census.offered >= self.wave_size(wave, census.heard)
    }

    fn observe_wave(&mut self, now: Timestamp, wave: u32, actions: &mut Vec<Action>) -> Step {
        if let Phase::Advancing { observing_since, .. } = &mut self.state.phase {
            *observing_since = Some(now);
        }
        let until = now.saturating_add(self.state.policy.observation);
        actions.push(Action::Announce(Milestone::ObservationBegan { wave, until }));
        Step::Moved
    }

    /// Offers the release to as many further devices as the wave and the disruption budget allow.
    fn widen(&mut self, now: Timestamp, wave: u32, census: &Census, actions: &mut Vec<Action>) -> bool {
        let room = self.wave_size(wave, census.heard).saturating_sub(census.offered);
        let budget = self.state.policy.max_unavailable.saturating_sub(census.working);
        let more = room.min(budget);
        if more == 0 {
            return false;
        }
        let Some(rank) = self.population.widened(&self.state, now, more) else {
            return false;
        };
        if self.state.opened_to.is_none() {
            actions.push(Action::Announce(Milestone::WaveOpened { wave }));
        }
        self.state.opened_to = Some(rank);
        if let Phase::Advancing { observing_since, .. } = &mut self.state.phase {
            // The wave is watched anew once the devices just offered have an outcome too.
            *observing_since = None;
        }
        self.publish(actions);
        // The devices just offered have no outcome yet, and may fall silent.
        let opened = self.population.census(&self.state, now);
        self.wake_at = [self.wake_at, opened.next_silence].into_iter().flatten().min();
        true
    }

    fn miss_deadline(&mut self, now: Timestamp, wave: u32, actions: &mut Vec<Action>) -> Step {
        match self.state.policy.on_deadline {
            DeadlineRule::RollBack => self.roll_back(now, RollbackCause::Deadline { wave }, actions),
            DeadlineRule::Hold => {
                if let Phase::Advancing { overdue, .. } = &mut self.state.phase {
                    *overdue = true;
                }
                actions.push(Action::Announce(Milestone::DeadlineMissed { wave }));
            }
        }
        Step::Moved
    }

    fn next_wave(&mut self, now: Timestamp, wave: u32, actions: &mut Vec<Action>) {
        let next = wave + 1;
        if (next as usize) < self.state.policy.waves.len() {
            self.state.phase = Phase::Advancing {
                wave: next,
                opened_at: now,
                observing_since: None,
                overdue: false,
            };
            if self.state.opened_to.is_some() {
                actions.push(Action::Announce(Milestone::WaveOpened { wave: next }));
            }
            return;
        }
        self.state.phase = Phase::Completed { at: now };
        self.publish(actions);
        actions.push(Action::Announce(Milestone::Completed));
    }

    fn publish(&mut self, actions: &mut Vec<Action>) {
        self.state.generation = self.state.generation.next();
        actions.push(Action::PublishTargets {
            generation: self.state.generation,
        });
    }

    fn roll_back(&mut self, now: Timestamp, cause: RollbackCause, actions: &mut Vec<Action>) {
        self.state.phase = Phase::RollingBack {
            since: now,
            cause: cause.clone(),
        };
        self.state.paused_by = None;
        self.publish(actions);
        self.state.previous_assignment = self.state.generation;
        actions.push(Action::Announce(Milestone::RollbackBegan { cause }));
    }

    /// Ends a rollback when every device heard from has an outcome for the previous release, or when the time is up.
    fn settle_back(&mut self, now: Timestamp, since: Timestamp, actions: &mut Vec<Action>) -> Step {
        if let Some(until) = self.gathering_until(now) {
            self.wake_at = Some(until);
            return Step::Still;
        }
        let mut missing = 0;
        let mut silence = None;
        for member in self.population.iter().filter(|m| m.outcome(&self.state, now).is_none()) {
            missing += 1;
            let silent_at = member
                .last_heard
                .map(|last| last.saturating_add(self.state.policy.offline_after));
            silence = [silence, silent_at].into_iter().flatten().min();
        }
        let deadline = since.saturating_add(self.state.policy.wave_deadline);
        if missing > 0 && now < deadline {
            let silence = silence.map(|at| at.saturating_add(std::time::Duration::from_millis(1)));
            self.wake_at = [Some(deadline), silence].into_iter().flatten().min();
            return Step::Still;
        }
        if let Phase::RollingBack { cause, .. } = &self.state.phase {
            self.state.phase = Phase::RolledBack {
                at: now,
                cause: cause.clone(),
            };
            actions.push(Action::Announce(Milestone::RolledBack { missing }));
        }
        Step::Moved
    }
}
