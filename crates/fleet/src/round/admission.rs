//! What the trainer takes from a device that shows a ticket, before the round is asked about it.

use crate::{ByteSize, Digest, RoundId};

/// The attempt that a trainer has open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenAttempt {
    /// The round and attempt.
    pub round: RoundId,
    /// Digest of its configuration, which every ticket and message names.
    pub configuration: Digest,
    /// Public length of a contribution.
    pub contribution: ByteSize,
}

/// Why a device is turned away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// The ticket is for another round or attempt.
    #[error("the ticket is for round {told}, under way is {current}")]
    OtherRound {
        /// The ticket's.
        told: RoundId,
        /// The one under way.
        current: RoundId,
    },
    /// The ticket, or what comes with it, names another configuration.
    #[error("the {what} names configuration {told}, the round has {expected}")]
    OtherConfiguration {
        /// What names it: the ticket, or the header of a contribution.
        what: &'static str,
        /// The one that is named.
        told: Digest,
        /// The round's.
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
}

impl OpenAttempt {
    /// Whether the holder of a ticket for this round and configuration may have the configuration and contribute.
    ///
    /// # Errors
    /// [`NotAdmitted::OtherRound`], [`NotAdmitted::OtherConfiguration`].
    pub fn admit(&self, round: &RoundId, configuration: Digest) -> Result<(), NotAdmitted> {
        if *round != self.round {
            return Err(NotAdmitted::OtherRound {
                told: round.clone(),
                current: self.round.clone(),
            });
        }
        self.check_configuration("ticket", configuration)
    }

    /// Whether a contribution that is announced so is received at all.
    ///
    /// # Errors
    /// [`NotAdmitted::OtherConfiguration`], [`NotAdmitted::Length`].
    pub fn announced(&self, configuration: Digest, bytes: u64) -> Result<(), NotAdmitted> {
        self.check_configuration("header", configuration)?;
        let expected = self.contribution.get();
        if bytes == expected {
            return Ok(());
        }
        Err(NotAdmitted::Length { told: bytes, expected })
    }

    fn check_configuration(&self, what: &'static str, told: Digest) -> Result<(), NotAdmitted> {
        let expected = self.configuration;
        if told == expected {
            return Ok(());
        }
        Err(NotAdmitted::OtherConfiguration { what, told, expected })
    }
}
