//! Why the device does not take part, and how little of that leaves it.

use std::fmt;

use fieldfare_privacy::ledger::payment::Unpaid;
use fieldfare_proto::v1::{InvitationRefused, RefusalReason};

use super::exchange::ExchangeError;
use crate::private::PayError;
use crate::process;

/// Why the device does not take part.
///
/// The detail may hold anything that the device knows: an error of the training process may quote an example, and one of the ledger
/// says what was spent. It is for the owner, and stays here; [`Self::told`] is what leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs, and for the trainer.
    pub reason: RefusalReason,
    /// For the owner.
    pub detail: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = self
            .reason
            .as_str_name()
            .trim_start_matches("REFUSAL_REASON_")
            .to_lowercase();
        write!(f, "{reason}: {}", self.detail)
    }
}

impl Refusal {
    pub(super) fn new(reason: RefusalReason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }

    pub(super) fn failed(error: &dyn std::error::Error) -> Self {
        Self::new(RefusalReason::Failed, process::chain(error))
    }

    /// What leaves the device: the reason, and nothing of the detail.
    pub fn told(&self) -> InvitationRefused {
        told(self.reason)
    }
}

/// A refusal as it leaves the device: it depends on the reason alone.
pub fn told(reason: RefusalReason) -> InvitationRefused {
    InvitationRefused {
        reason: reason.into(),
        detail: sentence(reason).to_owned(),
    }
}

/// What people who run the fleet read of a reason.
const fn sentence(reason: RefusalReason) -> &'static str {
    match reason {
        RefusalReason::Unspecified => "",
        RefusalReason::NoConsent => "the owner has not consented to training",
        RefusalReason::NotIdle => "the owner's idle policy does not allow training now",
        RefusalReason::TooLittleMemory => "too little memory is available for training",
        RefusalReason::BudgetSpent => "the round would overdraw a privacy budget",
        RefusalReason::TooFewExamples => "too few examples are on the device",
        RefusalReason::BadTicket => "the ticket is not good on this device",
        RefusalReason::BadConfiguration => "the device refuses the round's configuration",
        RefusalReason::WrongBase => "the device does not serve the release that the round trains on",
        RefusalReason::Busy => "too many invitations wait on the device",
        RefusalReason::Failed => "the device did not finish; its own log and status say why",
    }
}

impl From<PayError> for Refusal {
    fn from(error: PayError) -> Self {
        let reason = match &error {
            PayError::Unpaid(Unpaid::Refused(_)) => RefusalReason::BudgetSpent,
            PayError::Unpaid(Unpaid::OtherConfiguration | Unpaid::BytesLost) => RefusalReason::BadConfiguration,
            PayError::Unpaid(Unpaid::TakenBack | Unpaid::Ledger(_)) | PayError::Store(_) => RefusalReason::Failed,
        };
        Self::new(reason, process::chain(&error))
    }
}

impl From<ExchangeError> for Refusal {
    fn from(error: ExchangeError) -> Self {
        let reason = match &error {
            ExchangeError::Plan(_) | ExchangeError::State => RefusalReason::BadConfiguration,
            _ => RefusalReason::Failed,
        };
        Self::new(reason, process::chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_that_quotes_an_example_leaves_without_it() {
        let secret = "the barn door code is 4711";
        for number in 0..=10 {
            let reason = RefusalReason::try_from(number).unwrap();
            let refusal = Refusal::new(reason, format!("LEAK: {secret}, spent epsilon 3.7"));
            assert!(refusal.to_string().contains(secret), "the owner reads it all");
            let (told, plain) = (refusal.told(), Refusal::new(reason, "").told());
            assert_eq!(told.reason(), reason);
            assert_eq!(told, plain, "what leaves depends on the detail");
        }
        assert!(RefusalReason::try_from(11).is_err(), "a new reason is not tested here");
    }
}
