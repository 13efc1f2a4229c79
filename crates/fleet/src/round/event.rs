//! What a job is told, and what it answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::state::JobFailure;
use crate::{ByteSize, DeviceId, Digest, NatsPerToken, RoundId, VariantName};

/// Why a device declines a round that it was invited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decline {
    /// The owner has not consented.
    NoConsent,
    /// The ledger cannot pay.
    BudgetSpent,
    /// The idle policy says no.
    Busy,
    /// Training does not fit in memory.
    TooLittleMemory,
    /// The device has too few examples.
    TooFewExamples,
    /// The signed configuration is not acceptable to the device.
    Configuration,
    /// Training or the upload failed.
    TrainingFailed,
    /// The ticket is not good on the device.
    Ticket,
    /// The device serves another release than the one that is trained.
    WrongBase,
    /// It gave no reason, or none that is known.
    Unexplained,
}

/// Loss of a variant on the evaluation set before and after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct VariantEvaluation {
    /// With what the round began from.
    pub before: NatsPerToken,
    /// With the round's aggregate.
    pub after: NatsPerToken,
}

/// What a job is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// These devices are eligible now.
    Eligible {
        /// The devices.
        devices: BTreeSet<DeviceId>,
    },
    /// The controller chose these devices: the round is as large as what it chose, and ends early when all of them have answered.
    Chosen {
        /// The devices.
        devices: BTreeSet<DeviceId>,
    },
    /// The round's configuration is signed and kept.
    Configured {
        /// The round.
        round: RoundId,
        /// Digest of the signed configuration; every later message carries it.
        configuration: Digest,
    },
    /// A device takes part.
    Joined {
        /// The round.
        round: RoundId,
        /// The device.
        device: DeviceId,
    },
    /// A device does not take part.
    Declined {
        /// The round.
        round: RoundId,
        /// The device.
        device: DeviceId,
        /// Why.
        reason: Decline,
    },
    /// A device was lost: its session ended, or it was revoked.
    Lost {
        /// The round.
        round: RoundId,
        /// The device.
        device: DeviceId,
    },
    /// A device's contribution has been stored.
    Contributed {
        /// The round.
        round: RoundId,
        /// The device.
        device: DeviceId,
        /// Digest of the configuration that the device trained under.
        configuration: Digest,
        /// Digest of the contribution's bytes.
        contribution: Digest,
        /// Length of the contribution.
        bytes: ByteSize,
    },
    /// The sum over the accepted set is computed and kept.
    Aggregated {
        /// The round.
        round: RoundId,
    },
    /// The aggregate has been evaluated on every variant in use.
    Evaluated {
        /// The round.
        round: RoundId,
        /// Losses by variant, at least one.
        variants: BTreeMap<VariantName, VariantEvaluation>,
    },
    /// The trainer could not configure, aggregate or evaluate.
    TrainerFailed {
        /// The round.
        round: RoundId,
        /// Why.
        detail: String,
    },
    /// Time has passed.
    Tick,
    /// The operator ends the job.
    Cancel {
        /// Who.
        by: String,
    },
}

/// Why a round is abandoned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum AbandonCause {
    /// Too few devices were eligible in time.
    TooFewEligible {
        /// Eligible devices.
        eligible: u32,
        /// Devices needed.
        quorum: u32,
    },
    /// Too few devices contributed, or can still contribute.
    TooFewContributions {
        /// Contributions.
        contributions: u32,
        /// Contributions needed.
        quorum: u32,
        /// Devices that declined, by reason.
        declined: BTreeMap<Decline, u32>,
    },
    /// The aggregate made a variant worse.
    LossRose {
        /// The variant.
        variant: VariantName,
        /// Its losses.
        evaluation: VariantEvaluation,
        /// Increase that is allowed, in nats per token.
        allowed: f64,
    },
    /// The trainer could not do its part.
    Trainer {
        /// Why.
        detail: String,
    },
    /// The operator ended the job.
    Cancelled {
        /// Who.
        by: String,
    },
    /// The trainer did not do its part in time.
    TrainerSilent {
        /// The phase in which it fell silent.
        phase: String,
    },
}

impl fmt::Display for AbandonCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFewEligible { eligible, quorum } => write!(f, "{eligible} devices eligible, {quorum} needed"),
            Self::TooFewContributions {
                contributions, quorum, ..
            } => write!(f, "{contributions} contributions, {quorum} needed"),
            Self::LossRose {
                variant,
                evaluation,
                allowed,
            } => {
                let VariantEvaluation { before, after } = evaluation;
                write!(
                    f,
                    "loss of {variant} rose from {before} to {after}, {allowed} more is allowed"
                )
            }
            Self::Trainer { detail } => write!(f, "trainer: {detail}"),
            Self::Cancelled { by } => write!(f, "cancelled by {by}"),
            Self::TrainerSilent { phase } => write!(f, "the trainer did not finish {phase} in time"),
        }
    }
}

/// What the shell does, after it has persisted the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Say which devices are eligible, now and whenever that changes, until the round has its cohort.
    FindEligible {
        /// The round.
        round: RoundId,
    },
    /// Sign the configuration of the round for this cohort.
    Configure {
        /// The round.
        round: RoundId,
        /// Devices to invite.
        cohort: BTreeSet<DeviceId>,
    },
    /// Invite the cohort.
    Invite {
        /// The round.
        round: RoundId,
        /// Digest of the signed configuration.
        configuration: Digest,
        /// Devices to invite.
        cohort: BTreeSet<DeviceId>,
    },
    /// Sum exactly these contributions.
    Aggregate {
        /// The round.
        round: RoundId,
        /// Devices and the digests of their contributions.
        accepted: BTreeMap<DeviceId, Digest>,
    },
    /// Evaluate the aggregate on every variant in use.
    Evaluate {
        /// The round.
        round: RoundId,
    },
    /// Make the aggregate what the next round begins from.
    Commit {
        /// The round.
        round: RoundId,
    },
    /// Tell the cohort that the round is over, and drop what it left.
    Abandon {
        /// The round.
        round: RoundId,
        /// Why.
        cause: AbandonCause,
    },
    /// Build, sign and publish the release.
    Publish,
    /// Record that the job failed.
    Fail(JobFailure),
}

/// What an accepted event meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was new.
    Taken,
    /// It was known already, and changed nothing: acknowledge it again.
    Known,
}

/// Why an event changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The event speaks of another round or attempt than the one under way.
    #[error("round {told} is not under way, {current} is")]
    OtherRound {
        /// The round of the event.
        told: RoundId,
        /// The round under way.
        current: RoundId,
    },
    /// The round has left the phase in which such an event counts.
    #[error("too late: the round is {phase}")]
    Late {
        /// The phase of the round.
        phase: &'static str,
    },
    /// The round has not reached the phase in which such an event counts.
    #[error("too early: the round is {phase}")]
    Early {
        /// The phase of the round.
        phase: &'static str,
    },
    /// The device is not in the cohort.
    #[error("device {device} is not in the cohort")]
    NotInvited {
        /// The device.
        device: DeviceId,
    },
    /// The device had declined or was lost.
    #[error("device {device} has left the round")]
    LeftRound {
        /// The device.
        device: DeviceId,
    },
    /// The device trained under another configuration.
    #[error("trained under configuration {told}, the round has {expected}")]
    OtherConfiguration {
        /// Digest that the device names.
        told: Digest,
        /// Digest of the round.
        expected: Digest,
    },
    /// The contribution has not the public length.
    #[error("a contribution has {expected} bytes, this one has {told}")]
    Length {
        /// Its length.
        told: u64,
        /// The public length.
        expected: u64,
    },
    /// The device has already contributed other bytes.
    #[error("device {device} has already contributed {kept}; these bytes are other ones")]
    Conflicting {
        /// The device.
        device: DeviceId,
        /// Digest of the contribution that is kept.
        kept: Digest,
    },
    /// An evaluation without a variant says nothing.
    #[error("the evaluation names no variant")]
    EmptyEvaluation,
    /// An evaluation leaves out a variant that an earlier one had.
    #[error("the evaluation leaves out variant {variant}")]
    MissingVariant {
        /// The variant.
        variant: VariantName,
    },
    /// The job is over.
    #[error("the job is {phase}")]
    Over {
        /// Name of the phase.
        phase: &'static str,
    },
}
