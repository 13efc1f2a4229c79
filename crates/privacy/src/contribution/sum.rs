//! The exact sum of a round's contributions, as they arrive.

use thiserror::Error;

use super::codec::{ContributionError, RingCodec};

/// A contribution or a sum that cannot be added, or a mean of nothing.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum SumError {
    /// Bytes that are no contribution of this round.
    #[error(transparent)]
    Contribution(#[from] ContributionError),
    /// More contributions than the ring was made for.
    #[error("the sum would hold {given} contributions, the round's limit is {limit}")]
    CohortFull {
        /// Contributions the sum would hold.
        given: u64,
        /// The limit.
        limit: u32,
    },
    /// Two sums of unlike rounds.
    #[error("the sums were made with different ring parameters")]
    OtherRing,
    /// A mean of no contributions.
    #[error("the sum holds no contribution, so it has no mean")]
    Empty,
}

/// The sum of contributions: exact, the same in any order, and as large in memory for one device as for a million.
///
/// It does not know whose contributions it holds. Whoever feeds it adds each of the accepted set once.
#[derive(Clone, Debug, PartialEq)]
pub struct ExactSum {
    codec: RingCodec,
    levels: Vec<i64>,
    count: u32,
}

impl ExactSum {
    /// The sum of no contributions.
    #[must_use]
    pub fn new(codec: RingCodec) -> Self {
        Self {
            levels: vec![0; codec.parameters().length],
            codec,
            count: 0,
        }
    }

    /// Checks a contribution's bytes and adds them.
    ///
    /// # Errors
    /// [`SumError::Contribution`], [`SumError::CohortFull`]; the sum is then unchanged.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), SumError> {
        self.codec.validate(bytes)?;
        self.count = self.grown_by(1)?;
        for (sum, level) in self.levels.iter_mut().zip(self.codec.entries(bytes)) {
            *sum += level;
        }
        Ok(())
    }

    /// Adds a sum over other contributions of the same round.
    ///
    /// # Errors
    /// [`SumError::OtherRing`], [`SumError::CohortFull`]; the sum is then unchanged.
    pub fn merge(&mut self, other: &Self) -> Result<(), SumError> {
        if self.codec != other.codec {
            return Err(SumError::OtherRing);
        }
        self.count = self.grown_by(other.count)?;
        for (sum, level) in self.levels.iter_mut().zip(&other.levels) {
            *sum += level;
        }
        Ok(())
    }

    /// Contributions in the sum.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The sum in levels: multiply by range over levels for the update's units.
    #[must_use]
    pub fn levels(&self) -> &[i64] {
        &self.levels
    }

    /// The mean update over the contributions, each with the same weight, rounded once to f32.
    ///
    /// # Errors
    /// [`SumError::Empty`].
    pub fn mean(&self) -> Result<Vec<f32>, SumError> {
        if self.count == 0 {
            return Err(SumError::Empty);
        }
        let value_of_level = self.codec.value_of_level() / f64::from(self.count);
        Ok(self
            .levels
            .iter()
            .map(|&level| (level as f64 * value_of_level) as f32)
            .collect())
    }

    fn grown_by(&self, more: u32) -> Result<u32, SumError> {
        let limit = self.codec.parameters().cohort_limit;
        match self.count.checked_add(more) {
            Some(count) if count <= limit => Ok(count),
            _ => Err(SumError::CohortFull {
                given: u64::from(self.count) + u64::from(more),
                limit,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::contribution::RingParameters;

    const LENGTH: usize = 6;

    fn codec(cohort_limit: u32) -> RingCodec {
        RingCodec::new(RingParameters {
            length: LENGTH,
            range: 1.0,
            ring_bits: 32,
            cohort_limit,
        })
        .expect("valid")
    }

    fn sum_of(codec: RingCodec, contributions: &[Vec<u8>]) -> ExactSum {
        let mut sum = ExactSum::new(codec);
        contributions.iter().for_each(|bytes| sum.add(bytes).expect("honest"));
        sum
    }

    fn cohort() -> impl Strategy<Value = (Vec<Vec<f32>>, Vec<usize>)> {
        let updates = prop::collection::vec(prop::collection::vec(-1.5f32..1.5, LENGTH), 1..20);
        updates.prop_flat_map(|updates| {
            let order = Just((0..updates.len()).collect::<Vec<_>>()).prop_shuffle();
            (Just(updates), order)
        })
    }

    proptest! {
        #[test]
        fn the_sum_is_exact_in_any_order_and_any_grouping((updates, order) in cohort(), split in 0usize..20) {
            let codec = codec(20);
            let bytes: Vec<_> = updates.iter().map(|update| codec.encode(update).expect("finite").bytes).collect();
            let shuffled: Vec<_> = order.iter().map(|&index| bytes[index].clone()).collect();
            let sum = sum_of(codec, &bytes);
            prop_assert_eq!(&sum, &sum_of(codec, &shuffled));
            let (first, second) = shuffled.split_at(split.min(shuffled.len()));
            let mut merged = sum_of(codec, first);
            merged.merge(&sum_of(codec, second)).expect("same ring");
            prop_assert_eq!(&sum, &merged);
            // Against integers of unlimited width, and against the ring itself.
            for (entry, &level) in sum.levels().iter().enumerate() {
                let wide: i128 = bytes.iter().map(|bytes| i128::from(codec.entries(bytes).nth(entry).expect("entry"))).sum();
                prop_assert_eq!(i128::from(level), wide);
                let ring = bytes.iter().fold(0i32, |ring, bytes| {
                    ring.wrapping_add(codec.entries(bytes).nth(entry).expect("entry") as i32)
                });
                prop_assert_eq!(i64::from(ring), level, "the sum modulo 2^32 is the sum");
            }
        }

        #[test]
        fn the_mean_is_the_mean_of_the_clamped_updates((updates, _) in cohort()) {
            let codec = codec(20);
            let bytes: Vec<_> = updates.iter().map(|update| codec.encode(update).expect("finite").bytes).collect();
            let mean = sum_of(codec, &bytes).mean().expect("not empty");
            for (entry, value) in mean.iter().enumerate() {
                let expected = updates.iter().map(|update| f64::from(update[entry].clamp(-1.0, 1.0))).sum::<f64>()
                    / updates.len() as f64;
                let bound = codec.resolution() + f64::from(f32::EPSILON);
                prop_assert!((f64::from(*value) - expected).abs() <= bound);
            }
        }
    }

    #[test]
    fn a_refused_contribution_leaves_the_sum_unchanged() {
        let codec = codec(1024);
        let mut sum = sum_of(codec, &[codec.encode(&[0.25; LENGTH]).expect("finite").bytes]);
        let before = sum.clone();
        let mut hostile = codec.encode(&[0.5; LENGTH]).expect("finite").bytes;
        *hostile.last_mut().expect("bytes") = 0x7f;
        assert!(matches!(
            sum.add(&hostile),
            Err(SumError::Contribution(ContributionError::OutOfRange { index: 5, .. }))
        ));
        assert!(matches!(
            sum.add(&hostile[1..]),
            Err(SumError::Contribution(ContributionError::ByteLength { .. }))
        ));
        assert_eq!(sum, before);
    }

    #[test]
    fn a_cohort_larger_than_the_ring_was_made_for_is_refused() {
        let codec = codec(2);
        let bytes = codec.encode(&[1.0; LENGTH]).expect("finite").bytes;
        let mut sum = sum_of(codec, &[bytes.clone(), bytes.clone()]);
        let before = sum.clone();
        assert_eq!(sum.add(&bytes), Err(SumError::CohortFull { given: 3, limit: 2 }));
        assert_eq!(sum.merge(&before), Err(SumError::CohortFull { given: 4, limit: 2 }));
        assert_eq!(sum, before);
        assert_eq!(sum.mean().expect("two"), [1.0; LENGTH]);
    }

    #[test]
    fn sums_of_unlike_rings_and_means_of_nothing_are_refused() {
        let mut sum = ExactSum::new(codec(2));
        assert_eq!(sum.merge(&ExactSum::new(codec(3))), Err(SumError::OtherRing));
        assert_eq!(sum.mean(), Err(SumError::Empty));
    }
}
