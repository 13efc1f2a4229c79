//! A job, as people and programs see it.

use anyhow::Result;
use fieldfare_proto::v1;
use serde::Serialize;

use crate::args::Format;
use crate::clock;
use crate::output::{show, since, table};

#[derive(Serialize)]
struct View {
    name: String,
    kind: &'static str,
    stage: &'static str,
    reason: String,
    trainer: String,
    manifest_target: String,
    rounds: Vec<RoundView>,
    evaluations: Vec<Evaluation>,
    ineligible: Vec<IneligibleView>,
    created_unix_ms: i64,
    updated_unix_ms: i64,
}

#[derive(Serialize)]
struct RoundView {
    round: u32,
    attempt: u32,
    cohort: u32,
    accepted: u32,
    dropped: u32,
    loss_nats_per_token: f64,
    exact_match: f64,
    epsilon: f64,
    duration_ms: u64,
    turned_away: Vec<TurnedAwayView>,
}

/// Why contributions to a round were turned away, and whose.
#[derive(Serialize)]
struct TurnedAwayView {
    reason: String,
    devices: u32,
    /// The first of them.
    device_ids: Vec<String>,
}

impl From<v1::TurnedAway> for TurnedAwayView {
    fn from(turned_away: v1::TurnedAway) -> Self {
        Self {
            reason: turned_away.reason,
            devices: turned_away.devices,
            device_ids: turned_away.device_ids,
        }
    }
}

impl TurnedAwayView {
    fn line(&self, round: u32) -> String {
        let more = self.devices as usize > self.device_ids.len();
        format!(
            "round {round}: {} turned away for {}: {}{}",
            self.devices,
            self.reason,
            self.device_ids.join(", "),
            if more { ", ..." } else { "" }
        )
    }
}

/// What the evaluation gate found of one variant in use.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Its name.
    pub variant: String,
    /// Whether it may be published.
    pub passed: bool,
    /// Why not.
    pub reason: String,
    /// Nats per token on the consented evaluation set, before the job.
    pub loss_before: f64,
    /// Nats per token after it.
    pub loss_after: f64,
    /// Rate of exact answers before the job, 0 to 1.
    pub exact_match_before: f64,
    /// Rate of exact answers after it.
    pub exact_match_after: f64,
    /// Rate of exact answers of somebody who always gives the most frequent one.
    pub majority_exact_match: f64,
    /// Examples that were measured.
    pub examples: u32,
}

impl From<v1::VariantEvaluation> for Evaluation {
    fn from(evaluation: v1::VariantEvaluation) -> Self {
        Self {
            variant: evaluation.variant,
            passed: evaluation.passed,
            reason: evaluation.reason,
            loss_before: evaluation.loss_before,
            loss_after: evaluation.loss_after,
            exact_match_before: evaluation.exact_match_before,
            exact_match_after: evaluation.exact_match_after,
            majority_exact_match: evaluation.majority_exact_match,
            examples: evaluation.examples,
        }
    }
}

#[derive(Serialize)]
struct IneligibleView {
    device_id: String,
    name: String,
    reason: String,
}

/// A job's stage in words.
pub fn stage(stage: v1::JobStage) -> &'static str {
    match stage {
        v1::JobStage::Waiting => "waiting",
        v1::JobStage::Running => "running",
        v1::JobStage::Evaluating => "evaluating",
        v1::JobStage::Succeeded => "succeeded",
        v1::JobStage::Refused => "refused",
        v1::JobStage::Failed => "failed",
        v1::JobStage::Cancelled => "cancelled",
        v1::JobStage::Unspecified => "unknown",
    }
}

impl View {
    fn of(job: v1::Job) -> Self {
        let round = |round: v1::RoundSummary| RoundView {
            round: round.round,
            attempt: round.attempt,
            cohort: round.cohort,
            accepted: round.accepted,
            dropped: round.dropped,
            loss_nats_per_token: round.loss_nats_per_token,
            exact_match: round.exact_match,
            epsilon: round.epsilon,
            duration_ms: round.duration_ms,
            turned_away: round.turned_away.into_iter().map(TurnedAwayView::from).collect(),
        };
        let ineligible = |device: v1::IneligibleDevice| IneligibleView {
            device_id: device.device_id,
            name: device.name,
            reason: device.reason,
        };
        Self {
            kind: match job.kind() {
                v1::JobKind::Import => "import",
                v1::JobKind::Federated => "federated",
                v1::JobKind::Unspecified => "unknown",
            },
            stage: stage(job.stage()),
            name: job.name,
            reason: job.reason,
            trainer: job.trainer,
            manifest_target: job.manifest_target,
            rounds: job.rounds.into_iter().map(round).collect(),
            evaluations: job.evaluations.into_iter().map(Evaluation::from).collect(),
            ineligible: job.ineligible.into_iter().map(ineligible).collect(),
            created_unix_ms: job.created_unix_ms,
            updated_unix_ms: job.updated_unix_ms,
        }
    }

    fn details(&self) -> String {
        let mut parts = vec![
            format!("{} ({}): {} {}", self.name, self.kind, self.stage, self.reason)
                .trim_end()
                .to_owned(),
        ];
        if !self.manifest_target.is_empty() {
            parts.push(format!("release {}", self.manifest_target));
        }
        if !self.rounds.is_empty() {
            parts.push(table(
                ["round", "devices", "loss", "exact match", "epsilon"],
                self.rounds.iter().map(|round| {
                    [
                        round.round.to_string(),
                        format!("{} of {}", round.accepted, round.cohort),
                        format!("{:.4}", round.loss_nats_per_token),
                        format!("{:.1} %", round.exact_match * 100.0),
                        format!("{:.3}", round.epsilon),
                    ]
                }),
            ));
        }
        for round in &self.rounds {
            parts.extend(
                round
                    .turned_away
                    .iter()
                    .map(|turned_away| turned_away.line(round.round)),
            );
        }
        if !self.evaluations.is_empty() {
            parts.push(gate(&self.evaluations));
        }
        parts.extend(
            self.ineligible
                .iter()
                .map(|device| format!("not invited: {}: {}", device.name, device.reason)),
        );
        parts.join("\n")
    }
}

/// What the evaluation gate says of each variant in use.
pub fn gate(evaluations: &[Evaluation]) -> String {
    table(
        ["variant", "gate", "loss", "exact match", "most frequent answer", "why"],
        evaluations.iter().map(|evaluation| {
            [
                evaluation.variant.clone(),
                if evaluation.passed { "passed" } else { "refused" }.to_owned(),
                format!("{:.4} -> {:.4}", evaluation.loss_before, evaluation.loss_after),
                format!(
                    "{:.1} -> {:.1} %",
                    evaluation.exact_match_before * 100.0,
                    evaluation.exact_match_after * 100.0
                ),
                format!("{:.1} %", evaluation.majority_exact_match * 100.0),
                evaluation.reason.clone(),
            ]
        }),
    )
}

/// Prints a job.
///
/// # Errors
/// Standard output is closed.
pub fn print(format: Format, job: v1::Job) -> Result<()> {
    show(format, &View::of(job), View::details)
}

/// Prints jobs, one a line.
pub(super) fn print_all(format: Format, jobs: Vec<v1::Job>) -> Result<()> {
    let views: Vec<View> = jobs.into_iter().map(View::of).collect();
    show(format, &views, |views| {
        table(
            ["job", "kind", "stage", "rounds", "changed", "release"],
            views.iter().map(|view| {
                [
                    view.name.clone(),
                    view.kind.to_owned(),
                    view.stage.to_owned(),
                    view.rounds.len().to_string(),
                    since(clock::now(), view.updated_unix_ms),
                    view.manifest_target.clone(),
                ]
            }),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_status_names_who_lied_in_which_round_and_how() {
        let liars = v1::TurnedAway {
            reason: "entries out of range".to_owned(),
            devices: 3,
            device_ids: vec!["a".to_owned(), "b".to_owned()],
        };
        let round = v1::RoundSummary {
            round: 2,
            turned_away: vec![liars],
            ..v1::RoundSummary::default()
        };
        let job = v1::Job {
            rounds: vec![round],
            ..v1::Job::default()
        };
        let text = View::of(job).details();
        let expected = "round 2: 3 turned away for entries out of range: a, b, ...";
        assert!(text.lines().any(|line| line == expected), "{text}");
    }
}
