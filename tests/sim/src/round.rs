//! What processes say to each other about rounds.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use fieldfare_fleet::round::Decline;
use fieldfare_fleet::{DeviceId, Digest, JobName, ReleaseId, RoundId, Timestamp};
use fieldfare_privacy::{Budget, Mechanism, RingCodec};

use crate::dice::digest;

/// What a federated job is made of.
#[derive(Clone, Debug)]
pub(crate) struct JobMade {
    pub(crate) name: JobName,
    pub(crate) base: ReleaseId,
    pub(crate) rounds: u32,
    pub(crate) cohort: u32,
    pub(crate) quorum: u32,
    pub(crate) max_attempts: u32,
    pub(crate) collect_ms: u64,
    pub(crate) seed: u64,
    pub(crate) mechanism: Mechanism,
    pub(crate) budget: Budget,
    pub(crate) codec: RingCodec,
}

/// What a round is made of, for those who take part.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Configuration {
    pub(crate) round: RoundId,
    pub(crate) base: ReleaseId,
    /// Digest of the state that training starts from.
    pub(crate) state: Digest,
    pub(crate) mechanism: Mechanism,
    pub(crate) budget: Budget,
    pub(crate) codec: RingCodec,
    pub(crate) deadline: Timestamp,
}

impl Configuration {
    /// What every ticket and message names.
    pub(crate) fn digest(&self) -> Digest {
        Digest::from_bytes(digest(format!("{self:?}").as_bytes()))
    }
}

/// The digest of a contribution.
pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(digest(bytes))
}

/// An invitation, signed by the controller: who shows it and what it says cannot be changed.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    pub(crate) round: RoundId,
    pub(crate) configuration: Digest,
    pub(crate) device: u32,
    pub(crate) trainer: usize,
    pub(crate) not_after: Timestamp,
}

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) committed: u32,
    pub(crate) attempt: u32,
    /// The sums of all committed rounds, added up, in levels.
    pub(crate) state: Rc<Vec<i64>>,
}

/// What a trainer asks the controller. Every question is repeated until it is answered.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Claim,
    Renew {
        token: u64,
    },
    Checkpoint {
        token: u64,
        checkpoint: Checkpoint,
    },
    Open {
        token: u64,
        configuration: Rc<Configuration>,
        digest: Digest,
    },
    Close {
        token: u64,
        round: RoundId,
        accepted: BTreeMap<DeviceId, Digest>,
        /// The sum over them, in levels.
        sum: Vec<i64>,
        checkpoint: Checkpoint,
    },
    Finish {
        token: u64,
    },
}

/// What the controller tells a trainer.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    Claimed(Option<(u64, Rc<JobMade>, Checkpoint)>),
    Opened(BTreeSet<DeviceId>),
    Done,
    /// The claim is no longer the current one.
    Stale,
    /// What was asked cannot be.
    Refused(String),
    /// A device of the cohort will not contribute.
    Dropped {
        round: RoundId,
        device: DeviceId,
        reason: Decline,
    },
}

/// What a device asks a trainer.
#[derive(Clone, Debug)]
pub(crate) enum Knock {
    /// For the configuration that the ticket names; also to hear whether the round still takes contributions.
    Configure,
    Contribute {
        configuration: Digest,
        bytes: Rc<Vec<u8>>,
    },
}

/// What a trainer answers.
#[derive(Clone, Debug)]
pub(crate) enum Answered {
    Configured(Rc<Configuration>),
    Taken(Digest),
    /// Trying again may help where it is an outage.
    TurnedAway {
        outage: bool,
    },
}
