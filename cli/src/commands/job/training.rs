//! How a federated job trains, and what it may cost.

use clap::Args;
use fieldfare_proto::v1;

use crate::args::{at_least_one, not_negative, positive, probability, rate, real, seconds};

/// How a federated job trains, and what it may cost.
#[derive(Clone, Debug, Args)]
pub struct Training {
    /// The privacy budget of each device's data. A job without a budget is not started.
    #[arg(long, default_value_t = 8.0, value_parser = positive, allow_negative_numbers = true)]
    pub epsilon: f64,
    /// Probability that the guarantee does not hold.
    #[arg(long, default_value_t = 1e-5, value_parser = probability, allow_negative_numbers = true)]
    pub delta: f64,
    /// Rounds.
    #[arg(long, default_value_t = 5, value_parser = at_least_one)]
    pub rounds: u32,
    /// Local steps in each round.
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    pub steps: u32,
    /// Probability with which an example takes part in a step.
    #[arg(long, default_value_t = 0.16, value_parser = rate, allow_negative_numbers = true)]
    pub sampling_rate: f64,
    /// Norm that each example's gradient is clipped to.
    #[arg(long, default_value_t = 0.5, value_parser = positive, allow_negative_numbers = true)]
    pub clip_norm: f64,
    /// Standard deviation of the noise, in clipping norms; what the budget allows when not given.
    #[arg(long, value_parser = positive, allow_negative_numbers = true)]
    pub noise_multiplier: Option<f64>,
    /// How many examples each device is taken to have: a public constant, never counted.
    #[arg(long, default_value_t = 200, value_parser = at_least_one)]
    pub examples_per_device: u32,
    /// Step size of the local optimiser.
    #[arg(long, default_value_t = 0.03, value_parser = not_negative, allow_negative_numbers = true)]
    pub learning_rate: f64,
    /// Rank of the adapter.
    #[arg(long, default_value_t = 4, value_parser = at_least_one)]
    pub rank: u32,
    /// Scale of the adapter, times the rank.
    #[arg(long, default_value_t = 8.0, value_parser = positive, allow_negative_numbers = true)]
    pub alpha: f64,
    /// Longest example, in tokens; the rest is cut off.
    #[arg(long, default_value_t = 128, value_parser = at_least_one)]
    pub max_sequence_tokens: u32,
    /// Devices that a round invites.
    #[arg(long, default_value_t = 100, value_parser = at_least_one)]
    pub cohort: u32,
    /// Contributions without which a round is tried again.
    #[arg(long, default_value_t = 2, value_parser = at_least_one)]
    pub quorum: u32,
    /// Seconds until a round closes.
    #[arg(long, value_parser = seconds, default_value = "600")]
    pub round_deadline: std::time::Duration,
    /// Tries of one round before the job fails.
    #[arg(long, default_value_t = 3, value_parser = at_least_one)]
    pub attempts: u32,
    /// Seed of the adapter's fixed factor and of the choice of cohorts; privacy does not rest on it.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How much the loss must fall on the consented evaluation set, nats per token, on every variant in use.
    #[arg(long, default_value_t = 0.01, value_parser = real, allow_negative_numbers = true)]
    pub min_loss_gain: f64,
    /// How much the exact-match rate must rise over the base, and over always giving the most frequent answer.
    #[arg(long, default_value_t = 0.02, value_parser = real, allow_negative_numbers = true)]
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
            alpha: self.alpha as f32,
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
