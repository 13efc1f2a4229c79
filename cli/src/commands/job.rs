//! `fieldfare job`: federated jobs, and imports.

use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};
use fieldfare_proto::v1;
use serde::Serialize;

use super::{Session, release};
use crate::args::{Format, seconds};
use crate::client::refused;
use crate::clock;
use crate::limits::MAX_TEXT_BYTES;
use crate::output::{note, show, since, table};

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Starts rounds of private training on a deployment's devices.
    Start(Box<Start>),
    /// Shows a job.
    Status {
        /// The job.
        job: String,
    },
    /// Follows a job until it ends.
    Watch {
        /// The job.
        job: String,
    },
    /// Stops a job; nothing of it is published.
    Cancel {
        /// The job.
        job: String,
    },
    /// Lists jobs.
    List,
}

/// Arguments of `job start`.
#[derive(Clone, Debug, Args)]
pub struct Start {
    /// Name of the job; made from the deployment's when not given.
    #[arg(long)]
    pub name: Option<String>,
    /// The deployment whose devices train, on top of the release that they run.
    #[arg(long)]
    pub deployment: String,
    /// The consented evaluation set: JSONL. The trainer sees it; nothing else leaves a device but contributions.
    #[arg(long)]
    pub evaluation: PathBuf,
    /// How it trains, and what it may cost.
    #[command(flatten)]
    pub training: Training,
    /// Return at once rather than follow the job.
    #[arg(long)]
    pub detach: bool,
}

/// How a federated job trains, and what it may cost.
#[derive(Clone, Debug, Args)]
pub struct Training {
    /// The privacy budget of each device's data. A job without a budget is not started.
    #[arg(long, default_value_t = 8.0)]
    pub epsilon: f64,
    /// Probability that the guarantee does not hold.
    #[arg(long, default_value_t = 1e-5)]
    pub delta: f64,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Local steps in each round.
    #[arg(long, default_value_t = 8)]
    pub steps: u32,
    /// Probability with which an example takes part in a step.
    #[arg(long, default_value_t = 0.16)]
    pub sampling_rate: f64,
    /// Norm that each example's gradient is clipped to.
    #[arg(long, default_value_t = 0.5)]
    pub clip_norm: f64,
    /// Standard deviation of the noise, in clipping norms; what the budget allows when not given.
    #[arg(long)]
    pub noise_multiplier: Option<f64>,
    /// How many examples each device is taken to have: a public constant, never counted.
    #[arg(long, default_value_t = 200)]
    pub examples_per_device: u32,
    /// Step size of the local optimiser.
    #[arg(long, default_value_t = 0.03)]
    pub learning_rate: f64,
    /// Rank of the adapter.
    #[arg(long, default_value_t = 4)]
    pub rank: u32,
    /// Scale of the adapter, times the rank.
    #[arg(long, default_value_t = 8.0)]
    pub alpha: f32,
    /// Longest example, in tokens; the rest is cut off.
    #[arg(long, default_value_t = 128)]
    pub max_sequence_tokens: u32,
    /// Devices that a round invites.
    #[arg(long, default_value_t = 100)]
    pub cohort: u32,
    /// Contributions without which a round is tried again.
    #[arg(long, default_value_t = 2)]
    pub quorum: u32,
    /// Seconds until a round closes.
    #[arg(long, value_parser = seconds, default_value = "600")]
    pub round_deadline: std::time::Duration,
    /// Tries of one round before the job fails.
    #[arg(long, default_value_t = 3)]
    pub attempts: u32,
    /// Seed of the adapter's fixed factor and of the choice of cohorts; privacy does not rest on it.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How much the loss must fall on the consented evaluation set, nats per token, on every variant in use.
    #[arg(long, default_value_t = 0.01)]
    pub min_loss_gain: f64,
    /// How much the exact-match rate must rise over the base, and over always giving the most frequent answer.
    #[arg(long, default_value_t = 0.02)]
    pub min_exact_match_gain: f64,
}

impl Training {
    /// The job's specification.
    pub fn spec(&self, job: String, deployment: String, evaluation: v1::UploadedArtifact) -> v1::FederatedJobSpec {
        v1::FederatedJobSpec {
            job,
            deployment,
            rounds: self.rounds,
            rank: self.rank,
            alpha: self.alpha,
            steps_per_round: self.steps,
            sampling_rate: self.sampling_rate,
            clip_norm: self.clip_norm,
            noise_multiplier: self.noise_multiplier.unwrap_or(0.0),
            examples_per_device: self.examples_per_device,
            epsilon: self.epsilon,
            delta: self.delta,
            learning_rate: self.learning_rate,
            max_sequence_tokens: self.max_sequence_tokens,
            cohort: self.cohort,
            quorum: self.quorum,
            round_deadline_ms: u64::try_from(self.round_deadline.as_millis()).unwrap_or(u64::MAX),
            seed: self.seed,
            evaluation: Some(evaluation),
            gate: Some(v1::EvaluationGate {
                min_loss_gain: self.min_loss_gain,
                min_exact_match_gain: self.min_exact_match_gain,
            }),
            attempts_per_round: self.attempts,
        }
    }
}

#[derive(Serialize)]
struct View {
    name: String,
    kind: &'static str,
    stage: &'static str,
    reason: String,
    trainer: String,
    manifest_target: String,
    rounds: Vec<RoundView>,
    evaluations: Vec<EvaluationView>,
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
}

#[derive(Serialize)]
struct EvaluationView {
    variant: String,
    passed: bool,
    reason: String,
    loss_before: f64,
    loss_after: f64,
    exact_match_before: f64,
    exact_match_after: f64,
    majority_exact_match: f64,
    examples: u32,
}

#[derive(Serialize)]
struct IneligibleView {
    device_id: String,
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

/// Whether nothing more will happen to a job.
pub fn is_over(job: &v1::Job) -> bool {
    matches!(
        job.stage(),
        v1::JobStage::Succeeded | v1::JobStage::Refused | v1::JobStage::Failed | v1::JobStage::Cancelled
    )
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
        };
        let evaluation = |evaluation: v1::VariantEvaluation| EvaluationView {
            variant: evaluation.variant,
            passed: evaluation.passed,
            reason: evaluation.reason,
            loss_before: evaluation.loss_before,
            loss_after: evaluation.loss_after,
            exact_match_before: evaluation.exact_match_before,
            exact_match_after: evaluation.exact_match_after,
            majority_exact_match: evaluation.majority_exact_match,
            examples: evaluation.examples,
        };
        let ineligible = |device: v1::IneligibleDevice| IneligibleView {
            device_id: device.device_id,
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
            evaluations: job.evaluations.into_iter().map(evaluation).collect(),
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
        if !self.evaluations.is_empty() {
            parts.push(table(
                ["variant", "gate", "loss", "exact match", "most frequent answer", "why"],
                self.evaluations.iter().map(|evaluation| {
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
            ));
        }
        parts.extend(
            self.ineligible
                .iter()
                .map(|device| format!("not invited: {}: {}", device.device_id, device.reason)),
        );
        parts.join("\n")
    }
}

/// One round, as it is told when it is committed.
pub fn round_line(round: &v1::RoundSummary, rounds: u32) -> String {
    format!(
        "round {}/{rounds}: loss {:.3}, exact match {:.1} %, epsilon {:.2}, {} of {} devices",
        round.round,
        round.loss_nats_per_token,
        round.exact_match * 100.0,
        round.epsilon,
        round.accepted,
        round.cohort
    )
}

/// Prints a job.
///
/// # Errors
/// Standard output is closed.
pub fn print(format: Format, job: v1::Job) -> Result<()> {
    show(format, &View::of(job), View::details)
}

/// A job, now.
///
/// # Errors
/// There is none.
pub async fn get(session: &Session, name: &str) -> Result<v1::Job> {
    let request = v1::GetJobRequest { name: name.to_owned() };
    session
        .client
        .call(request, |mut api, request| async move { api.get_job(request).await })
        .await
}

/// Follows a job until it ends, telling each change.
///
/// # Errors
/// There is no such job, or the controller goes.
pub async fn follow_with(session: &Session, name: &str, mut tell: impl FnMut(&str)) -> Result<v1::Job> {
    let request = v1::GetJobRequest { name: name.to_owned() };
    let mut changes = session
        .client
        .streams()
        .watch_job(request)
        .await
        .map_err(refused)?
        .into_inner();
    let mut rounds = 0;
    let mut said = String::new();
    while let Some(job) = changes.message().await.map_err(refused)? {
        let total = job.federated.as_ref().map_or(0, |spec| spec.rounds);
        for round in job.rounds.iter().skip(rounds) {
            tell(&round_line(round, total));
        }
        rounds = job.rounds.len();
        let now = standing(&job);
        if now != said {
            tell(&now);
            said = now;
        }
        if is_over(&job) {
            return Ok(job);
        }
    }
    bail!("the controller ended the watch before the job was over; `fieldfare job watch {name}` goes on")
}

fn standing(job: &v1::Job) -> String {
    let progress = match &job.import_progress {
        Some(progress) if progress.total > 0 => format!("{} {} of {}", progress.stage, progress.done, progress.total),
        Some(progress) => progress.stage.clone(),
        None => String::new(),
    };
    let parts = [stage(job.stage()), &progress, &job.reason];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    format!("{}: {}", job.name, parts.join(", "))
}

/// Follows a job until it ends, on standard error.
///
/// # Errors
/// There is no such job, or the controller goes.
pub async fn follow(session: &Session, name: &str) -> Result<v1::Job> {
    follow_with(session, name, |line| note(line)).await
}

/// The job, if it did what it should.
///
/// # Errors
/// It failed, was cancelled, or its candidate was refused by the evaluation gate: exit code 3.
pub fn succeeded(job: v1::Job) -> Result<v1::Job> {
    match job.stage() {
        v1::JobStage::Succeeded => Ok(job),
        v1::JobStage::Refused => Err(crate::exit::refused(format!(
            "the evaluation gate refused {}: {}",
            job.name, job.reason
        ))),
        other => Err(anyhow!("job {} {}: {}", job.name, stage(other), job.reason)),
    }
}

/// Uploads the evaluation set and starts a federated job.
///
/// # Errors
/// The file is missing, or the controller refuses.
pub async fn start(session: &Session, start: &Start) -> Result<v1::Job> {
    let evaluation = release::upload(session, &start.evaluation, MAX_TEXT_BYTES).await?;
    let name = start
        .name
        .clone()
        .unwrap_or_else(|| format!("{}-{}", start.deployment, clock::now().unix_ms() / 1000));
    let request = v1::StartJobRequest {
        spec: Some(start.training.spec(name, start.deployment.clone(), evaluation)),
    };
    session
        .client
        .call(request, |mut api, request| async move { api.start_job(request).await })
        .await
}

/// Does it.
///
/// # Errors
/// What the controller says, or a job that did not succeed.
pub async fn run(session: &Session, action: Action) -> Result<()> {
    match action {
        Action::Start(arguments) => {
            let job = start(session, &arguments).await?;
            if arguments.detach {
                return print(session.format, job);
            }
            let ended = follow(session, &job.name).await?;
            print(session.format, ended.clone())?;
            succeeded(ended).map(|_| ())
        }
        Action::Status { job } => print(session.format, get(session, &job).await?),
        Action::Watch { job } => {
            let ended = follow(session, &job).await?;
            print(session.format, ended.clone())?;
            succeeded(ended).map(|_| ())
        }
        Action::Cancel { job } => {
            let request = v1::CancelJobRequest { name: job };
            let job = session
                .client
                .call(request, |mut api, request| async move { api.cancel_job(request).await })
                .await?;
            print(session.format, job)
        }
        Action::List => {
            let request = v1::ListJobsRequest {};
            let answer = session
                .client
                .call(request, |mut api, request| async move { api.list_jobs(request).await });
            let views: Vec<View> = answer.await?.jobs.into_iter().map(View::of).collect();
            show(session.format, &views, |views| {
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
    }
}
