//! The task that owns the installation: it tells the decider what happens, keeps its state, and does what it says.

use std::sync::Arc;

use fieldfare_files::FileError;
use fieldfare_fleet::install::{Action, Event, InstallPolicy, Installed, Stage, StepFailure};
use fieldfare_fleet::{Generation, Timestamp};
use fieldfare_proto::v1;
use fieldfare_tls::{Endpoint, IdentityHandle};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bytes::Shelf;
use super::download::Fetched;
use super::kept::{Kept, SCHEMA, Unresolved, observed};
use super::processes::Processes;
use super::repository::RemoteRepository;
use super::steps::{Report, ServeError, StepEnd, Tools};
use super::trust::TrustFile;
use crate::audit::Audit;
use crate::clock;
use crate::config::{AgentConfig, Settings};
use crate::folder::Folder;
use crate::limits::{INSTALL_QUEUE, PROGRESS_INTERVAL};
use crate::process::{self, Binary};
use crate::serving::{Served, Serving};

/// The installation cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Its state cannot be kept: without that nothing may be done.
    #[error("the state of the installation")]
    State(#[from] FileError),
    /// It was kept by another version.
    #[error("the state of the installation has schema {found}, expected {SCHEMA}")]
    Schema {
        /// Its schema.
        found: u32,
    },
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
    /// The audit log.
    pub audit: Audit,
}

/// What the installation shows to the rest of the agent.
#[derive(Clone, Debug)]
pub struct View {
    /// What serves.
    pub serving: Serving,
    /// What the controller is told.
    pub observed: watch::Receiver<v1::ObservedState>,
}

/// The owner of the installation.
#[derive(Debug)]
pub struct Installer {
    pub(super) parts: Parts,
    pub(super) shelf: Shelf,
    pub(super) kept: Kept,
    trust: TrustFile,
    pub(super) repository: Option<RemoteRepository>,
    pub(super) unresolved: Option<Unresolved>,
    pub(super) look_up_at: Option<Instant>,
    /// The look-up of the newest assignment.
    pub(super) looking_up: Option<AbortHandle>,
    step: Option<AbortHandle>,
    pub(super) processes: Processes,
    fetched: watch::Sender<Fetched>,
    observed: watch::Sender<v1::ObservedState>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) inbox: mpsc::Receiver<Report>,
}

impl Installer {
    /// Takes up the installation of a folder. Nothing runs before [`Self::run`].
    ///
    /// # Errors
    /// The kept state cannot be read.
    pub fn new(parts: Parts) -> Result<(Self, View), InstallError> {
        let kept = Kept::load(&parts.folder, parts.policy.clone())?;
        let shelf = Shelf::new(parts.folder.clone());
        let trust = TrustFile::new(parts.folder.trusted_state());
        let (reports, inbox) = mpsc::channel(INSTALL_QUEUE);
        let (processes, serving) = Processes::new(reports.clone());
        let (observed, observed_view) = watch::channel(v1::ObservedState::default());
        let mut installer = Self {
            parts,
            shelf,
            kept,
            trust,
            repository: None,
            unresolved: None,
            look_up_at: None,
            looking_up: None,
            step: None,
            processes,
            fetched: watch::Sender::new(Fetched::default()),
            observed,
            reports,
            inbox,
        };
        installer.connect_repository();
        Ok((
            installer,
            View {
                serving,
                observed: observed_view,
            },
        ))
    }

    /// Serves and installs until it is told to stop, then stops the serving process. While its state cannot be kept, as on a full
    /// disk, what serves goes on serving and nothing is decided; after that it goes on as after a start.
    ///
    /// # Errors
    /// The state that was kept cannot be read.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), InstallError> {
        self.record_found();
        let ended = loop {
            match self.install(&stop).await {
                Err(InstallError::State(error)) => {
                    if !self.wait_for_disk(&error, &stop).await {
                        break Ok(());
                    }
                }
                ended => break ended,
            }
        };
        self.stop_step();
        self.processes.stop().await;
        ended
    }

    async fn install(&mut self, stop: &CancellationToken) -> Result<(), InstallError> {
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
                () = until(look_up_at) => self.look_again()?,
            }
        }
        Ok(())
    }

    pub(super) fn stop_step(&mut self) {
        if let Some(step) = self.step.take() {
            step.abort();
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
            audit: self.parts.audit.clone(),
            deployment: self.kept.deployment.clone(),
            active: self.kept.install.active.clone(),
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
        match RemoteRepository::new(&endpoint, identity, config, folder, &self.trust, &clock::time_source()) {
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
        if !self.kept.install.is_under_way(assignment, stage) {
            tracing::debug!(%stage, %assignment, "the end of a step that was given up");
            return Ok(());
        }
        let event = match end {
            StepEnd::Done if stage == Stage::Switch => {
                if let Some(evidence) = self.processes.switch() {
                    self.kept.evidence = evidence;
                }
                fieldfare_crash::point("agent.install.switched");
                Event::Done { assignment, stage }
            }
            StepEnd::Done => Event::Done { assignment, stage },
            StepEnd::Warm(served) => {
                self.processes.take_candidate(served);
                Event::Done { assignment, stage }
            }
            StepEnd::Probed(evidence) => {
                let (matched, run) = (evidence.probes_matched, evidence.probes_run);
                self.processes.note_evidence(evidence);
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

    fn hear_of_end(&mut self, pid: Option<u32>, how: &str) -> Result<(), InstallError> {
        if !self.processes.note_end(pid) {
            return Ok(());
        }
        tracing::error!(how, "the serving process ended");
        self.kept.evidence.crashes = self.kept.evidence.crashes.saturating_add(1);
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
            .is_some_and(|active| active.same_bytes(&installed));
        match answer {
            Ok(served) if wanted && !self.processes.is_serving() => {
                self.processes.take_started(served);
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
        self.tell(Event::Damaged {
            install: installed.clone(),
        })?;
        self.hear_desired()
    }

    /// Tells the decider, keeps its state, and then does what it says.
    pub(super) fn tell(&mut self, event: Event) -> Result<(), InstallError> {
        let mut actions = Vec::new();
        let now: Timestamp = clock::now();
        let before = self.kept.install.clone();
        if let Err(refused) = self.kept.install.handle(now, event.clone(), &mut actions) {
            tracing::debug!(error = process::chain(&refused), "an event changed nothing");
            return Ok(());
        }
        fieldfare_crash::point("agent.install.decided");
        self.record_change(&event, &before);
        if let Err(error) = self.kept.save(&self.parts.folder) {
            self.kept.install = before;
            return Err(error.into());
        }
        fieldfare_crash::point("agent.install.persisted");
        self.await_room();
        for action in actions {
            self.act(action)?;
        }
        self.report();
        Ok(())
    }

    fn act(&mut self, action: Action) -> Result<(), InstallError> {
        match action {
            Action::Run { stage, install } => self.begin_step(stage, install),
            Action::Serve(installed) => {
                let tools = self.tools();
                self.processes.start(tools, installed);
            }
            Action::StopServing => self.processes.stop_serving(),
            Action::Discard(_) => {
                let kept: Vec<&Installed> = self.kept.install.kept().collect();
                self.shelf.keep_only(&kept)?;
                if self.kept.install.candidate.is_none() {
                    self.drop_candidate();
                }
            }
            Action::Report => {}
        }
        Ok(())
    }

    pub(super) fn drop_candidate(&mut self) {
        self.stop_step();
        self.processes.drop_candidate();
    }

    fn begin_step(&mut self, stage: Stage, installed: Installed) {
        if stage <= Stage::WarmUp {
            self.drop_candidate();
        }
        let candidate = self.processes.candidate();
        let (tools, reports) = (self.tools(), self.reports.clone());
        let assignment = installed.assignment;
        let step = tokio::spawn(async move {
            let end = tools.run(stage, installed, candidate).await;
            let _ = reports.send(Report::Step { assignment, stage, end }).await;
        });
        self.step = Some(step.abort_handle());
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

/// Waits for a time, or for ever where there is none.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
