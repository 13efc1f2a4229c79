//! Whether a device may be invited to a round, and why not.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{ByteSize, DeviceId, Labels, ReleaseId, Selector, Timestamp, TrustTier};

/// Whether a device can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connection {
    /// It has a session.
    Connected,
    /// It has none.
    LastHeard(Timestamp),
}

/// Whether the owner lets the device's data be learnt from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consent {
    /// Yes.
    Given,
    /// No, or not asked.
    Withheld,
}

/// Whether the privacy ledger of the device can pay for another round of this job. This is all that leaves the device
/// about its ledger before it takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetState {
    /// It can.
    Remaining,
    /// It cannot.
    Spent,
}

/// Whether the idle policy of the device lets it train now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// It does.
    Idle,
    /// It does not.
    Busy,
}

/// A device that might train.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct TrainingCandidate {
    /// The device.
    pub device: DeviceId,
    /// Whether it can be reached.
    pub connection: Connection,
    /// Whether its data may be learnt from.
    pub consent: Consent,
    /// Memory that it would give to training.
    pub training_memory: ByteSize,
    /// Whether its ledger can pay.
    pub budget: BudgetState,
    /// Whether it may train now.
    pub activity: Activity,
    /// How far it is trusted.
    pub trust: TrustTier,
    /// Its labels.
    pub labels: Labels,
    /// The release that it runs and has confirmed.
    pub running: Option<ReleaseId>,
}

/// What a job needs of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct TrainingNeeds {
    /// The devices meant.
    pub selector: Selector,
    /// The release that is trained.
    pub release: ReleaseId,
    /// Predicted memory of training.
    pub training_memory: ByteSize,
    /// Least trust tier.
    pub min_trust: TrustTier,
}

/// Why a device is not invited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Ineligible {
    /// The device has no session.
    NotConnected {
        /// When it was last heard.
        last_heard: Timestamp,
    },
    /// The device is not meant by the job's selector.
    NotSelected {
        /// The first term that does not hold.
        term: String,
    },
    /// The owner has not consented.
    NoConsent,
    /// Training would not fit.
    TrainingMemory {
        /// Predicted memory.
        predicted: ByteSize,
        /// Memory that the device gives.
        available: ByteSize,
    },
    /// The ledger cannot pay.
    BudgetSpent,
    /// The idle policy says no.
    Busy,
    /// The device is not trusted enough.
    TrustTooLow {
        /// Least tier.
        needed: TrustTier,
        /// The device's tier.
        available: TrustTier,
    },
    /// The device does not run the release that is trained.
    OtherRelease {
        /// The release that is trained.
        needed: ReleaseId,
        /// What the device runs.
        running: Option<ReleaseId>,
    },
}

impl TrainingNeeds {
    /// Every reason why a device is not invited; empty where it is eligible.
    pub fn reasons_against(&self, candidate: &TrainingCandidate) -> Vec<Ineligible> {
        let mut reasons = Vec::new();
        if let Connection::LastHeard(last_heard) = candidate.connection {
            reasons.push(Ineligible::NotConnected { last_heard });
        }
        if let Some(term) = self.selector.first_mismatch(&candidate.labels) {
            reasons.push(Ineligible::NotSelected { term: term.to_string() });
        }
        if candidate.consent == Consent::Withheld {
            reasons.push(Ineligible::NoConsent);
        }
        if candidate.training_memory < self.training_memory {
            let available = candidate.training_memory;
            reasons.push(Ineligible::TrainingMemory {
                predicted: self.training_memory,
                available,
            });
        }
        if candidate.budget == BudgetState::Spent {
            reasons.push(Ineligible::BudgetSpent);
        }
        if candidate.activity == Activity::Busy {
            reasons.push(Ineligible::Busy);
        }
        if candidate.trust < self.min_trust {
            reasons.push(Ineligible::TrustTooLow {
                needed: self.min_trust,
                available: candidate.trust,
            });
        }
        if candidate.running.as_ref() != Some(&self.release) {
            let running = candidate.running.clone();
            reasons.push(Ineligible::OtherRelease {
                needed: self.release.clone(),
                running,
            });
        }
        reasons
    }
}

impl fmt::Display for Ineligible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConnected { last_heard } => write!(f, "not connected, last heard {last_heard}"),
            Self::NotSelected { term } => write!(f, "not selected: {term} does not hold"),
            Self::NoConsent => write!(f, "the owner has not consented to training"),
            Self::TrainingMemory { predicted, available } => {
                write!(f, "training takes {predicted} of memory, the device gives {available}")
            }
            Self::BudgetSpent => write!(f, "the privacy budget is spent"),
            Self::Busy => write!(f, "busy"),
            Self::TrustTooLow { needed, available } => {
                write!(f, "needs a device that is {needed}, this one is {available}")
            }
            Self::OtherRelease {
                needed,
                running: Some(running),
            } => write!(f, "runs {running}, {needed} is trained"),
            Self::OtherRelease { needed, running: None } => write!(f, "runs no release, {needed} is trained"),
        }
    }
}
