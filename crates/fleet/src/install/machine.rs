//! The decisions of an installation.

use std::time::Duration;

use super::event::{Action, Event, Refused, StepFailure};
use super::state::{Assignment, Candidate, FailedRelease, InstallPolicy, InstallState, Installed, Stage};
use crate::limits::{MAX_REFUSED_RELEASES, MAX_STEP_ATTEMPTS};
use crate::rollout::Progress;
use crate::{ByteSize, Generation, Obstacle, Timestamp};

impl Installed {
    /// Whether both are the same bytes, whatever assignment they came under.
    pub fn same_bytes(&self, other: &Self) -> bool {
        (&self.release, &self.variant, &self.manifest) == (&other.release, &other.variant, &other.manifest)
    }
}

impl Stage {
    /// The step after this one; the last step leads to the switch being confirmed by time.
    const fn next(self) -> Self {
        match self {
            Self::Fetch => Self::Verify,
            Self::Verify => Self::Stage,
            Self::Stage => Self::WarmUp,
            Self::WarmUp => Self::Probe,
            Self::Probe => Self::Switch,
            Self::Switch | Self::Confirm => Self::Confirm,
        }
    }

    fn obstacle(self, attempts: u32, detail: String) -> Obstacle {
        match self {
            Self::Fetch => Obstacle::Fetch { attempts, detail },
            Self::Verify => Obstacle::Verification { detail },
            Self::Stage => Obstacle::Staging { detail },
            Self::WarmUp | Self::Probe | Self::Switch | Self::Confirm => Obstacle::WarmUp { detail },
        }
    }
}

impl InstallState {
    /// A device with nothing installed.
    pub const fn empty(policy: InstallPolicy) -> Self {
        Self {
            policy,
            active: None,
            previous: None,
            candidate: None,
            switched_at: None,
            crashes: Vec::new(),
            assignment: Generation::ZERO,
            assigned: None,
            failed: Vec::new(),
            obstacle: None,
        }
    }

    /// How far the device is with its newest assignment: what it reports.
    pub fn progress(&self) -> Progress {
        match (&self.obstacle, &self.candidate, self.switched_at) {
            (Some(obstacle), _, _) => Progress::CannotConverge(obstacle.clone()),
            (None, Some(candidate), _) => Progress::Working(candidate.stage),
            (None, None, Some(_)) => Progress::Working(Stage::Confirm),
            (None, None, None) => Progress::Converged,
        }
    }

    /// When the next [`Event::Tick`] is due; none while only an event can change something.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let retry = self.candidate.as_ref().filter(|candidate| !candidate.in_doubt);
        let retry = retry.and_then(|candidate| candidate.retry_at);
        [retry, self.confirmed_at()].into_iter().flatten().min()
    }

    pub(super) fn confirmed_at(&self) -> Option<Timestamp> {
        self.switched_at.map(|at| at.saturating_add(self.policy.confirm_window))
    }

    /// Takes in an event and says what to do.
    ///
    /// # Errors
    /// [`Refused`] says why the event changed nothing.
    pub fn handle(&mut self, now: Timestamp, event: Event, actions: &mut Vec<Action>) -> Result<(), Refused> {
        match event {
            Event::Assigned { assignment, disk_free } => self.assign(assignment, disk_free, actions),
            Event::Unassigned { assignment, obstacle } => self.unassign(assignment, obstacle, actions),
            Event::Superseded { assignment } => self.doubt(assignment),
            Event::Done { assignment, stage } => self.finish_step(now, assignment, stage, actions),
            Event::Probed {
                assignment,
                matched,
                run,
            } => self.judge_probes(assignment, matched, run, actions),
            Event::Failed {
                assignment,
                stage,
                failure,
            } => self.fail_step(now, assignment, stage, failure, actions),
            Event::Crashed => self.count_crash(now, actions),
            Event::Damaged { install } => self.abandon_damaged(&install, actions),
            Event::Started => {
                self.take_up(now, actions);
                Ok(())
            }
            Event::Tick => {
                self.pass_time(now, actions);
                Ok(())
            }
        }
    }

    fn assign(&mut self, told: Assignment, disk_free: ByteSize, actions: &mut Vec<Action>) -> Result<(), Refused> {
        let generation = told.install.assignment;
        if generation < self.assignment {
            return Err(Refused::Stale {
                told: generation,
                known: self.assignment,
            });
        }
        let known = self.assigned.as_ref();
        if self.has_answered(generation, known.is_some_and(|known| known.same_bytes(&told.install))) {
            return Ok(());
        }
        self.assignment = generation;
        self.assigned = Some(told.install.clone());
        if let Some(active) = self.active.as_mut().filter(|active| active.same_bytes(&told.install)) {
            active.assignment = generation;
            self.obstacle = None;
            self.drop_candidate(None, actions);
            actions.push(Action::Report);
            return Ok(());
        }
        if let Some(candidate) = self
            .candidate
            .as_mut()
            .filter(|c| c.assignment.install.same_bytes(&told.install))
        {
            candidate.assignment = told;
            candidate.in_doubt = false;
            self.obstacle = None;
            let (stage, install) = (candidate.stage, candidate.assignment.install.clone());
            if candidate.retry_at.is_none() {
                actions.push(Action::Run { stage, install });
            }
            return Ok(());
        }
        self.drop_candidate(Some(&told.install), actions);
        self.obstacle = self.preflight(&told, disk_free);
        if self.obstacle.is_none() {
            let install = told.install.clone();
            self.candidate = Some(Candidate {
                assignment: told,
                stage: Stage::Fetch,
                failures: 0,
                retry_at: None,
                in_doubt: false,
            });
            actions.push(Action::Run {
                stage: Stage::Fetch,
                install,
            });
        }
        actions.push(Action::Report);
        Ok(())
    }

    /// What speaks against an installation before its first byte.
    fn preflight(&self, told: &Assignment, disk_free: ByteSize) -> Option<Obstacle> {
        let before = self.failed.iter().find(|failed| {
            (&failed.release, &failed.variant) == (&told.install.release, &told.install.variant)
                && failed.assignment >= told.install.assignment
        });
        if let Some(failed) = before {
            let because = Box::new(failed.obstacle.clone());
            return Some(Obstacle::FailedBefore {
                generation: failed.assignment,
                because,
            });
        }
        let needed = told.bytes_missing.saturating_add(self.policy.disk_reserve);
        let fits = told.bytes_missing == ByteSize::ZERO || needed <= disk_free;
        (!fits).then_some(Obstacle::DiskTooSmall {
            needed,
            available: disk_free,
        })
    }

    fn unassign(
        &mut self,
        told: Generation,
        obstacle: Option<Obstacle>,
        actions: &mut Vec<Action>,
    ) -> Result<(), Refused> {
        if told < self.assignment {
            return Err(Refused::Stale {
                told,
                known: self.assignment,
            });
        }
        self.assignment = told;
        self.assigned = None;
        self.drop_candidate(None, actions);
        if obstacle.is_none() && (self.active.is_some() || self.previous.is_some()) {
            actions.push(Action::StopServing);
            actions.extend(
                self.active
                    .take()
                    .into_iter()
                    .chain(self.previous.take())
                    .map(Action::Discard),
            );
            self.switched_at = None;
            self.crashes.clear();
        }
        self.obstacle = obstacle;
        actions.push(Action::Report);
        Ok(())
    }

    fn doubt(&mut self, told: Generation) -> Result<(), Refused> {
        let known = self.assignment;
        let older = |candidate: &&mut Candidate| candidate.assignment.install.assignment < told;
        let candidate = self.candidate.as_mut().filter(older);
        let candidate = candidate.ok_or(Refused::Stale { told, known })?;
        candidate.in_doubt = true;
        Ok(())
    }

    /// Gives a candidate up, and its bytes unless something that is kept has them.
    fn drop_candidate(&mut self, successor: Option<&Installed>, actions: &mut Vec<Action>) {
        if let Some(candidate) = self.candidate.take() {
            self.discard(candidate.assignment.install, successor, actions);
        }
    }

    pub(super) fn discard(&self, install: Installed, successor: Option<&Installed>, actions: &mut Vec<Action>) {
        let kept = [self.active.as_ref(), self.previous.as_ref(), successor];
        if !kept.into_iter().flatten().any(|other| other.same_bytes(&install)) {
            actions.push(Action::Discard(install));
        }
    }

    /// The candidate, if this step of this assignment is under way.
    fn under_way(&mut self, assignment: Generation, stage: Stage) -> Result<&mut Candidate, Refused> {
        let under_way = self.is_under_way(assignment, stage);
        let candidate = self.candidate.as_mut().filter(|_| under_way);
        candidate.ok_or(Refused::NotUnderWay { told: stage })
    }

    fn finish_step(
        &mut self,
        now: Timestamp,
        assignment: Generation,
        stage: Stage,
        actions: &mut Vec<Action>,
    ) -> Result<(), Refused> {
        let candidate = self.under_way(assignment, stage)?;
        match stage {
            // Only the answers say whether the probes are passed.
            Stage::Probe | Stage::Confirm => return Err(Refused::NotUnderWay { told: stage }),
            Stage::Switch => self.switch(now, actions),
            Stage::Fetch | Stage::Verify | Stage::Stage | Stage::WarmUp => {
                candidate.stage = stage.next();
                let (stage, install) = (candidate.stage, candidate.assignment.install.clone());
                actions.push(Action::Run { stage, install });
            }
        }
        actions.push(Action::Report);
        Ok(())
    }

    fn judge_probes(
        &mut self,
        assignment: Generation,
        matched: u32,
        run: u32,
        actions: &mut Vec<Action>,
    ) -> Result<(), Refused> {
        let candidate = self.under_way(assignment, Stage::Probe)?;
        let required = candidate.assignment.probes_required;
        if matched >= required {
            candidate.stage = Stage::Switch;
            let install = candidate.assignment.install.clone();
            actions.push(Action::Run {
                stage: Stage::Switch,
                install,
            });
            actions.push(Action::Report);
        } else {
            self.give_up(Obstacle::Probes { matched, run, required }, actions);
        }
        Ok(())
    }

    /// The candidate serves. What served before is kept, unless it was itself not confirmed yet: then the release
    /// before it, which was, stays the one to go back to. Going back to that one is no probation: nothing would be left
    /// after it.
    fn switch(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let Some(candidate) = self.candidate.take() else { return };
        let confirmed = self.switched_at.is_none();
        let dropped = match self.active.replace(candidate.assignment.install) {
            Some(replaced) if confirmed => self.previous.replace(replaced),
            replaced => replaced,
        };
        let both = self.previous.as_ref().zip(self.active.as_ref());
        let goes_back = both.is_some_and(|(previous, active)| previous.same_bytes(active));
        if goes_back {
            self.previous = None;
        }
        if let Some(dropped) = dropped {
            self.discard(dropped, None, actions);
        }
        self.switched_at = (!goes_back).then_some(now);
        self.crashes.clear();
        self.obstacle = None;
    }

    fn fail_step(
        &mut self,
        now: Timestamp,
        assignment: Generation,
        stage: Stage,
        failure: StepFailure,
        actions: &mut Vec<Action>,
    ) -> Result<(), Refused> {
        let (attempts, wait) = (
            self.policy.max_attempts.clamp(1, MAX_STEP_ATTEMPTS),
            self.policy.retry_after,
        );
        let candidate = self.under_way(assignment, stage)?;
        candidate.failures = candidate.failures.saturating_add(1);
        let failures = candidate.failures;
        match failure {
            StepFailure::Transient(_) if failures < attempts => {
                // Bytes that could not be verified are fetched again.
                if stage == Stage::Verify {
                    candidate.stage = Stage::Fetch;
                }
                candidate.retry_at = Some(now.saturating_add(backoff(wait, failures)));
                actions.push(Action::Report);
            }
            StepFailure::Transient(detail) | StepFailure::Permanent(detail) => {
                self.give_up(stage.obstacle(failures, detail), actions);
            }
        }
        Ok(())
    }

    /// Gives the candidate up for good: it is not tried again under this assignment.
    pub(super) fn give_up(&mut self, obstacle: Obstacle, actions: &mut Vec<Action>) {
        if let Some(candidate) = self.candidate.take() {
            let install = candidate.assignment.install;
            self.remember_failed(&install, obstacle);
            self.discard(install, None, actions);
            actions.push(Action::Report);
        }
    }

    pub(super) fn remember_failed(&mut self, install: &Installed, obstacle: Obstacle) {
        self.failed
            .retain(|f| (&f.release, &f.variant) != (&install.release, &install.variant));
        if self.failed.len() >= MAX_REFUSED_RELEASES {
            self.failed.remove(0);
        }
        self.obstacle = Some(obstacle.clone());
        self.failed.push(FailedRelease {
            release: install.release.clone(),
            variant: install.variant.clone(),
            assignment: self.assignment.max(install.assignment),
            obstacle,
        });
    }

    fn pass_time(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if let Some(candidate) = self
            .candidate
            .as_mut()
            .filter(|c| !c.in_doubt && c.retry_at.is_some_and(|at| at <= now))
        {
            candidate.retry_at = None;
            let (stage, install) = (candidate.stage, candidate.assignment.install.clone());
            actions.push(Action::Run { stage, install });
        }
        if self.confirmed_at().is_some_and(|at| at <= now) {
            self.switched_at = None;
            actions.push(Action::Report);
        }
    }
}

/// The wait after this many failures, doubled with each.
fn backoff(first: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(MAX_STEP_ATTEMPTS))
}
