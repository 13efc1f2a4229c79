//! Generations, rounds, trust tiers.

use fieldfare_fleet::{Attempt, Generation, JobName, RoundId, RoundNumber, TrustTier};

use super::{ConversionError, ResultExt, error::enumerated};
use crate::v1;

impl From<Generation> for v1::Generation {
    fn from(generation: Generation) -> Self {
        Self {
            epoch: generation.epoch,
            counter: generation.counter,
        }
    }
}

impl From<v1::Generation> for Generation {
    fn from(generation: v1::Generation) -> Self {
        Self {
            epoch: generation.epoch,
            counter: generation.counter,
        }
    }
}

impl From<&RoundId> for v1::RoundRef {
    fn from(round: &RoundId) -> Self {
        Self {
            job: round.job.to_string(),
            round: round.round.0,
            attempt: round.attempt.0,
        }
    }
}

impl TryFrom<v1::RoundRef> for RoundId {
    type Error = ConversionError;

    fn try_from(round: v1::RoundRef) -> Result<Self, ConversionError> {
        Ok(Self {
            job: JobName::new(round.job).field("job")?,
            round: RoundNumber(round.round),
            attempt: Attempt(round.attempt),
        })
    }
}

impl From<TrustTier> for v1::TrustTier {
    fn from(tier: TrustTier) -> Self {
        match tier {
            TrustTier::Unattested => Self::Unattested,
            TrustTier::Attested => Self::Attested,
        }
    }
}

impl v1::TrustTier {
    /// The domain's tier for the value of a message's field.
    ///
    /// # Errors
    /// The number is unknown or unspecified.
    pub fn domain(field: &str, value: i32) -> Result<TrustTier, ConversionError> {
        match enumerated(field, value)? {
            Self::Unattested => Ok(TrustTier::Unattested),
            Self::Attested => Ok(TrustTier::Attested),
            Self::Unspecified => Err(ConversionError::new(field, "is unspecified")),
        }
    }
}
