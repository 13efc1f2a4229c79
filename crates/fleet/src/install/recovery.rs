//! What becomes of an installation when a process crashes, bytes change, or the agent starts again.

use super::event::{Action, Refused};
use super::state::{InstallState, Installed, Stage};
use crate::limits::MAX_STEP_ATTEMPTS;
use crate::{Generation, Obstacle, Timestamp};

impl InstallState {
    /// A release that keeps crashing is reverted while there is one to go back to, however long ago it was confirmed: some
    /// crash only after a minute, or once they are asked for something. One that was never confirmed is stopped even where
    /// there is none.
    pub(super) fn count_crash(&mut self, now: Timestamp, actions: &mut Vec<Action>) -> Result<(), Refused> {
        let active = self.active.clone().ok_or(Refused::NothingActive)?;
        let (window, most) = (self.policy.crash_window, self.policy.max_crashes.max(1) as usize);
        // Crashes of a time that the clock has lost since are forgotten too.
        self.crashes.retain(|at| *at <= now && now < at.saturating_add(window));
        self.crashes.push(now);
        if self.crashes.len() >= most && (self.is_on_probation(now) || self.previous.is_some()) {
            self.revert(active, actions);
            return Ok(());
        }
        // Nothing is asked of more of them.
        let known = self.crashes.len().saturating_sub(most);
        self.crashes.drain(..known);
        actions.push(Action::Serve(active));
        actions.push(Action::Report);
        Ok(())
    }

    /// Whether the active release was switched to a short while ago.
    fn is_on_probation(&self, now: Timestamp) -> bool {
        self.confirmed_at().is_some_and(|at| now < at)
    }

    /// Goes back from an active release that keeps crashing to the one before, which was confirmed.
    fn revert(&mut self, bad: Installed, actions: &mut Vec<Action>) {
        let crashes = u32::try_from(self.crashes.len()).unwrap_or(u32::MAX);
        let superseded = self.candidate.is_some();
        let obstacle = Obstacle::CrashLoop {
            crashes,
            within: self.policy.crash_window,
        };
        self.remember_failed(&bad, obstacle);
        if superseded {
            // A newer assignment is on its way in: the crash loop does not stand in its way.
            self.obstacle = None;
        }
        self.active = self.previous.take();
        self.switched_at = None;
        self.crashes.clear();
        actions.push(self.active.clone().map_or(Action::StopServing, Action::Serve));
        let successor = self
            .candidate
            .as_ref()
            .map(|candidate| candidate.assignment.install.clone());
        self.discard(bad, successor.as_ref(), actions);
        actions.push(Action::Report);
    }

    /// Bytes that changed are never started. Whatever is assigned is installed anew, under the assignment that it has.
    pub(super) fn abandon_damaged(&mut self, damaged: &Installed, actions: &mut Vec<Action>) -> Result<(), Refused> {
        if !self.active.as_ref().is_some_and(|active| active.same_bytes(damaged)) {
            return Err(Refused::NothingActive);
        }
        self.active = None;
        self.switched_at = None;
        self.assignment = Generation::ZERO;
        actions.push(Action::Report);
        Ok(())
    }

    /// The agent starts. A start within the confirm window counts as a crash, because a release that takes the agent
    /// or the machine down with it must be reverted too; so does, for a candidate, a start while it was being tried.
    pub(super) fn take_up(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        // A clock that was ahead when the release was switched to, or that has lost its time since: the window begins anew, or
        // each start until the clock gets there would count as a crash.
        self.switched_at = self.switched_at.map(|at| at.min(now));
        match self.active.clone() {
            // The release serves again, or is reverted.
            Some(_) if self.is_on_probation(now) => {
                let _ = self.count_crash(now, actions);
            }
            Some(active) => actions.extend([Action::Serve(active), Action::Report]),
            None => {}
        }
        let attempts = self.policy.max_attempts.clamp(1, MAX_STEP_ATTEMPTS);
        let Some(candidate) = self.candidate.as_mut() else {
            return;
        };
        if candidate.stage >= Stage::WarmUp {
            candidate.failures = candidate.failures.saturating_add(1);
            if candidate.failures >= attempts {
                let detail = "the agent was restarted each time the release was tried".to_owned();
                self.give_up(Obstacle::WarmUp { detail }, actions);
                return;
            }
        }
        // Bytes may have changed while nobody watched: they are verified again before anything uses them.
        candidate.stage = candidate.stage.min(Stage::Verify);
        candidate.in_doubt = true;
    }
}
