//! What a ledger writes down.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::accountant::Mechanism;
use crate::limits::{MAX_BUDGET_EPSILON, MAX_JOB_NAME_BYTES};
use crate::quantity::{Delta, Epsilon, QuantityError};

/// A job's name that the ledger does not keep.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the job's name has {bytes} bytes, expected 1 to {MAX_JOB_NAME_BYTES} printable ASCII characters without spaces"
)]
pub struct JobNameError {
    /// Length of the refused name.
    pub bytes: usize,
}

/// The name or id of a federated job, as its invitations state it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobName(String);

impl JobName {
    /// Accepts 1 to [`MAX_JOB_NAME_BYTES`] printable ASCII characters without spaces.
    ///
    /// # Errors
    /// [`JobNameError`] states the length.
    pub fn new(name: impl Into<String>) -> Result<Self, JobNameError> {
        let name = name.into();
        let valid = (1..=MAX_JOB_NAME_BYTES).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
        if valid {
            Ok(Self(name))
        } else {
            Err(JobNameError { bytes: name.len() })
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for JobName {
    type Error = JobNameError;

    fn try_from(name: String) -> Result<Self, JobNameError> {
        Self::new(name)
    }
}

impl From<JobName> for String {
    fn from(name: JobName) -> Self {
        name.0
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// One attempt at one round of one job: what is paid for at most once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChargeKey {
    /// The job.
    pub job: JobName,
    /// The round of the job.
    pub round: u64,
    /// The attempt at the round.
    pub attempt: u32,
}

impl fmt::Display for ChargeKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "job {} round {} attempt {}",
            self.job, self.round, self.attempt
        )
    }
}

/// One charge as the device stores it, durably, before the contribution that it pays for leaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChargeRecord {
    /// What was paid for.
    pub key: ChargeKey,
    /// The price.
    pub mechanism: Mechanism,
    /// When, by the device's clock, in milliseconds since 1970; for people, decides nothing.
    pub charged_at_unix_ms: u64,
}

/// A budget that promises nothing.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum BudgetError {
    /// A number outside its quantity's range.
    #[error(transparent)]
    Quantity(#[from] QuantityError),
    /// An epsilon so large that it is no promise.
    #[error("the budget's epsilon is {given}, expected at most {MAX_BUDGET_EPSILON}")]
    Epsilon {
        /// What was given.
        given: f64,
    },
}

/// The most that a device's data may pay, over all jobs and all time: the device's own setting, whatever a server says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedBudget", into = "UncheckedBudget")]
pub struct Budget {
    epsilon: Epsilon,
    delta: Delta,
}

impl Budget {
    /// A budget; an epsilon of 0 allows nothing.
    ///
    /// # Errors
    /// [`BudgetError::Epsilon`] when epsilon is above [`MAX_BUDGET_EPSILON`].
    pub fn new(epsilon: Epsilon, delta: Delta) -> Result<Self, BudgetError> {
        if epsilon.get() > MAX_BUDGET_EPSILON {
            return Err(BudgetError::Epsilon { given: epsilon.get() });
        }
        Ok(Self { epsilon, delta })
    }

    /// The same, from plain numbers as a configuration states them.
    ///
    /// # Errors
    /// [`BudgetError`] names the number that is impossible.
    pub fn from_numbers(epsilon: f64, delta: f64) -> Result<Self, BudgetError> {
        Self::new(Epsilon::new(epsilon)?, Delta::new(delta)?)
    }

    /// The largest epsilon.
    #[must_use]
    pub fn epsilon(&self) -> Epsilon {
        self.epsilon
    }

    /// The delta at which epsilon is stated.
    #[must_use]
    pub fn delta(&self) -> Delta {
        self.delta
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedBudget {
    epsilon: Epsilon,
    delta: Delta,
}

impl TryFrom<UncheckedBudget> for Budget {
    type Error = BudgetError;

    fn try_from(unchecked: UncheckedBudget) -> Result<Self, BudgetError> {
        Self::new(unchecked.epsilon, unchecked.delta)
    }
}

impl From<Budget> for UncheckedBudget {
    fn from(Budget { epsilon, delta }: Budget) -> Self {
        Self { epsilon, delta }
    }
}
