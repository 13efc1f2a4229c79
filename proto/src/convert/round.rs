//! Why devices take no part in a round.

use fieldfare_fleet::round::Decline;

use crate::v1::RefusalReason;

impl From<RefusalReason> for Decline {
    fn from(refusal: RefusalReason) -> Self {
        match refusal {
            RefusalReason::Unspecified => Self::Unexplained,
            RefusalReason::NoConsent => Self::NoConsent,
            RefusalReason::NotIdle | RefusalReason::Busy => Self::Busy,
            RefusalReason::TooLittleMemory => Self::TooLittleMemory,
            RefusalReason::BudgetSpent => Self::BudgetSpent,
            RefusalReason::TooFewExamples => Self::TooFewExamples,
            RefusalReason::BadTicket => Self::Ticket,
            RefusalReason::BadConfiguration => Self::Configuration,
            RefusalReason::WrongBase => Self::WrongBase,
            RefusalReason::Failed => Self::TrainingFailed,
        }
    }
}
