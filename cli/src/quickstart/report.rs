//! What a run says of itself at its end: the one JSON object of `--output json`. Field names are stable.

use serde::Serialize;

use crate::commands::job::Evaluation;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything happened.
    Succeeded,
    /// A gate said no; nothing was published.
    Refused,
    /// Something broke.
    Failed,
    /// Somebody asked it to stop.
    Interrupted,
}

/// A run, from its first process to its last.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// Why it ended so, where it did not succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The folder of this run.
    pub dir: String,
    /// Whether the processes still run.
    pub kept: bool,
    /// Which variant each device runs, and why no other.
    pub placement: Vec<Placement>,
    /// The rollouts, in order.
    pub rollouts: Vec<Rollout>,
    /// The rounds of the federated job, in order.
    pub rounds: Vec<Round>,
    /// What the trainer measured of the candidate, on each variant in use.
    pub evaluations: Vec<Evaluation>,
    /// The release that the job made; null where it was refused.
    pub release: Option<Release>,
    /// One question, asked before and after.
    pub answers: Option<Answers>,
    /// Each device before and after, measured by its serving process on its own held-out examples.
    pub devices: Vec<Device>,
    /// Time of each stage.
    pub stages: Vec<StageTime>,
    /// Every process that the run started.
    pub processes: Vec<StartedProcess>,
}

/// Which variant a device runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Placement {
    /// Its name.
    pub device: String,
    /// The machine whose figures it has; empty where it measured itself.
    pub emulated: String,
    /// The chosen variant; null where none can run.
    pub variant: Option<String>,
    /// Predicted speed of the chosen variant.
    pub tokens_per_second: Option<f64>,
    /// Predicted memory of the chosen variant.
    pub memory_bytes: Option<u64>,
    /// The variants that it cannot run.
    pub refused: Vec<Refusal>,
}

/// Why a variant cannot run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refusal {
    /// The variant.
    pub variant: String,
    /// One sentence each, with the numbers.
    pub reasons: Vec<String>,
}

/// A rollout and how it ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rollout {
    /// Target name of the release's manifest.
    pub release: String,
    /// `completed`, `rolled_back` and so on.
    pub phase: &'static str,
}

/// A round of the federated job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Round {
    /// Counted from 1.
    pub round: u32,
    /// On the consented evaluation set, in nats per token.
    pub loss: f64,
    /// Share of the evaluation set that is answered exactly; null where it has no completions.
    pub exact_match: Option<f64>,
    /// Spent by a device that took part in every round so far.
    pub epsilon: f64,
    /// Contributions in the aggregate.
    pub accepted: u32,
}

/// The release that the job made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Release {
    /// Target name of its manifest.
    pub manifest_target: String,
    /// SHA-256 of its manifest, hexadecimal.
    pub sha256: String,
}

/// One question, asked before and after.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answers {
    /// The question.
    pub prompt: String,
    /// The device that was asked.
    pub device: String,
    /// What the first release answered.
    pub before: Answer,
    /// What the new release answered; null where there is none.
    pub after: Option<Answer>,
}

/// What a device answered.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// Geometric mean of the token probabilities.
    pub confidence: f64,
    /// Speed of generation.
    pub tokens_per_second: f64,
}

/// A device before and after.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// The variant that it runs now.
    pub variant: String,
    /// Manifest of the release that it runs now.
    pub release: String,
    /// SHA-256 of the installed weights, hexadecimal.
    pub weights_sha256: String,
    /// SHA-256 of the installed adapter, hexadecimal; null without one.
    pub adapter_sha256: Option<String>,
    /// Held-out examples that it was measured on.
    pub held_out: u64,
    /// Nats per token before.
    pub loss_before: Option<f64>,
    /// Nats per token after.
    pub loss_after: Option<f64>,
    /// Share of exact answers before; null for plain text.
    pub exact_match_before: Option<f64>,
    /// Share of exact answers after.
    pub exact_match_after: Option<f64>,
}

/// Time of a stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageTime {
    /// Its name.
    pub name: &'static str,
    /// Wall time.
    pub seconds: f64,
}

/// A process that the run started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StartedProcess {
    /// What it was.
    pub name: String,
    /// Its process id.
    pub pid: u32,
}

impl Report {
    /// A run that has done nothing yet. Its outcome is [`Outcome::Failed`] until something better is known.
    pub fn new(dir: String) -> Self {
        Self {
            outcome: Outcome::Failed,
            reason: None,
            dir,
            kept: false,
            placement: Vec::new(),
            rollouts: Vec::new(),
            rounds: Vec::new(),
            evaluations: Vec::new(),
            release: None,
            answers: None,
            devices: Vec::new(),
            stages: Vec::new(),
            processes: Vec::new(),
        }
    }

    /// What is known of a device, by its name.
    pub fn device(&mut self, name: &str) -> &mut Device {
        let index = self
            .devices
            .iter()
            .position(|device| device.name == name)
            .unwrap_or_else(|| {
                self.devices.push(Device {
                    name: name.to_owned(),
                    ..Device::default()
                });
                self.devices.len() - 1
            });
        &mut self.devices[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_did_nothing_has_every_field_that_programs_read() {
        let json = serde_json::to_value(Report::new("run-1".to_owned())).unwrap();
        let fields = [
            "outcome",
            "dir",
            "kept",
            "placement",
            "rollouts",
            "rounds",
            "evaluations",
            "release",
            "answers",
        ];
        for field in fields.into_iter().chain(["devices", "stages", "processes"]) {
            assert!(json.get(field).is_some(), "{field}");
        }
        assert_eq!(json["outcome"], "failed");
        assert!(json["release"].is_null());
    }

    #[test]
    fn a_device_is_one_row_however_often_it_is_looked_up() {
        let mut report = Report::new(String::new());
        report.device("a").loss_before = Some(2.0);
        report.device("b").held_out = 3;
        report.device("a").loss_after = Some(1.0);
        assert_eq!(report.devices.len(), 2);
        assert_eq!(
            (report.devices[0].loss_before, report.devices[0].loss_after),
            (Some(2.0), Some(1.0))
        );
    }
}
