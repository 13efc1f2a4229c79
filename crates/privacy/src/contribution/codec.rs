//! Fixed-point encoding of an update, and its strict reading.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::{MAX_COHORT, MAX_LENGTH, MAX_LEVELS, MAX_RING_BITS, MIN_LEVELS};

/// Ring parameters that cannot carry a cohort's updates.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum RingError {
    /// No entries, or more than the limit.
    #[error("the contribution's length is {given}, expected 1 to {MAX_LENGTH}")]
    Length {
        /// What was given.
        given: usize,
    },
    /// A range that is not a positive number.
    #[error("the range of an entry is {given}, expected a positive number that f32 holds")]
    Range {
        /// What was given.
        given: f32,
    },
    /// A ring too wide for exact conversion to f64.
    #[error("the ring has {given} bits, expected 8 to {MAX_RING_BITS}")]
    RingBits {
        /// What was given.
        given: u32,
    },
    /// No devices, or more than the limit.
    #[error("the cohort limit is {given}, expected 1 to {MAX_COHORT}")]
    Cohort {
        /// What was given.
        given: u32,
    },
    /// The cohort leaves an entry too few levels.
    #[error(
        "a ring of {ring_bits} bits leaves {levels} levels for a cohort of {cohort}, at least {MIN_LEVELS} are needed"
    )]
    TooCoarse {
        /// Bits of the ring.
        ring_bits: u32,
        /// Devices that may contribute.
        cohort: u32,
        /// Levels left on each side of zero.
        levels: i64,
    },
}

/// The public parameters of a round's contributions, part of its signed configuration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingParameters {
    /// Entries of the update.
    pub length: usize,
    /// Largest magnitude of an entry; larger ones are clamped to it.
    pub range: f32,
    /// Bits of the ring in which sums are taken, 8 to 56. 32 is a good choice for cohorts up to thousands.
    pub ring_bits: u32,
    /// Most contributions that one sum takes.
    pub cohort_limit: u32,
}

/// An update that cannot be encoded, or bytes that are no contribution.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum ContributionError {
    /// The update has another number of entries than the round.
    #[error("the update has {given} entries, expected {expected}")]
    UpdateLength {
        /// Entries given.
        given: usize,
        /// Entries of the round.
        expected: usize,
    },
    /// The update holds a NaN or an infinity.
    #[error("entry {index} of the update is {value}, expected a finite number")]
    NotFinite {
        /// Which entry.
        index: usize,
        /// What it is.
        value: f32,
    },
    /// The bytes are too many or too few.
    #[error("the contribution has {given} bytes, expected {expected}")]
    ByteLength {
        /// Bytes given.
        given: usize,
        /// Bytes of the round.
        expected: usize,
    },
    /// An entry that no honest device encodes.
    #[error("entry {index} of the contribution is {value}, expected -{levels} to {levels}")]
    OutOfRange {
        /// Which entry.
        index: usize,
        /// What it is.
        value: i64,
        /// The largest magnitude allowed.
        levels: i64,
    },
}

/// An encoded update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The contribution as it travels.
    pub bytes: Vec<u8>,
    /// Entries that were clamped to the range; a function of the update, hence as private as the update is.
    pub clamped: usize,
}

/// Turns updates into ring integers and back, for one round's public parameters.
///
/// An entry is `round(value * levels / range)`, ties to even, as a two's complement little-endian integer in the
/// fewest whole bytes that hold every level. A masked contribution will take the bytes of the ring instead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RingCodec {
    parameters: RingParameters,
    /// Levels on each side of zero.
    levels: i64,
    entry_bytes: usize,
}

impl RingCodec {
    /// Checks the parameters and derives the levels: the most with which a full cohort cannot leave the ring.
    ///
    /// # Errors
    /// [`RingError`] names the parameter that is impossible.
    pub fn new(parameters: RingParameters) -> Result<Self, RingError> {
        let RingParameters {
            length,
            range,
            ring_bits,
            cohort_limit,
        } = parameters;
        if !(1..=MAX_LENGTH).contains(&length) {
            return Err(RingError::Length { given: length });
        }
        if !range.is_normal() || range <= 0.0 {
            return Err(RingError::Range { given: range });
        }
        if !(8..=MAX_RING_BITS).contains(&ring_bits) {
            return Err(RingError::RingBits { given: ring_bits });
        }
        if !(1..=MAX_COHORT).contains(&cohort_limit) {
            return Err(RingError::Cohort { given: cohort_limit });
        }
        let levels = (((1i64 << (ring_bits - 1)) - 1) / i64::from(cohort_limit)).min(MAX_LEVELS);
        if levels < MIN_LEVELS {
            return Err(RingError::TooCoarse {
                ring_bits,
                cohort: cohort_limit,
                levels,
            });
        }
        // One bit for the sign.
        let entry_bits = i64::BITS - levels.leading_zeros() + 1;
        Ok(Self {
            parameters,
            levels,
            entry_bytes: entry_bits.div_ceil(8) as usize,
        })
    }

    /// The public parameters.
    #[must_use]
    pub fn parameters(&self) -> &RingParameters {
        &self.parameters
    }

    /// Levels on each side of zero; an honest entry lies in `-levels..=levels`.
    #[must_use]
    pub fn levels(&self) -> i64 {
        self.levels
    }

    /// Bytes of every contribution of the round.
    #[must_use]
    pub fn byte_length(&self) -> usize {
        self.parameters.length * self.entry_bytes
    }

    /// The largest error of one entry that was not clamped: half a level.
    #[must_use]
    pub fn resolution(&self) -> f64 {
        0.5 * self.value_of_level()
    }

    /// Encodes an update, clamping each entry to the range. The same update gives the same bytes everywhere.
    ///
    /// # Errors
    /// [`ContributionError::UpdateLength`], [`ContributionError::NotFinite`].
    pub fn encode(&self, update: &[f32]) -> Result<Encoded, ContributionError> {
        let expected = self.parameters.length;
        if update.len() != expected {
            return Err(ContributionError::UpdateLength {
                given: update.len(),
                expected,
            });
        }
        let levels = self.levels as f64;
        let scale = levels / f64::from(self.parameters.range);
        let mut encoded = Encoded {
            bytes: Vec::with_capacity(self.byte_length()),
            clamped: 0,
        };
        for (index, &value) in update.iter().enumerate() {
            if !value.is_finite() {
                return Err(ContributionError::NotFinite { index, value });
            }
            encoded.clamped += usize::from(value.abs() > self.parameters.range);
            let level = libm::rint((f64::from(value) * scale).clamp(-levels, levels)) as i64;
            encoded
                .bytes
                .extend_from_slice(&level.to_le_bytes()[..self.entry_bytes]);
        }
        Ok(encoded)
    }

    /// The update that a contribution stands for.
    ///
    /// # Errors
    /// Those of [`RingCodec::validate`].
    pub fn decode(&self, bytes: &[u8]) -> Result<Vec<f32>, ContributionError> {
        self.validate(bytes)?;
        let value_of_level = self.value_of_level();
        Ok(self
            .entries(bytes)
            .map(|level| (level as f64 * value_of_level) as f32)
            .collect())
    }

    /// Checks foreign bytes: exactly the public length, and every entry within the levels.
    ///
    /// # Errors
    /// [`ContributionError::ByteLength`], [`ContributionError::OutOfRange`].
    pub fn validate(&self, bytes: &[u8]) -> Result<(), ContributionError> {
        let expected = self.byte_length();
        if bytes.len() != expected {
            return Err(ContributionError::ByteLength {
                given: bytes.len(),
                expected,
            });
        }
        let levels = self.levels;
        match self
            .entries(bytes)
            .enumerate()
            .find(|(_, value)| !(-levels..=levels).contains(value))
        {
            None => Ok(()),
            Some((index, value)) => Err(ContributionError::OutOfRange { index, value, levels }),
        }
    }

    /// The entries of bytes whose length was checked.
    pub(super) fn entries<'bytes>(&self, bytes: &'bytes [u8]) -> impl Iterator<Item = i64> + use<'bytes> {
        let unused = i64::BITS - 8 * self.entry_bytes as u32;
        bytes.chunks_exact(self.entry_bytes).map(move |entry| {
            let mut padded = [0; 8];
            padded[..entry.len()].copy_from_slice(entry);
            // The shift up and the arithmetic shift down copy the sign into the unused bits.
            i64::from_le_bytes(padded) << unused >> unused
        })
    }

    /// The value of one level, in the update's units.
    pub(super) fn value_of_level(&self) -> f64 {
        f64::from(self.parameters.range) / self.levels as f64
    }
}

#[cfg(test)]
mod tests;
