//! What the controller keeps of rounds: an attempt is opened once, its cohort stays, and its accepted set changes once.

use std::collections::{BTreeMap, BTreeSet};

use super::event::Decline;
use crate::rollout::Rank;
use crate::{DeviceId, Digest, RoundId, RoundNumber, Timestamp};

/// Picks at most `size` of the eligible devices for an attempt: every device is as likely, and another round or attempt has
/// another order.
pub fn pick(eligible: impl IntoIterator<Item = DeviceId>, size: u32, seed: u64, round: &RoundId) -> BTreeSet<DeviceId> {
    let attempt = u64::from(round.round.0) << 32 | u64::from(round.attempt.0);
    let mixed = seed ^ attempt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut ranked: Vec<(Rank, DeviceId)> = eligible.into_iter().map(|d| (Rank::of(d, mixed), d)).collect();
    ranked.sort_unstable();
    ranked.truncate(size as usize);
    ranked.into_iter().map(|(_, device)| device).collect()
}

impl Decline {
    /// Whether the same device may answer the same invitation otherwise a moment later.
    pub const fn passes(self) -> bool {
        match self {
            Self::Busy | Self::Ticket | Self::TrainingFailed => true,
            Self::Unexplained
            | Self::NoConsent
            | Self::TooLittleMemory
            | Self::BudgetSpent
            | Self::TooFewExamples
            | Self::Configuration
            | Self::WrongBase => false,
        }
    }
}

/// An attempt that was opened, as far as it decides what may become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Digest of its configuration.
    pub configuration: Digest,
    /// Whether nobody is invited to it any more.
    pub closed: bool,
    /// Digest of its accepted set, once that is committed.
    pub accepted: Option<Digest>,
    /// Until when it collects contributions.
    pub deadline: Timestamp,
}

/// How far a job is, as its checkpoint says. What is reached later is greater: a round is committed once, and attempts at the next
/// one are counted up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reached {
    /// Rounds that are committed.
    pub committed: u32,
    /// The attempt at the next round; 0 before there is one.
    pub attempt: u32,
}

impl Reached {
    /// Whether this is less than what is kept: a checkpoint that was sent again, and comes when the job has gone on. It is
    /// acknowledged, and changes nothing; a job that went back to it would commit a round twice.
    pub fn is_overtaken(self, kept: Self) -> bool {
        self < kept
    }
}

/// What opening an attempt comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Pick a cohort and write it.
    New,
    /// Its trainer goes on with it after a restart: the cohort stays, and is invited again.
    Again,
    /// It is over: say who its cohort was, and change nothing.
    Over,
}

/// What committing an accepted set comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// Write it, together with the job's checkpoint.
    Commit,
    /// It was committed before: change nothing.
    Known,
}

/// Why an attempt is not opened or closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unchanged {
    /// The attempt was opened with another configuration.
    #[error("the attempt was opened with another configuration")]
    OtherConfiguration,
    /// Another accepted set was committed.
    #[error("another accepted set was committed")]
    OtherAcceptedSet,
    /// The job has gone on to a later attempt, which opening this one would end.
    #[error(
        "the job has gone on: {committed} rounds are committed, and attempt {attempt} at the next one is under way"
    )]
    Overtaken {
        /// Rounds that are committed.
        committed: u32,
        /// The attempt at the next one.
        attempt: u32,
    },
    /// Another attempt at the round was committed, or the one before it is not: each round counts once, in its turn.
    #[error("the job has {committed} committed rounds: this is not the next one")]
    NotNext {
        /// Rounds that are committed.
        committed: u32,
    },
    /// The attempt was given up before anything was committed.
    #[error("the attempt was given up")]
    GivenUp,
}

/// What opening an attempt with this configuration comes to, for a job that has come so far.
///
/// # Errors
/// [`Unchanged::OtherConfiguration`], [`Unchanged::Overtaken`].
pub fn open(
    known: Option<&Opened>,
    round: &RoundId,
    configuration: Digest,
    kept: Reached,
) -> Result<Opening, Unchanged> {
    let told = Reached {
        committed: round.round.0.saturating_sub(1),
        attempt: round.attempt.0,
    };
    match known {
        None if told.is_overtaken(kept) => Err(Unchanged::Overtaken {
            committed: kept.committed,
            attempt: kept.attempt,
        }),
        None => Ok(Opening::New),
        Some(known) if known.configuration != configuration => Err(Unchanged::OtherConfiguration),
        Some(known) if known.closed => Ok(Opening::Over),
        Some(_) => Ok(Opening::Again),
    }
}

/// What committing the accepted set with this digest comes to, for a job with so many committed rounds.
///
/// # Errors
/// [`Unchanged::OtherAcceptedSet`], [`Unchanged::GivenUp`], [`Unchanged::NotNext`].
pub fn close(known: &Opened, round: RoundNumber, accepted: Digest, committed: u32) -> Result<Closing, Unchanged> {
    match known.accepted {
        Some(before) if before == accepted => Ok(Closing::Known),
        Some(_) => Err(Unchanged::OtherAcceptedSet),
        None if known.closed => Err(Unchanged::GivenUp),
        None if committed.checked_add(1) != Some(round.0) => Err(Unchanged::NotNext { committed }),
        None => Ok(Closing::Commit),
    }
}

/// Whether devices of the cohort that have not declined are invited.
pub fn invites(known: &Opened, now: Timestamp) -> bool {
    !known.closed && known.deadline > now
}

/// An accepted set that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcceptedError {
    /// A device was not invited.
    #[error("is not of the round's cohort")]
    NotInvited {
        /// Its place in the list.
        index: usize,
    },
    /// A device is named twice.
    #[error("is named twice: a contribution counts once")]
    Twice {
        /// Its second place in the list.
        index: usize,
    },
    /// There are too few.
    #[error("{given} contributions are below the quorum of {quorum}")]
    TooFew {
        /// Contributions.
        given: u64,
        /// The quorum.
        quorum: u32,
    },
}

/// Checks an accepted set: devices of the cohort, each once, at least the quorum.
///
/// # Errors
/// [`AcceptedError`] names the first place that is wrong.
pub fn check_accepted(
    is_invited: impl Fn(DeviceId) -> bool,
    quorum: u32,
    accepted: impl IntoIterator<Item = (DeviceId, Digest)>,
) -> Result<BTreeMap<DeviceId, Digest>, AcceptedError> {
    let mut set = BTreeMap::new();
    for (index, (device, digest)) in accepted.into_iter().enumerate() {
        if !is_invited(device) {
            return Err(AcceptedError::NotInvited { index });
        }
        if set.insert(device, digest).is_some() {
            return Err(AcceptedError::Twice { index });
        }
    }
    let given = set.len() as u64;
    if given < u64::from(quorum) {
        return Err(AcceptedError::TooFew { given, quorum });
    }
    Ok(set)
}
