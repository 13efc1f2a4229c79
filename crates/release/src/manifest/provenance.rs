//! How a release was made, in figures that somebody else can check.

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::names::VariantName;

/// How a release was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Provenance {
    /// From a GGUF file that somebody had.
    Import {
        /// Where it came from, as the operator named it: a path's last part, or `hf://owner/repo/file.gguf`.
        source: String,
        /// The digest of the imported file.
        sha256: Sha256Digest,
    },
    /// From a federated job on the release's `base`.
    Federated {
        /// The job.
        job: String,
        /// Number of contributions in the accepted set of each committed round, in order.
        cohorts: Vec<u32>,
        /// How contributions became one update.
        aggregation: AggregationRule,
        /// What each participant's data paid; absent only for a job that ran without noise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        privacy: Option<PrivacyStatement>,
        /// Number of tokens that the losses below are means over.
        evaluation_tokens: u64,
        /// Each evaluated variant before and after the job, on the job's consented evaluation set.
        evaluation: Vec<VariantEvaluation>,
    },
}

/// How the contributions of a round became one update.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AggregationRule {
    /// The exact sum over the accepted set, divided by its size: every device weighs the same.
    Mean,
}

/// One release's privacy statement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivacyStatement {
    /// Whose presence is hidden.
    pub unit: PrivacyUnit,
    /// The bound, for the participant that paid most.
    pub epsilon: f64,
    /// The probability with which the bound may fail.
    pub delta: f64,
    /// How epsilon was computed from the mechanism.
    pub accountant: Accountant,
    /// What ran on each device, over the whole job.
    pub mechanism: Mechanism,
}

/// Whose presence a privacy statement hides.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrivacyUnit {
    /// One training example of one device.
    Example,
    /// All examples of one device.
    Device,
}

/// How an epsilon was computed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accountant {
    /// Rényi differential privacy.
    Rdp,
    /// The privacy loss distribution.
    Pld,
}

/// The Poisson-subsampled Gaussian mechanism of DP-SGD.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mechanism {
    /// Probability q that an example takes part in a step, in (0, 1].
    pub sampling_rate: f64,
    /// Noise standard deviation sigma as a multiple of the clipping norm.
    pub noise_multiplier: f64,
    /// Number of steps of the whole job.
    pub steps: u32,
    /// Clipping norm C of one example's gradient, over all trained tensors jointly.
    pub clip_norm: f64,
}

/// One variant before and after a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantEvaluation {
    /// The variant.
    pub variant: VariantName,
    /// The base release.
    pub before: Evaluation,
    /// This release.
    pub after: Evaluation,
}

/// The result of one evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Mean loss, in nats per token.
    pub loss: f64,
    /// Rate of completions that equal the expected text, in [0, 1], where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact_match: Option<f64>,
}
