//! The installation while its state cannot be kept, as on a full disk: what serves goes on, and nothing is decided.

use fieldfare_files::FileError;
use fieldfare_fleet::rollout::Progress;
use fieldfare_fleet::{Generation, Obstacle};
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use super::kept::{Kept, Unresolved};
use super::steps::Report;
use super::task::{InstallError, Installer};
use crate::limits::{DISK_RETRY, STATE_RETRY};
use crate::process;

impl Installer {
    /// Looks at a full disk again after a while.
    pub(super) fn await_room(&mut self) {
        if matches!(self.kept.install.obstacle, Some(Obstacle::DiskTooSmall { .. })) {
            self.look_up_at.get_or_insert(Instant::now() + DISK_RETRY);
        }
    }

    /// Takes in again what the controller wants, unless all that is wrong with it is a disk that is still full.
    pub(super) fn look_again(&mut self) -> Result<(), InstallError> {
        if let (Some(Obstacle::DiskTooSmall { needed, .. }), None) = (&self.kept.install.obstacle, &self.unresolved)
            && crate::measure::disk_free(self.parts.folder.path()).unwrap_or_default() < *needed
        {
            self.look_up_at = Some(Instant::now() + DISK_RETRY);
            return Ok(());
        }
        self.hear_desired()
    }

    /// Waits until the state can be kept again, and takes it up as it was kept last. False when it is told to stop before.
    pub(super) async fn wait_for_disk(&mut self, error: &FileError, stop: &CancellationToken) -> bool {
        let detail = process::chain(error);
        tracing::error!(
            error = detail,
            "the state of the installation cannot be kept: nothing is installed until it can"
        );
        self.drop_candidate();
        self.show_obstacle(detail);
        if !self.processes.is_serving() {
            self.serve_active();
        }
        let mut look = interval(STATE_RETRY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return false,
                Some(report) = self.inbox.recv() => self.keep_serving(report),
                _ = look.tick() => match self.load_kept() {
                    Ok(kept) => {
                        tracing::info!("the state of the installation can be kept again");
                        self.kept = kept;
                        self.unresolved = None;
                        self.parts.desired.mark_changed();
                        return true;
                    }
                    Err(error) => tracing::debug!(error = process::chain(&error), "it still cannot be kept"),
                },
            }
        }
    }

    /// What was decided last is what is on the disk, once the disk takes it again.
    fn load_kept(&self) -> Result<Kept, InstallError> {
        let kept = Kept::load(&self.parts.folder, self.parts.policy.clone())?;
        kept.save(&self.parts.folder)?;
        Ok(kept)
    }

    /// Says why what is assigned is not installed, unless it is.
    fn show_obstacle(&mut self, detail: String) {
        let desired = self.parts.desired.borrow().clone();
        let model = desired.and_then(|desired| {
            desired
                .state
                .models
                .into_iter()
                .min_by(|a, b| a.deployment.cmp(&b.deployment))
        });
        let Some((model, target)) =
            model.and_then(|model| model.manifest_target.parse().ok().map(|target| (model, target)))
        else {
            return;
        };
        let generation = model.generation.map_or(Generation::ZERO, Generation::from);
        let (known, progress) = self.kept.install.report(None);
        if known < generation || progress != Progress::Converged {
            self.unresolved = Some(Unresolved {
                generation,
                target,
                obstacle: Some(Obstacle::Staging { detail }),
            });
            self.report();
        }
    }

    fn serve_active(&mut self) {
        if let Some(active) = self.kept.install.active.clone() {
            let tools = self.tools();
            self.processes.start(tools, active);
        }
    }

    /// Starts what serves again when it ends. Everything else is done again after the outage.
    fn keep_serving(&mut self, report: Report) {
        match report {
            Report::Ended { pid, how } if self.processes.note_end(pid) => {
                tracing::error!(how, "the serving process ended");
                self.serve_active();
            }
            Report::Started { installed, answer } => match answer {
                Ok(served) if !self.processes.is_serving() => self.processes.take_started(served),
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(error = process::chain(&error), release = %installed.release, "the installed release does not start");
                    self.serve_active();
                }
            },
            _ => {}
        }
    }
}
