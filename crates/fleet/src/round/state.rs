//! What is kept of a job: plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::event::{AbandonCause, Decline};
use super::spec::{JobSpec, JobSpecError};
use crate::{Attempt, DeviceId, Digest, NatsPerToken, RoundId, RoundNumber, Timestamp, VariantName};

/// What is known of a device in a cohort.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CohortMember {
    /// It was invited.
    Invited,
    /// It takes part.
    Training,
    /// It contributed these bytes.
    Contributed(Digest),
    /// It declined.
    Declined(Decline),
    /// It was lost. A contribution that still comes in time counts.
    Lost,
}

/// Where a round is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum RoundPhase {
    /// Waiting for the first tick, or after an abandoned attempt.
    Waiting {
        /// When the next attempt begins.
        until: Timestamp,
    },
    /// Looking for a cohort.
    Selecting {
        /// When it must have been found.
        deadline: Timestamp,
        /// How many devices are eligible.
        eligible: u32,
        /// Those of them that come first in the order of this attempt, at most a cohort.
        candidates: BTreeSet<DeviceId>,
    },
    /// The configuration is being signed.
    Configuring {
        /// When it must have been signed.
        deadline: Timestamp,
        /// The cohort.
        cohort: BTreeMap<DeviceId, CohortMember>,
    },
    /// Devices are training and contributing.
    Collecting {
        /// When collecting ends.
        deadline: Timestamp,
        /// Digest of the signed configuration.
        configuration: Digest,
        /// The cohort.
        cohort: BTreeMap<DeviceId, CohortMember>,
    },
    /// The accepted set is fixed and being summed.
    Aggregating {
        /// When it must have been summed.
        deadline: Timestamp,
        /// The accepted set.
        accepted: BTreeMap<DeviceId, Digest>,
    },
    /// The aggregate is being evaluated.
    Evaluating {
        /// When it must have been evaluated.
        deadline: Timestamp,
        /// The accepted set.
        accepted: BTreeMap<DeviceId, Digest>,
    },
}

impl RoundPhase {
    /// The name of the phase.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Waiting { .. } => "waiting",
            Self::Selecting { .. } => "selecting",
            Self::Configuring { .. } => "configuring",
            Self::Collecting { .. } => "collecting",
            Self::Aggregating { .. } => "aggregating",
            Self::Evaluating { .. } => "evaluating",
        }
    }

    /// When the phase ends by itself.
    pub const fn deadline(&self) -> Timestamp {
        match self {
            Self::Waiting { until } => *until,
            Self::Selecting { deadline, .. }
            | Self::Configuring { deadline, .. }
            | Self::Collecting { deadline, .. }
            | Self::Aggregating { deadline, .. }
            | Self::Evaluating { deadline, .. } => *deadline,
        }
    }
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum JobFailure {
    /// Every attempt at a round was abandoned.
    RoundAbandoned {
        /// The last attempt.
        round: RoundId,
        /// Why it was abandoned.
        cause: AbandonCause,
    },
    /// The rounds are done, and a variant has not gained what publishing asks for.
    NoGain {
        /// The variant.
        variant: VariantName,
        /// Its loss before the first round.
        before: NatsPerToken,
        /// Its loss after the last round.
        after: NatsPerToken,
        /// Gain needed, in nats per token.
        needed: f64,
    },
}

impl fmt::Display for JobFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoundAbandoned { round, cause } => write!(f, "round {round} abandoned for the last time: {cause}"),
            Self::NoGain {
                variant,
                before,
                after,
                needed,
            } => {
                write!(
                    f,
                    "loss of {variant} went from {before} to {after}; a gain of {needed} nats is needed to publish"
                )
            }
        }
    }
}

/// Where a job is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum JobPhase {
    /// A round is under way.
    Running {
        /// Where the round is.
        round: RoundPhase,
    },
    /// Every round is committed and the result may be published.
    Finished {
        /// When.
        at: Timestamp,
    },
    /// The operator ended it.
    Cancelled {
        /// When.
        at: Timestamp,
        /// Who.
        by: String,
    },
    /// It failed, and nothing is published.
    Failed {
        /// When.
        at: Timestamp,
        /// Why.
        failure: JobFailure,
    },
}

impl JobPhase {
    /// The name of the phase.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Running { .. } => "running",
            Self::Finished { .. } => "finished",
            Self::Cancelled { .. } => "cancelled",
            Self::Failed { .. } => "failed",
        }
    }
}

/// What is kept of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct JobState {
    /// What it is made of.
    pub spec: JobSpec,
    /// The round under way, or the last one.
    pub round: RoundNumber,
    /// The attempt under way, or the last one.
    pub attempt: Attempt,
    /// Where it is.
    pub phase: JobPhase,
    /// Losses before the first round, by variant.
    pub first_losses: BTreeMap<VariantName, NatsPerToken>,
    /// Losses after the last committed round, by variant.
    pub last_losses: BTreeMap<VariantName, NatsPerToken>,
}

impl JobState {
    /// A job whose first round begins with the first tick, which is due now.
    ///
    /// # Errors
    /// [`JobSpecError`] where the job cannot work.
    pub fn begin(spec: JobSpec, now: Timestamp) -> Result<Self, JobSpecError> {
        spec.validate()?;
        Ok(Self {
            spec,
            round: RoundNumber(1),
            attempt: Attempt(1),
            phase: JobPhase::Running {
                round: RoundPhase::Waiting { until: now },
            },
            first_losses: BTreeMap::new(),
            last_losses: BTreeMap::new(),
        })
    }

    /// A job that goes on after `committed` rounds, where another trainer or this one left it in `attempt` of the next round (0
    /// for none). That attempt `goes_on` where its configuration is here and its time is not over; otherwise another one takes its
    /// place, which is allowed whatever the specification says: nobody is to blame for a crash.
    ///
    /// # Errors
    /// [`JobSpecError`] where the job cannot work.
    pub fn resume(
        spec: JobSpec,
        committed: u32,
        attempt: u32,
        goes_on: impl FnOnce(&RoundId) -> bool,
        now: Timestamp,
    ) -> Result<Self, JobSpecError> {
        let mut job = Self::begin(spec, now)?;
        job.round = RoundNumber(committed.saturating_add(1));
        job.attempt = Attempt(attempt.max(1));
        if attempt > 0 && !goes_on(&job.round_id()) {
            job.attempt = Attempt(attempt.saturating_add(1));
            job.spec.max_attempts = job.spec.max_attempts.max(job.attempt.0);
        }
        Ok(job)
    }

    /// The round and attempt under way, or the last one.
    pub fn round_id(&self) -> RoundId {
        RoundId {
            job: self.spec.job.clone(),
            round: self.round,
            attempt: self.attempt,
        }
    }
}
