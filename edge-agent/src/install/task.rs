//! The task that owns the installation: it tells the decider what happens, keeps its state, and does what it says.

use std::sync::Arc;
use std::time::Duration;

use fieldfare_fleet::install::{Action, Event, InstallPolicy, Installed, Stage, StepFailure};
use fieldfare_fleet::rollout::Evidence;
use fieldfare_fleet::{Generation, Timestamp};
use fieldfare_member::files::FileError;
use fieldfare_proto::v1;
use fieldfare_release::TargetName;
use fieldfare_tls::{Endpoint, IdentityHandle};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bytes::Shelf;
use super::kept::{Kept, Unresolved, observed};
use super::repository::{Fetched, RemoteRepository, RepositoryError, Resolved};
use super::steps::{ServeError, StepEnd, Tools};
use crate::clock;
use crate::config::{AgentConfig, Settings};
use crate::folder::Folder;
use crate::limits::{INSTALL_QUEUE, PROGRESS_INTERVAL, RESTART_FORGIVEN, RESTART_WAIT};
use crate::process::{self, Binary};
use crate::serving::Served;

/// The installation cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Its state cannot be kept: without that nothing may be done.
    #[error("the state of the installation")]
    State(#[from] FileError),
}

/// What a session heard last.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// The whole of what the device should run.
    pub state: v1::DesiredState,
    /// Where artifacts are served.
    pub artifact_endpoint: String,
}

/// What an installer is made of.
#[derive(Debug)]
pub struct Parts {
    /// Where everything lies.
    pub folder: Folder,
    /// What enrolment fixed.
    pub config: AgentConfig,
    /// Who the device is.
    pub identity: IdentityHandle,
    /// The agent's own binary.
    pub binary: Binary,
    /// How patient an installation is.
    pub policy: InstallPolicy,
    /// What the owner allows.
    pub settings: watch::Receiver<Settings>,
    /// What the session hears.
    pub desired: watch::Receiver<Option<Desired>>,
}

/// What the installation shows to the rest of the agent.
#[derive(Clone, Debug)]
pub struct View {
    /// What serves.
    pub serving: watch::Receiver<Option<Arc<Served>>>,
    /// What the controller is told.
    pub observed: watch::Receiver<v1::ObservedState>,
}

/// What tasks of the installation report.
#[derive(Debug)]
pub(super) enum Report {
    Step {
        assignment: Generation,
        stage: Stage,
        end: StepEnd,
    },
    Resolved {
        generation: Generation,
        model: v1::DesiredModel,
        target: TargetName,
        answer: Box<Result<Option<Resolved>, RepositoryError>>,
    },
    Ended {
        pid: Option<u32>,
        how: String,
    },
    Started {
        installed: Installed,
        answer: Result<Arc<Served>, ServeError>,
    },
}

/// The owner of the installation.
#[derive(Debug)]
pub struct Installer {
    pub(super) parts: Parts,
    pub(super) shelf: Shelf,
    pub(super) kept: Kept,
    pub(super) repository: Option<RemoteRepository>,
    pub(super) unresolved: Option<Unresolved>,
    pub(super) look_up_at: Option<Instant>,
    step: Option<AbortHandle>,
    start: Option<AbortHandle>,
    candidate: Option<(Arc<Served>, Evidence)>,
    active: Option<Arc<Served>>,
    active_since: Instant,
    restarts: u32,
    fetched: watch::Sender<Fetched>,
    serving: watch::Sender<Option<Arc<Served>>>,
    observed: watch::Sender<v1::ObservedState>,
    pub(super) reports: mpsc::Sender<Report>,
    inbox: mpsc::Receiver<Report>,
}

impl Installer {
    /// Takes up the installation of a folder. Nothing runs before [`Self::run`].
    ///
    /// # Errors
    /// The kept state cannot be read.
    pub fn new(parts: Parts) -> Result<(Self, View), InstallError> {
        let kept = Kept::load(&parts.folder, parts.policy.clone())?;
        let shelf = Shelf::new(parts.folder.clone());
        let (reports, inbox) = mpsc::channel(INSTALL_QUEUE);
        let (serving, serving_view) = watch::channel(None);
        let (observed, observed_view) = watch::channel(v1::ObservedState::default());
        let mut installer = Self {
            parts,
            shelf,
            kept,
            repository: None,
            unresolved: None,
            look_up_at: None,
            step: None,
            start: None,
            candidate: None,
            active: None,
            active_since: Instant::now(),
            restarts: 0,
            fetched: watch::Sender::new(Fetched::default()),
            serving,
            observed,
            reports,
            inbox,
        };
        installer.connect_repository();
        Ok((
            installer,
            View {
                serving: serving_view,
                observed: observed_view,
            },
        ))
    }

    /// Serves and installs until it is told to stop, then stops the serving process.
    ///
    /// # Errors
    /// The state cannot be kept.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), InstallError> {
        self.tell(Event::Started)?;
        self.report();
        let mut fetched = self.fetched.subscribe();
        let mut progress_at = Instant::now() + PROGRESS_INTERVAL;
        loop {
            let deadline = self.deadline();
            let look_up_at = self.look_up_at;
            tokio::select! {
                () = stop.cancelled() => break,
                changed = self.parts.desired.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.hear_desired()?;
                }
                Some(report) = self.inbox.recv() => self.hear(report)?,
                () = until(Some(progress_at)) => {
                    progress_at = Instant::now() + PROGRESS_INTERVAL;
                    if fetched.has_changed().unwrap_or(false) {
                        fetched.mark_unchanged();
                        self.report();
                    }
                }
                () = until(deadline) => self.tell(Event::Tick)?,
                () = until(look_up_at) => self.hear_desired()?,
            }
        }
        self.stop().await;
        Ok(())
    }

    async fn stop(&mut self) {
        self.serving.send_replace(None);
        for task in [self.step.take(), self.start.take()].into_iter().flatten() {
            task.abort();
        }
        if let Some((candidate, _)) = self.candidate.take() {
            candidate.engine.stop().await;
        }
        if let Some(active) = self.active.take() {
            active.engine.stop().await;
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let at = self.kept.install.next_deadline()?;
        Some(Instant::now() + at.since(clock::now()))
    }

    pub(super) fn tools(&self) -> Tools {
        Tools {
            shelf: self.shelf.clone(),
            binary: self.parts.binary.clone(),
            repository: self.repository.clone(),
            fetched: self.fetched.clone(),
            model_memory: self.parts.settings.borrow().model_memory.get(),
        }
    }

    /// A client for the artifact endpoint that was last heard of.
    pub(super) fn connect_repository(&mut self) {
        let endpoint = self
            .kept
            .artifact_endpoint
            .as_deref()
            .and_then(|text| text.parse::<Endpoint>().ok());
        let Some(endpoint) = endpoint else { return };
        let Parts {
            identity,
            config,
            folder,
            ..
        } = &self.parts;
        match RemoteRepository::new(&endpoint, identity, config, folder, &clock::time_source()) {
            Ok(repository) => self.repository = Some(repository),
            Err(error) => tracing::error!(error = process::chain(&error), "no artifact client"),
        }
    }

    fn hear(&mut self, report: Report) -> Result<(), InstallError> {
        match report {
            Report::Resolved {
                generation,
                model,
                target,
                answer,
            } => {
                let current = self
                    .unresolved
                    .as_ref()
                    .is_some_and(|u| u.generation == generation && u.target == target);
                if current {
                    self.take_assignment(generation, &model, target, *answer)
                } else {
                    Ok(())
                }
            }
            Report::Step { assignment, stage, end } => self.end_step(assignment, stage, end),
            Report::Ended { pid, how } => self.hear_of_end(pid, &how),
            Report::Started { installed, answer } => self.hear_of_start(installed, answer),
        }
    }

    fn end_step(&mut self, assignment: Generation, stage: Stage, end: StepEnd) -> Result<(), InstallError> {
        let event = match end {
            StepEnd::Done if stage == Stage::Switch => {
                self.switch();
                Event::Done { assignment, stage }
            }
            StepEnd::Done => Event::Done { assignment, stage },
            StepEnd::Warm(served) => {
                self.watch(&served);
                self.candidate = Some((served, Evidence::default()));
                Event::Done { assignment, stage }
            }
            StepEnd::Probed(evidence) => {
                let (matched, run) = (evidence.probes_matched, evidence.probes_run);
                if let Some((_, known)) = &mut self.candidate {
                    *known = evidence;
                }
                Event::Probed {
                    assignment,
                    matched,
                    run,
                }
            }
            StepEnd::Failed(failure) => {
                let (StepFailure::Transient(detail) | StepFailure::Permanent(detail)) = &failure;
                tracing::warn!(%stage, detail, "a step of the installation failed");
                Event::Failed {
                    assignment,
                    stage,
                    failure,
                }
            }
        };
        self.tell(event)
    }

    /// Requests go to the candidate from now on; the process before it finishes what it has.
    fn switch(&mut self) {
        let Some((served, evidence)) = self.candidate.take() else {
            return;
        };
        if let Some(start) = self.start.take() {
            start.abort();
        }
        self.kept.evidence = evidence;
        self.restarts = 0;
        let before = self.activate(served);
        if let Some(before) = before {
            tokio::spawn(async move { before.engine.stop().await });
        }
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

    fn hear_of_end(&mut self, pid: Option<u32>, how: &str) -> Result<(), InstallError> {
        if self.active.as_ref().is_none_or(|active| active.engine.pid() != pid) {
            return Ok(());
        }
        tracing::error!(how, "the serving process ended");
        self.active = None;
        self.serving.send_replace(None);
        self.kept.evidence.crashes = self.kept.evidence.crashes.saturating_add(1);
        if self.active_since.elapsed() > RESTART_FORGIVEN {
            self.restarts = 0;
        }
        self.tell(Event::Crashed)
    }

    fn hear_of_start(
        &mut self,
        installed: Installed,
        answer: Result<Arc<Served>, ServeError>,
    ) -> Result<(), InstallError> {
        let wanted = self
            .kept
            .install
            .active
            .as_ref()
            .is_some_and(|active| same_bytes(active, &installed));
        match answer {
            Ok(served) if wanted && self.active.is_none() => {
                self.watch(&served);
                self.activate(served);
                self.report();
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(_) if !wanted => Ok(()),
            Err(ServeError::Bytes(error)) if error.is_damage() => {
                tracing::error!(
                    error = process::chain(&error),
                    "the installed bytes have changed and are not started"
                );
                self.abandon_damaged(&installed)
            }
            Err(error) => {
                tracing::error!(error = process::chain(&error), "the installed release does not start");
                self.kept.evidence.crashes = self.kept.evidence.crashes.saturating_add(1);
                self.tell(Event::Crashed)
            }
        }
    }

    /// Bytes that changed are never started. They are thrown away, and the release is installed anew when it is assigned.
    fn abandon_damaged(&mut self, installed: &Installed) -> Result<(), InstallError> {
        if let Ok(described) = self.shelf.describe(installed) {
            self.tools().forget_damaged(&described);
        }
        self.kept.install.active = None;
        self.kept.install.switched_at = None;
        self.kept.install.assignment = Generation::ZERO;
        self.kept.save(&self.parts.folder)?;
        self.report();
        self.hear_desired()
    }

    /// Tells the decider, keeps its state, and then does what it says.
    pub(super) fn tell(&mut self, event: Event) -> Result<(), InstallError> {
        let mut actions = Vec::new();
        let now: Timestamp = clock::now();
        if let Err(refused) = self.kept.install.handle(now, event, &mut actions) {
            tracing::debug!(error = process::chain(&refused), "an event changed nothing");
            return Ok(());
        }
        self.kept.save(&self.parts.folder)?;
        for action in actions {
            self.act(action)?;
        }
        self.report();
        Ok(())
    }

    fn act(&mut self, action: Action) -> Result<(), InstallError> {
        match action {
            Action::Run { stage, install } => self.begin_step(stage, install),
            Action::Serve(installed) => self.serve(installed),
            Action::StopServing => {
                self.serving.send_replace(None);
                if let Some(active) = self.active.take() {
                    tokio::spawn(async move { active.engine.stop().await });
                }
            }
            Action::Discard(_) => {
                let state = &self.kept.install;
                let candidate = state.candidate.as_ref().map(|candidate| &candidate.assignment.install);
                let kept: Vec<&Installed> = [state.active.as_ref(), state.previous.as_ref(), candidate]
                    .into_iter()
                    .flatten()
                    .collect();
                self.shelf.keep_only(&kept)?;
                if candidate.is_none() {
                    self.drop_candidate();
                }
            }
            Action::Report => {}
        }
        Ok(())
    }

    fn drop_candidate(&mut self) {
        if let Some(step) = self.step.take() {
            step.abort();
        }
        if let Some((candidate, _)) = self.candidate.take() {
            tokio::spawn(async move { candidate.engine.stop().await });
        }
    }

    fn begin_step(&mut self, stage: Stage, installed: Installed) {
        if stage <= Stage::WarmUp {
            self.drop_candidate();
        }
        let candidate = self.candidate.as_ref().map(|(served, _)| Arc::clone(served));
        let (tools, reports) = (self.tools(), self.reports.clone());
        let assignment = installed.assignment;
        let step = tokio::spawn(async move {
            let end = tools.run(stage, installed, candidate).await;
            let _ = reports.send(Report::Step { assignment, stage, end }).await;
        });
        self.step = Some(step.abort_handle());
    }

    /// Starts a release that serves already as far as the state says, after a wait that grows with each crash.
    fn serve(&mut self, installed: Installed) {
        if self
            .active
            .as_ref()
            .is_some_and(|active| same_bytes(&active.installed, &installed))
        {
            return;
        }
        if let Some(other) = self.active.take() {
            self.serving.send_replace(None);
            tokio::spawn(async move { other.engine.stop().await });
        }
        if let Some(start) = self.start.take() {
            start.abort();
        }
        let wait = restart_wait(self.restarts);
        self.restarts = self.restarts.saturating_add(1);
        let (tools, reports) = (self.tools(), self.reports.clone());
        let start = tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let answer = tools.serve(&installed).await.map(Arc::new);
            let _ = reports.send(Report::Started { installed, answer }).await;
        });
        self.start = Some(start.abort_handle());
    }

    pub(super) fn report(&self) {
        let disk_free = crate::measure::disk_free(self.parts.folder.path()).unwrap_or_default();
        let state = observed(
            &self.kept,
            self.unresolved.as_ref(),
            &self.shelf,
            *self.fetched.borrow(),
            disk_free,
        );
        self.observed.send_if_modified(|known| {
            // Free disk alone is no news.
            let news = known.models != state.models;
            *known = state;
            news
        });
    }
}

/// Whether both are the same bytes, whatever assignment they came under.
fn same_bytes(a: &Installed, b: &Installed) -> bool {
    (&a.release, &a.variant, &a.manifest) == (&b.release, &b.variant, &b.manifest)
}

/// The wait before start number `restarts` in a row: none at first, then doubled each time.
fn restart_wait(restarts: u32) -> Duration {
    let (first, longest) = RESTART_WAIT;
    restarts.checked_sub(1).map_or(Duration::ZERO, |doublings| {
        first.saturating_mul(1 << doublings.min(16)).min(longest)
    })
}

/// Waits for a time, or for ever where there is none.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
