//! `fieldfare quickstart`: a controller, a trainer and unlike devices on this machine, and the main job shown with them.
//!
//! The other programs are started as processes and are reached as anybody reaches them: the controller through the same calls as every
//! other command, the devices through their local API. Nothing here is linked from them.

mod closing;
pub mod data;
pub mod device;
mod fleet;
pub mod folder;
mod learning;
pub mod narrator;
pub mod owners;
pub mod processes;
mod releases;
pub mod report;
pub mod text;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use console::Term;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::Receiver;

use crate::args::{Format, Global};
use crate::commands::quickstart::Arguments;
use crate::exit::Failure;
use crate::limits::EXPLANATION_WAIT;
use crate::output;
use data::RunData;
use device::LocalApi;
use folder::RunFolder;
use narrator::{Narrator, Stage};
use processes::{Death, Processes};
use report::{Outcome, Report};

/// Name of the fleet's context, in the run's own folder of contexts.
const CONTEXT: &str = "quickstart";

/// Name of the trainer.
const TRAINER: &str = "trainer";

/// Everything that a run has.
#[derive(Debug)]
struct Quickstart {
    arguments: Arguments,
    own: PathBuf,
    folder: RunFolder,
    narrator: Narrator,
    processes: Processes,
    report: Report,
}

/// A device of the run.
#[derive(Clone, Debug)]
struct RunDevice {
    data: data::DeviceData,
    api: LocalApi,
}

/// Runs all of it, and stops every process however it ends.
///
/// # Errors
/// What failed, what a gate refused, or that it was interrupted.
pub async fn run(global: &Global, arguments: Arguments) -> Result<()> {
    // The devices' local APIs are plain HTTP on loopback, but the HTTP client asks for a provider all the same. Where one is
    // installed already, it is this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // From the first moment on, so that nothing is left behind.
    let mut signals = Signals::install()?;
    let own = std::env::current_exe().context("finding this program")?;
    let folder = RunFolder::create(&arguments.dir)?;
    let term = match global.output {
        Format::Json => Term::stderr(),
        Format::Table => Term::stdout(),
    };
    let (processes, mut deaths) = Processes::new(own.clone(), folder.logs(), arguments.keep)?;
    let report = Report::new(folder.path().display().to_string());
    let narrator = Narrator::new(term, global.colour());
    let mut run = Quickstart {
        arguments,
        own,
        folder,
        narrator,
        processes,
        report,
    };
    let done = tokio::select! {
        biased;
        () = signals.next() => Err(Failure::Interrupted.into()),
        death = deaths.recv() => Err(death.map_or_else(|| anyhow::anyhow!("no process is left"), |death| death.error())),
        done = run.stages(global) => done,
    };
    let done = explained(done, &mut deaths).await;
    run.end(global, done, &mut signals).await
}

/// An error, or the death of a process where that is the reason.
async fn explained(done: Result<()>, deaths: &mut Receiver<Death>) -> Result<()> {
    match done {
        Err(error) if error.downcast_ref::<Failure>().is_none() => {
            match tokio::time::timeout(EXPLANATION_WAIT, deaths.recv()).await {
                Ok(Some(death)) => Err(error.context(death.error())),
                _ => Err(error),
            }
        }
        done => done,
    }
}

/// Requests to stop.
struct Signals([tokio::signal::unix::Signal; 3]);

impl Signals {
    fn install() -> Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

impl Quickstart {
    async fn stages(&mut self, global: &Global) -> Result<()> {
        let (data, model) = self.text().await?;
        let session = self.fleet(global).await?;
        let first = self.import(&session, &model, &data).await?;
        let adapter = owners::adapter_bytes(&model.file, self.arguments.training.rank)?;
        let devices = self.devices(&session, &data, &first.manifest, adapter).await?;
        self.placement(&session, &first, &data).await?;
        self.narrator.begin(
            Stage::Rollout,
            &format!("{} moves through the fleet in waves, behind gates", first.name),
        );
        self.rollout(&session, &first.name).await?;
        let question = self.question(&devices).await?;
        self.measure_before(&devices).await?;
        let second = self.learn(&session, &model, &data, &devices).await?;
        self.narrator.begin(
            Stage::Upgrade,
            &format!("{} replaces {}, canary first", second, first.name),
        );
        self.rollout(&session, &second).await?;
        self.compare(&devices, &question).await?;
        self.narrator.end();
        Ok(())
    }

    /// Stops what runs, tells the end, and gives the error that the command ends with.
    async fn end(mut self, global: &Global, done: Result<()>, signals: &mut Signals) -> Result<()> {
        let (outcome, reason) = verdict(&done);
        self.report.outcome = outcome;
        self.report.reason = reason;
        self.report.kept = self.arguments.keep && outcome == Outcome::Succeeded;
        if self.report.kept {
            self.processes.leave().await;
        } else {
            self.narrator.say("stopping every process (Ctrl-C again kills them)");
            self.processes.stop(Box::pin(signals.next())).await;
            self.narrator
                .say(&format!("all {} processes are stopped", self.processes.started().len()));
        }
        self.report.stages = self.narrator.times();
        self.report.processes = self.processes.started().to_vec();
        if outcome == Outcome::Succeeded {
            self.narrator
                .say(&closing::summary(&self.report, &self.own, &self.folder.operator()));
        }
        if global.output == Format::Json {
            output::line(&serde_json::to_string_pretty(&self.report).context("writing JSON")?)?;
        }
        done
    }

    /// The text of the run and its model.
    async fn text(&mut self) -> Result<(RunData, text::Model)> {
        let here = std::env::current_dir().context("finding the current folder")?;
        let model = text::Model::find(self.arguments.model.as_deref(), &[&self.own, &here])?;
        let data = match self.arguments.data.clone() {
            Some(folder) => data::read_folder(&folder)?,
            None => self.farm().await?,
        };
        Ok((data, model))
    }
}

/// How a run ended, and why.
fn verdict(done: &Result<()>) -> (Outcome, Option<String>) {
    let Err(error) = done else {
        return (Outcome::Succeeded, None);
    };
    let outcome = match error.chain().find_map(|cause| cause.downcast_ref::<Failure>()) {
        Some(Failure::Refused(_)) => Outcome::Refused,
        Some(Failure::Interrupted) => Outcome::Interrupted,
        Some(Failure::Unwell(_)) | None => Outcome::Failed,
    };
    (outcome, Some(format!("{error:#}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_is_that_of_the_error() {
        assert_eq!(verdict(&Ok(())), (Outcome::Succeeded, None));
        let refused = Err(crate::exit::refused("the loss did not fall").context("job x"));
        assert_eq!(
            verdict(&refused),
            (Outcome::Refused, Some("job x: the loss did not fall".to_owned()))
        );
        assert_eq!(verdict(&Err(Failure::Interrupted.into())).0, Outcome::Interrupted);
        assert_eq!(verdict(&Err(anyhow::anyhow!("broken"))).0, Outcome::Failed);
    }
}
