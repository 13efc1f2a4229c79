//! Per-example clipping, jointly over all trained tensors, and its exact sum.
//!
//! The sum lives on a lattice: every clipped entry is truncated towards zero to a multiple of a power of two that
//! depends on the clip norm alone. Three things follow. Adding or removing one example moves the sum by a vector of
//! norm at most C, exactly, where floating-point sums may move by more (Casacuberta et al. 2022, "Widespread
//! underestimation of sensitivity"). The sum does not depend on the order of the examples. And the noise of
//! [`crate::step`] can be rounded to the same lattice, which hides the spacing of floating-point numbers.

use thiserror::Error;

use crate::limits::{MAX_BATCH_EXAMPLES, MAX_LENGTH};
use crate::quantity::ClipNorm;

/// Bits of the lattice below the clip norm's power of two: a clipped entry has a magnitude below 2^25 units.
const LATTICE_BITS: i32 = 24;

/// Gradients that cannot be summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ClipError {
    /// No trained entries, or more than the limit.
    #[error("the gradient has {given} entries, expected 1 to {MAX_LENGTH}")]
    Length {
        /// What was given.
        given: usize,
    },
    /// One example's tensors together have another length than the sum.
    #[error("the tensors of one example have {given} entries, expected {expected}")]
    ExampleLength {
        /// Entries given.
        given: usize,
        /// Entries of the sum.
        expected: usize,
    },
    /// A batched tensor's length is no multiple of the number of examples.
    #[error("tensor {tensor} has {given} entries, which {examples} examples do not divide")]
    BatchLength {
        /// Index of the tensor.
        tensor: usize,
        /// Its entries.
        given: usize,
        /// The number of examples.
        examples: usize,
    },
    /// More examples than the exact sum holds.
    #[error("the batch has more than {MAX_BATCH_EXAMPLES} examples")]
    TooManyExamples,
}

/// The sum of per-example gradients, each clipped to the norm C: private until [`crate::noisy_gradient`] adds noise.
///
/// It cannot be read, cloned or printed, so that un-noised sums stay inside this crate.
pub struct ClippedSum {
    clip: ClipNorm,
    /// In units of [`lattice_unit`].
    units: Vec<i64>,
    examples: u64,
    discarded: u64,
}

impl ClippedSum {
    /// The sum over no examples of gradients with `length` entries, all trained tensors together.
    ///
    /// # Errors
    /// [`ClipError::Length`] when `length` is 0 or above [`MAX_LENGTH`].
    pub fn new(clip: ClipNorm, length: usize) -> Result<Self, ClipError> {
        if !(1..=MAX_LENGTH).contains(&length) {
            return Err(ClipError::Length { given: length });
        }
        Ok(Self {
            clip,
            units: vec![0; length],
            examples: 0,
            discarded: 0,
        })
    }

    /// Adds one example: `tensors` are the gradients of its trained tensors, flat, in the order of the parameters.
    ///
    /// A gradient with a NaN or an infinity contributes zero: the example has its weight in no step, and the sum's
    /// sensitivity still holds.
    ///
    /// # Errors
    /// [`ClipError::ExampleLength`], [`ClipError::TooManyExamples`]; the sum is then unchanged.
    pub fn add_example(&mut self, tensors: &[&[f32]]) -> Result<(), ClipError> {
        let given = tensors.iter().map(|tensor| tensor.len()).sum();
        if given != self.units.len() {
            return Err(ClipError::ExampleLength {
                given,
                expected: self.units.len(),
            });
        }
        if self.examples == MAX_BATCH_EXAMPLES {
            return Err(ClipError::TooManyExamples);
        }
        self.examples += 1;
        let Some(scale) = scale_to_units(self.clip, tensors) else {
            self.discarded += 1;
            return Ok(());
        };
        let mut rest = self.units.as_mut_slice();
        for tensor in tensors {
            let (units, later) = rest.split_at_mut(tensor.len());
            for (sum, &entry) in units.iter_mut().zip(*tensor) {
                *sum += (f64::from(entry) * scale) as i64;
            }
            rest = later;
        }
        Ok(())
    }

    /// Adds `examples` examples: each tensor is row-major `[examples, entries]`, one row per example.
    ///
    /// May be called several times per step, so that a batch larger than memory goes in pieces.
    ///
    /// # Errors
    /// Those of [`ClippedSum::add_example`], and [`ClipError::BatchLength`]; the sum is then unchanged.
    pub fn add_batch(&mut self, examples: usize, tensors: &[&[f32]]) -> Result<(), ClipError> {
        if examples == 0 && tensors.iter().all(|tensor| tensor.is_empty()) {
            return Ok(());
        }
        let mut given = 0;
        for (tensor, entries) in tensors.iter().enumerate() {
            if examples == 0 || entries.len() % examples != 0 {
                return Err(ClipError::BatchLength {
                    tensor,
                    given: entries.len(),
                    examples,
                });
            }
            given += entries.len() / examples;
        }
        if given != self.units.len() {
            return Err(ClipError::ExampleLength {
                given,
                expected: self.units.len(),
            });
        }
        if examples as u64 > MAX_BATCH_EXAMPLES - self.examples {
            return Err(ClipError::TooManyExamples);
        }
        let mut rows: Vec<&[f32]> = Vec::with_capacity(tensors.len());
        for example in 0..examples {
            rows.clear();
            rows.extend(tensors.iter().map(|tensor| {
                let width = tensor.len() / examples;
                &tensor[example * width..(example + 1) * width]
            }));
            self.add_example(&rows)?;
        }
        Ok(())
    }

    /// Entries of the gradient, all trained tensors together.
    #[must_use]
    pub fn length(&self) -> usize {
        self.units.len()
    }

    /// Examples whose gradient was not finite. This count is private data: it stays on the device.
    #[must_use]
    pub fn discarded(&self) -> u64 {
        self.discarded
    }

    /// The clip norm the sum was made with.
    #[must_use]
    pub fn clip_norm(&self) -> ClipNorm {
        self.clip
    }

    /// The sum in lattice units, for adding noise.
    pub(crate) fn into_units(self) -> Vec<i64> {
        self.units
    }
}

/// The size of one lattice unit for a clip norm: a power of two, between C 2^-25 and C 2^-24.
pub(crate) fn lattice_unit(clip: ClipNorm) -> f64 {
    let exponent = libm::ilogb(clip.get());
    libm::ldexp(1.0, exponent - LATTICE_BITS)
}

/// The factor that clips one example's gradient and brings it to lattice units; `None` when it is not finite.
fn scale_to_units(clip: ClipNorm, tensors: &[&[f32]]) -> Option<f64> {
    let mut squares = 0.0f64;
    let mut length = 0usize;
    for tensor in tensors {
        squares += tensor
            .iter()
            .map(|&entry| f64::from(entry) * f64::from(entry))
            .sum::<f64>();
        length += tensor.len();
    }
    if !squares.is_finite() {
        return None;
    }
    let norm = squares.sqrt();
    // The computed sum of `length` squares is off by at most `length` half-ulps, relatively; the root, the quotient
    // and the products add a few. Aiming that much below C keeps the true norm at most C. f32 squares cannot
    // overflow an f64, so a non-finite sum means a non-finite entry.
    let bound = clip.get() * (1.0 - (length as f64 + 8.0) * f64::EPSILON);
    let factor = if norm > bound { bound / norm } else { 1.0 };
    Some(factor / lattice_unit(clip))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn clip(value: f64) -> ClipNorm {
        ClipNorm::new(value).expect("valid")
    }

    /// The plain definition of DP-SGD's clipped sum, in f64, without a lattice: the non-private oracle.
    fn oracle(c: f64, examples: &[Vec<f32>]) -> Vec<f64> {
        let mut sum = vec![0.0; examples[0].len()];
        for example in examples {
            let norm = example
                .iter()
                .map(|&entry| f64::from(entry).powi(2))
                .sum::<f64>()
                .sqrt();
            let factor = if norm > c { c / norm } else { 1.0 };
            sum.iter_mut()
                .zip(example)
                .for_each(|(sum, &entry)| *sum += factor * f64::from(entry));
        }
        sum
    }

    fn clipped(c: f64, examples: &[Vec<f32>]) -> ClippedSum {
        let mut sum = ClippedSum::new(clip(c), examples[0].len()).expect("length");
        examples
            .iter()
            .for_each(|example| sum.add_example(&[example]).expect("same length"));
        sum
    }

    /// True when the exact norm of the lattice vector is at most C: integers only, but for C over a power of two.
    fn within_clip(sum: &ClippedSum) -> bool {
        let squares: u128 = sum
            .units
            .iter()
            .map(|&unit| u128::from(unit.unsigned_abs()).pow(2))
            .sum();
        let bound = sum.clip.get() / lattice_unit(sum.clip);
        // `bound` is below 2^25 with at most 53 bits: scaled by 2^28 it is an integer.
        let scaled = (bound * 2f64.powi(28)) as u128;
        squares << 56 <= scaled * scaled
    }

    fn adversarial_entry() -> impl Strategy<Value = f32> {
        prop_oneof![
            any::<f32>(),
            -1.0f32..1.0,
            Just(f32::MAX),
            Just(f32::MIN),
            Just(f32::MIN_POSITIVE),
            Just(1e-45),
            Just(0.0),
            Just(-0.0),
            Just(f32::NAN),
            Just(f32::INFINITY),
            Just(f32::NEG_INFINITY),
        ]
    }

    proptest! {
        #[test]
        fn one_adversarial_example_never_moves_the_sum_by_more_than_the_clip_norm(
            example in prop::collection::vec(adversarial_entry(), 1..200),
            c in prop_oneof![1e-12f64..1e12, 0.1f64..2.0, Just(0.5), Just(1.0)],
        ) {
            let sum = clipped(c, std::slice::from_ref(&example));
            prop_assert!(within_clip(&sum));
            let finite = example.iter().all(|entry| entry.is_finite());
            prop_assert_eq!(sum.discarded(), u64::from(!finite));
            prop_assert!(finite || sum.units.iter().all(|&unit| unit == 0));
        }

        #[test]
        fn the_sum_is_the_definition_up_to_one_lattice_unit_per_example(
            examples in prop::collection::vec(prop::collection::vec(-3.0f32..3.0, 7), 1..20),
            c in 0.01f64..10.0,
        ) {
            let sum = clipped(c, &examples);
            let unit = lattice_unit(clip(c));
            for (units, expected) in sum.units.iter().zip(oracle(c, &examples)) {
                let error = (*units as f64 * unit - expected).abs();
                prop_assert!(error <= 1.001 * unit * examples.len() as f64, "off by {} units", error / unit);
            }
        }

        #[test]
        fn the_sum_does_not_depend_on_the_order_or_the_batching(
            examples in prop::collection::vec(prop::collection::vec(adversarial_entry(), 6), 1..12),
            split in 0usize..12,
        ) {
            let forward = clipped(0.7, &examples);
            let reversed = clipped(0.7, &examples.iter().rev().cloned().collect::<Vec<_>>());
            prop_assert_eq!(&forward.units, &reversed.units);
            // The same examples as two batches of two tensors, [n, 2] and [n, 4].
            let mut batched = ClippedSum::new(clip(0.7), 6).expect("length");
            let (first, second) = examples.split_at(split.min(examples.len()));
            for part in [first, second] {
                let left: Vec<f32> = part.iter().flat_map(|example| example[..2].to_vec()).collect();
                let right: Vec<f32> = part.iter().flat_map(|example| example[2..].to_vec()).collect();
                batched.add_batch(part.len(), &[&left, &right]).expect("shapes");
            }
            prop_assert_eq!(&forward.units, &batched.units);
            prop_assert_eq!(forward.discarded(), batched.discarded());
        }
    }

    #[test]
    fn the_norm_is_joint_over_all_tensors() {
        let mut sum = ClippedSum::new(clip(1.0), 2).expect("length");
        sum.add_example(&[&[3.0], &[4.0]]).expect("two tensors");
        let unit = lattice_unit(clip(1.0));
        let values: Vec<f64> = sum.units.iter().map(|&units| units as f64 * unit).collect();
        assert!(
            (values[0] - 0.6).abs() < 1e-6 && (values[1] - 0.8).abs() < 1e-6,
            "{values:?}"
        );
    }

    #[test]
    fn wrong_shapes_are_refused_and_leave_the_sum_unchanged() {
        let mut sum = ClippedSum::new(clip(1.0), 4).expect("length");
        assert_eq!(
            sum.add_example(&[&[1.0; 3]]),
            Err(ClipError::ExampleLength { given: 3, expected: 4 })
        );
        assert_eq!(
            sum.add_batch(2, &[&[1.0; 4], &[1.0; 3]]),
            Err(ClipError::BatchLength {
                tensor: 1,
                given: 3,
                examples: 2
            })
        );
        assert_eq!(
            sum.add_batch(2, &[&[1.0; 4]]),
            Err(ClipError::ExampleLength { given: 2, expected: 4 })
        );
        assert_eq!(
            sum.add_batch(0, &[&[1.0; 4]]),
            Err(ClipError::BatchLength {
                tensor: 0,
                given: 4,
                examples: 0
            })
        );
        assert_eq!(sum.add_batch(0, &[&[]]), Ok(()));
        assert!(sum.units.iter().all(|&unit| unit == 0));
        assert_eq!(
            ClippedSum::new(clip(1.0), 0).err(),
            Some(ClipError::Length { given: 0 })
        );
        assert_eq!(
            ClippedSum::new(clip(1.0), MAX_LENGTH + 1).err(),
            Some(ClipError::Length { given: MAX_LENGTH + 1 })
        );
    }
}
