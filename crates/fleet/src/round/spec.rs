//! What a federated job is made of.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_ATTEMPTS, MAX_COHORT, MAX_CONTRIBUTION_BYTES, MAX_POLICY_SECONDS, MAX_ROUNDS};
use crate::time::duration_ms;
use crate::{ByteSize, DeploymentName, JobName};

/// What the evaluation of a round and of the whole job must show. Losses are in nats per token, on the job's consented
/// evaluation set, for every variant in use.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct EvaluationRule {
    /// A round whose aggregate raises the loss of a variant by more than this is abandoned; at least 0.
    pub max_round_increase: f64,
    /// The job publishes only if the loss of every variant has fallen by at least this since its start; at least 0.
    pub min_job_gain: f64,
}

/// What a federated job is made of. All numbers are public constants of the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct JobSpec {
    /// Its name.
    pub job: JobName,
    /// The deployment whose devices take part.
    pub deployment: DeploymentName,
    /// Rounds to commit, 1 to 10,000.
    pub rounds: u32,
    /// Devices invited to a round, 1 to 20,000.
    pub cohort: u32,
    /// Contributions that end the collecting of a round early, `quorum` to `cohort`.
    pub enough: u32,
    /// Contributions without which a round is abandoned, 1 to `enough`.
    pub quorum: u32,
    /// How long a round waits for a cohort.
    #[serde(rename = "select_within_ms", with = "duration_ms")]
    pub select_within: Duration,
    /// How long contributions are collected.
    #[serde(rename = "collect_within_ms", with = "duration_ms")]
    pub collect_within: Duration,
    /// How long the trainer may take to configure, to aggregate and to evaluate, each.
    #[serde(rename = "compute_within_ms", with = "duration_ms")]
    pub compute_within: Duration,
    /// Wait before another attempt at a round.
    #[serde(rename = "retry_after_ms", with = "duration_ms")]
    pub retry_after: Duration,
    /// Attempts at one round before the job fails, 1 to 16.
    pub max_attempts: u32,
    /// Public length of a contribution.
    pub contribution: ByteSize,
    /// What evaluation must show.
    pub evaluation: EvaluationRule,
    /// Decides the cohorts.
    pub seed: u64,
}

/// A job that cannot work: the field and what is expected of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobSpecError {
    /// A number lies outside its range.
    #[error("job field `{field}` is {value}; expected {least} to {most}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// The refused value.
        value: u64,
        /// Least accepted value.
        least: u64,
        /// Greatest accepted value.
        most: u64,
    },
    /// A bound on the loss is negative or not a number.
    #[error("job field `{field}` is {value}; expected a finite number of nats, at least 0")]
    Loss {
        /// The field.
        field: &'static str,
        /// The refused value as text.
        value: String,
    },
}

impl JobSpec {
    /// Refuses a job that cannot work.
    ///
    /// # Errors
    /// [`JobSpecError`] names the field.
    pub fn validate(&self) -> Result<(), JobSpecError> {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let longest = MAX_POLICY_SECONDS * 1000;
        let checks = [
            ("rounds", u64::from(self.rounds), 1, u64::from(MAX_ROUNDS)),
            ("cohort", u64::from(self.cohort), 1, u64::from(MAX_COHORT)),
            ("enough", u64::from(self.enough), 1, u64::from(self.cohort)),
            ("quorum", u64::from(self.quorum), 1, u64::from(self.enough)),
            ("select_within", ms(self.select_within), 1, longest),
            ("collect_within", ms(self.collect_within), 1, longest),
            ("compute_within", ms(self.compute_within), 1, longest),
            ("retry_after", ms(self.retry_after), 0, longest),
            ("max_attempts", u64::from(self.max_attempts), 1, u64::from(MAX_ATTEMPTS)),
            ("contribution", self.contribution.get(), 1, MAX_CONTRIBUTION_BYTES),
        ];
        if let Some((field, value, least, most)) = checks.into_iter().find(|(_, v, a, b)| !(a..=b).contains(&v)) {
            return Err(JobSpecError::OutOfRange {
                field,
                value,
                least,
                most,
            });
        }
        let rule = self.evaluation;
        let losses = [
            ("evaluation.max_round_increase", rule.max_round_increase),
            ("evaluation.min_job_gain", rule.min_job_gain),
        ];
        match losses.into_iter().find(|(_, value)| !value.is_finite() || *value < 0.0) {
            Some((field, value)) => Err(JobSpecError::Loss {
                field,
                value: value.to_string(),
            }),
            None => Ok(()),
        }
    }
}
