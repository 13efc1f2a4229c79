//! What the fleet learns in a run: a question before, rounds of private training, and the devices before and after.

use anyhow::{Result, bail};
use fieldfare_proto::v1;
use fieldfare_release::TargetName;

use super::data::RunData;
use super::device::{Measured, Question};
use super::narrator::Stage;
use super::releases::DEPLOYMENT;
use super::report::{self, Answer, Answers, Release, Round};
use super::text::Model;
use super::{Quickstart, RunDevice, TRAINER, closing};
use crate::commands::{Session, job, release};
use crate::exit::Advice;

/// Name of the federated job.
const JOB: &str = "personalise";

/// An answer for people.
fn answered(answer: &Answer) -> String {
    format!(
        "  {:?} ({:.0} % confident, {:.0} tokens/s on this machine)",
        answer.text,
        answer.confidence * 100.0,
        answer.tokens_per_second
    )
}

impl Quickstart {
    /// Asks the first device.
    pub(super) async fn question(&mut self, devices: &[RunDevice]) -> Result<Question> {
        let Some(device) = devices.first() else {
            bail!("there is no device to ask")
        };
        self.narrator.begin(
            Stage::Question,
            &format!(
                "{} through its OpenAI endpoint, {}/v1",
                device.data.name,
                device.api.base()
            ),
        );
        let question = match (&self.arguments.prompt, device.data.held_out.first()) {
            (Some(prompt), _) => Question::Text(prompt.clone()),
            (None, Some(example)) => Question::of(example),
            (None, None) => bail!("{} holds nothing to ask about", device.data.name),
        };
        let before = device.api.ask(&question).await?;
        self.narrator
            .say(&format!("  {}\n{}", question.shown(), answered(&before)));
        self.report.answers = Some(Answers {
            prompt: question.shown(),
            device: device.data.name.clone(),
            before,
            after: None,
        });
        Ok(question)
    }

    /// Gives each device its own examples, and measures what serves on its held-out ones.
    pub(super) async fn measure_before(&mut self, devices: &[RunDevice]) -> Result<()> {
        self.narrator.begin(
            Stage::Learning,
            "each device learns from its own examples, which never leave it",
        );
        for device in devices {
            device.api.add_examples(&device.data.training).await?;
            let measured = device.api.evaluate(&device.data.held_out).await?;
            let row = self.report.device(&device.data.name);
            row.held_out = measured.examples;
            row.loss_before = Some(measured.loss);
            row.exact_match_before = measured.exact_match;
            installed(row, &measured);
            let (name, training) = (&device.data.name, device.data.training.len());
            let before = figures(Some(measured.loss), measured.exact_match);
            self.narrator.say(&format!(
                "{name}: {training} examples to learn from; {} held out: {before}",
                measured.examples
            ));
        }
        Ok(())
    }

    /// Delegates adapter releases of the model to the trainer and follows the job. Gives the release that it published.
    pub(super) async fn learn(
        &mut self,
        session: &Session,
        model: &Model,
        data: &RunData,
        devices: &[RunDevice],
    ) -> Result<TargetName> {
        release::delegate(session, model.name.as_str(), TRAINER).await?;
        self.narrator.say(&format!(
            "the trainer may now sign adapter releases of {}, and nothing else",
            model.name
        ));
        let start = job::Start {
            name: Some(JOB.to_owned()),
            deployment: DEPLOYMENT.to_owned(),
            evaluation: self.folder.text().join("evaluation.jsonl"),
            training: self.training(devices),
            detach: true,
        };
        let started = job::start(session, &start).await?;
        let ended = job::follow_with(session, &started.name, |line| self.narrator.say(line)).await?;
        let answers = data.evaluation.iter().any(|example| example.answer().is_some());
        self.report.rounds = ended.rounds.iter().map(|summary| round(summary, answers)).collect();
        self.report.evaluations = ended.evaluations.iter().cloned().map(Into::into).collect();
        if !self.report.evaluations.is_empty() {
            let verdicts = job::gate(&self.report.evaluations);
            self.narrator
                .say(&format!("the evaluation gate, on every variant in use:\n{verdicts}"));
        }
        for device in &ended.ineligible {
            self.narrator
                .say(&format!("not invited: {}: {}", device.name, device.reason));
        }
        let target = job::succeeded(ended)?.manifest_target;
        let (name, _) = release::manifest(&release::get(session, &target).await?)?;
        let verified = release::verify(session, &name).await?;
        self.narrator.say(&format!(
            "{name} published; verified as a device does: signed by {}, {} files",
            verified.role, verified.files
        ));
        self.report.release = Some(Release {
            manifest_target: verified.manifest_target,
            sha256: verified.manifest_sha256,
        });
        Ok(name)
    }

    /// The job's settings, fitted to the devices that there are.
    fn training(&self, devices: &[RunDevice]) -> job::Training {
        let mut training = self.arguments.training.clone();
        let fewest = devices
            .iter()
            .map(|device| device.data.training.len())
            .min()
            .unwrap_or_default();
        // A public constant of the job; that all devices are ours, and can be counted, is a privilege of a demonstration.
        training.examples_per_device = training
            .examples_per_device
            .min(u32::try_from(fewest).unwrap_or(u32::MAX));
        training.cohort = training.cohort.min(u32::try_from(devices.len()).unwrap_or(u32::MAX));
        training.quorum = training.quorum.min(training.cohort);
        training
    }

    /// The same question again, and each device on the same held-out examples.
    pub(super) async fn compare(&mut self, devices: &[RunDevice], question: &Question) -> Result<()> {
        self.narrator
            .begin(Stage::Comparison, "the same question, and the same held-out examples");
        let Some(first) = devices.first() else {
            bail!("there is no device to ask")
        };
        let after = first.api.ask(question).await?;
        if let Some(answers) = &mut self.report.answers {
            self.narrator.say(&format!(
                "  {}\nbefore:\n{}\nafter:\n{}",
                answers.prompt,
                answered(&answers.before),
                answered(&after)
            ));
            answers.after = Some(after);
        }
        for device in devices {
            let measured = device.api.evaluate(&device.data.held_out).await?;
            let row = self.report.device(&device.data.name);
            row.loss_after = Some(measured.loss);
            row.exact_match_after = measured.exact_match;
            installed(row, &measured);
        }
        self.narrator.say(&closing::comparison(&self.report.devices));
        self.everybody_has_the_new_release()
    }

    fn everybody_has_the_new_release(&self) -> Result<()> {
        let Some(release) = &self.report.release else {
            bail!("there is no new release")
        };
        match self
            .report
            .devices
            .iter()
            .find(|device| device.release != release.manifest_target)
        {
            None => Ok(()),
            Some(device) => {
                let what = format!(
                    "{} runs {}, not {}",
                    device.name, device.release, release.manifest_target
                );
                bail!(Advice::new(
                    what,
                    format!(
                        "its log is {}",
                        self.folder.logs().join(format!("{}.log", device.name)).display()
                    )
                ))
            }
        }
    }
}

fn installed(row: &mut report::Device, measured: &Measured) {
    let installed = &measured.installed;
    row.variant.clone_from(&installed.variant);
    row.release.clone_from(&installed.manifest);
    row.weights_sha256.clone_from(&installed.weights_sha256);
    row.adapter_sha256.clone_from(&installed.adapter_sha256);
}

/// Loss and exact-match rate for people.
pub(super) fn figures(loss: Option<f64>, exact_match: Option<f64>) -> String {
    let loss = loss.map(|loss| format!("loss {loss:.3}"));
    let exact = exact_match.map(|rate| format!("exact {:.0} %", rate * 100.0));
    loss.into_iter().chain(exact).collect::<Vec<_>>().join(", ")
}

fn round(summary: &v1::RoundSummary, answers: bool) -> Round {
    Round {
        round: summary.round,
        loss: summary.loss_nats_per_token,
        exact_match: answers.then_some(summary.exact_match),
        epsilon: summary.epsilon,
        accepted: summary.accepted,
    }
}
