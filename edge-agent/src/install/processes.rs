//! The processes of an installation: the one that serves, and the candidate that is tried beside it.

use std::sync::Arc;
use std::time::Duration;

use fieldfare_fleet::install::Installed;
use fieldfare_fleet::rollout::Evidence;
use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::steps::{Report, Tools};
use crate::limits::{RESTART_FORGIVEN, RESTART_WAIT};
use crate::serving::{Served, Serving};

/// Owns the serving processes. How each of them begins and ends is told as a [`Report`].
#[derive(Debug)]
pub(super) struct Processes {
    start: Option<AbortHandle>,
    candidate: Option<(Arc<Served>, Evidence)>,
    active: Option<Arc<Served>>,
    active_since: Instant,
    restarts: u32,
    serving: watch::Sender<Option<Arc<Served>>>,
    reports: mpsc::Sender<Report>,
}

impl Processes {
    /// No process yet, and where it will be shown what serves.
    pub(super) fn new(reports: mpsc::Sender<Report>) -> (Self, Serving) {
        let (serving, view) = watch::channel(None);
        let processes = Self {
            start: None,
            candidate: None,
            active: None,
            active_since: Instant::now(),
            restarts: 0,
            serving,
            reports,
        };
        (processes, view)
    }

    /// Whether a process serves.
    pub(super) const fn is_serving(&self) -> bool {
        self.active.is_some()
    }

    /// The process of the candidate.
    pub(super) fn candidate(&self) -> Option<Arc<Served>> {
        self.candidate.as_ref().map(|(served, _)| Arc::clone(served))
    }

    /// A process has loaded the candidate.
    pub(super) fn take_candidate(&mut self, served: Arc<Served>) {
        self.watch(&served);
        self.candidate = Some((served, Evidence::default()));
    }

    /// What the probes showed of the candidate.
    pub(super) fn note_evidence(&mut self, evidence: Evidence) {
        if let Some((_, known)) = &mut self.candidate {
            *known = evidence;
        }
    }

    /// Gives the candidate's process up.
    pub(super) fn drop_candidate(&mut self) {
        if let Some((candidate, _)) = self.candidate.take() {
            tokio::spawn(async move { candidate.engine.stop().await });
        }
    }

    /// Requests go to the candidate from now on; the process before it finishes what it has. Gives what its probes showed.
    pub(super) fn switch(&mut self) -> Option<Evidence> {
        let (served, evidence) = self.candidate.take()?;
        if let Some(start) = self.start.take() {
            start.abort();
        }
        self.restarts = 0;
        if let Some(before) = self.activate(served) {
            tokio::spawn(async move { before.engine.stop().await });
        }
        Some(evidence)
    }

    fn activate(&mut self, served: Arc<Served>) -> Option<Arc<Served>> {
        self.active_since = Instant::now();
        self.serving.send_replace(Some(Arc::clone(&served)));
        tracing::info!(release = %served.installed.release, variant = %served.installed.variant, "serving");
        self.active.replace(served)
    }

    /// Reports the end of a process, whenever that is.
    fn watch(&self, served: &Arc<Served>) {
        let (engine, reports) = (served.engine.clone(), self.reports.clone());
        tokio::spawn(async move {
            let how = engine.ended().await;
            let _ = reports.send(Report::Ended { pid: engine.pid(), how }).await;
        });
    }

    /// A process ended. Tells whether it was the one that serves.
    pub(super) fn note_end(&mut self, pid: Option<u32>) -> bool {
        if self.active.as_ref().is_none_or(|active| active.engine.pid() != pid) {
            return false;
        }
        self.active = None;
        self.serving.send_replace(None);
        if self.active_since.elapsed() > RESTART_FORGIVEN {
            self.restarts = 0;
        }
        true
    }

    /// Starts a release that serves already as far as the state says, after a wait that grows with each crash.
    pub(super) fn start(&mut self, tools: Tools, installed: Installed) {
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.installed.same_bytes(&installed))
        {
            return;
        }
        self.stop_serving();
        if let Some(start) = self.start.take() {
            start.abort();
        }
        let wait = restart_wait(self.restarts);
        self.restarts = self.restarts.saturating_add(1);
        let reports = self.reports.clone();
        let start = tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let answer = tools.serve(&installed).await.map(Arc::new);
            let _ = reports.send(Report::Started { installed, answer }).await;
        });
        self.start = Some(start.abort_handle());
    }

    /// A process was started for what serves already as far as the state says.
    pub(super) fn take_started(&mut self, served: Arc<Served>) {
        self.watch(&served);
        self.activate(served);
    }

    /// Nothing serves from now on; the process finishes what it has.
    pub(super) fn stop_serving(&mut self) {
        if let Some(active) = self.active.take() {
            self.serving.send_replace(None);
            tokio::spawn(async move { active.engine.stop().await });
        }
    }

    /// Ends all processes, and waits for it.
    pub(super) async fn stop(&mut self) {
        self.serving.send_replace(None);
        if let Some(start) = self.start.take() {
            start.abort();
        }
        let candidate = self.candidate.take().map(|(candidate, _)| candidate);
        let stopped = [candidate, self.active.take()].into_iter().flatten();
        join_all(stopped.map(|served| async move { served.engine.stop().await })).await;
    }
}

/// The wait before start number `restarts` in a row: none at first, then doubled each time.
fn restart_wait(restarts: u32) -> Duration {
    let (first, longest) = RESTART_WAIT;
    restarts.checked_sub(1).map_or(Duration::ZERO, |doublings| {
        first.saturating_mul(1 << doublings.min(16)).min(longest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_keeps_crashing_is_started_at_longer_and_longer_intervals() {
        let waits: Vec<u128> = (0..5).map(|restarts| restart_wait(restarts).as_millis()).collect();
        assert_eq!(waits, [0, 200, 400, 800, 1600]);
        assert_eq!(restart_wait(u32::MAX), RESTART_WAIT.1);
    }
}
