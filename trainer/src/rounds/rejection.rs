//! Why a device is turned away: what it is told, and what it is to blame for.

use std::time::Duration;

use fieldfare_fleet::Digest;
use fieldfare_fleet::round::{NotAdmitted, Refused, TurnedAway};
use fieldfare_member::ticket::TicketError;
use tonic::Status;

use super::StoreError;
use crate::failure::chain;
use crate::limits::ROUNDS_MESSAGE_BYTES_MAX;

/// Why a device is turned away.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejection {
    #[error("{0}")]
    Peer(String),
    #[error(transparent)]
    Ticket(#[from] TicketError),
    #[error("no round is under way here")]
    NoRound,
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    #[error("{0}")]
    Malformed(String),
    #[error("the bytes have digest {found}, announced was {told}")]
    OtherDigest { found: Digest, told: Digest },
    #[error("the bytes are no contribution: {0}")]
    Garbage(fieldfare_privacy::ContributionError),
    #[error("a message is longer than {ROUNDS_MESSAGE_BYTES_MAX} bytes: {0}")]
    TooLarge(String),
    #[error("nothing came for {0:?}")]
    Silent(Duration),
    #[error("the contribution did not come within {0:?}")]
    TooSlow(Duration),
    #[error("another upload of this device is under way")]
    AtOnce,
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the contribution could not be kept")]
    Store(#[from] StoreError),
    #[error("the upload broke off: {0}")]
    BrokenOff(String),
}

impl From<Rejection> for Status {
    fn from(error: Rejection) -> Self {
        let text = chain(&error);
        match error {
            Rejection::Store(_) => {
                tracing::error!(error = text, "a contribution could not be kept");
                Self::unavailable("the contribution could not be kept")
            }
            Rejection::Peer(_) => Self::unauthenticated(text),
            Rejection::Ticket(TicketError::Malformed(_)) | Rejection::Malformed(_) => Self::invalid_argument(text),
            Rejection::Ticket(TicketError::Over { .. }) => Self::failed_precondition(text),
            Rejection::Ticket(_) => Self::permission_denied(text),
            Rejection::NotAdmitted(NotAdmitted::Length { .. })
            | Rejection::OtherDigest { .. }
            | Rejection::Garbage(_) => Self::invalid_argument(text),
            Rejection::TooLarge(_) => Self::out_of_range(text),
            Rejection::NoRound
            | Rejection::Silent(_)
            | Rejection::TooSlow(_)
            | Rejection::AtOnce
            | Rejection::BrokenOff(_) => Self::unavailable(text),
            Rejection::Refused(Refused::Early { .. }) => Self::unavailable(text),
            Rejection::Refused(Refused::Conflicting { .. }) => Self::already_exists(text),
            Rejection::Refused(_) | Rejection::NotAdmitted(_) => Self::failed_precondition(text),
        }
    }
}

impl Rejection {
    /// What the device is counted for; nothing where it is not its doing.
    pub(super) const fn blame(&self) -> Option<TurnedAway> {
        Some(match self {
            Self::Ticket(TicketError::Over { .. }) => TurnedAway::TicketOver,
            Self::Ticket(TicketError::Malformed(_)) | Self::Malformed(_) => TurnedAway::Malformed,
            Self::Ticket(_) => TurnedAway::Ticket,
            Self::NotAdmitted(refused) => TurnedAway::of_admission(refused),
            Self::OtherDigest { .. } => TurnedAway::OtherDigest,
            Self::Garbage(_) => TurnedAway::OutOfRange,
            Self::TooLarge(_) => TurnedAway::TooLarge,
            Self::Silent(_) | Self::TooSlow(_) => TurnedAway::TooSlow,
            Self::AtOnce => TurnedAway::AtOnce,
            Self::Refused(refused) => return TurnedAway::of_round(refused),
            Self::Peer(_) | Self::NoRound | Self::Store(_) | Self::BrokenOff(_) => return None,
        })
    }
}
