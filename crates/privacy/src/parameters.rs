//! The public parameters of one device's private training in one round.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::accountant::Mechanism;
use crate::limits::{MAX_PUBLIC_EXAMPLES, MAX_STEPS};
use crate::quantity::{ClipNorm, NoiseMultiplier, QuantityError, SamplingRate, exact};

/// Parameters with which no private training can run.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum ParameterError {
    /// A number outside its quantity's range.
    #[error(transparent)]
    Quantity(#[from] QuantityError),
    /// A round without steps, or with more than the limit.
    #[error("steps is {given}, expected 1 to {MAX_STEPS}")]
    Steps {
        /// What was given.
        given: u64,
    },
    /// A device size that makes the public divisor impossible.
    #[error("public examples is {given}, expected 1 to {MAX_PUBLIC_EXAMPLES}")]
    PublicExamples {
        /// What was given.
        given: u64,
    },
    /// Fewer than one example expected per batch, so that dividing by q times N would enlarge the noise beyond C.
    #[error(
        "sampling rate {rate} of {examples} public examples expects {expected} examples a batch, at least 1 is needed"
    )]
    BatchBelowOne {
        /// The sampling rate.
        rate: f64,
        /// The public number of examples.
        examples: u64,
        /// Their product.
        expected: f64,
    },
}

/// The parameters of DP-SGD, all of them public constants of the job.
///
/// `public_examples` is the number of examples a device is taken to have, whatever it really has: the divisor
/// `q * public_examples` must not depend on private data.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct DpSgdParameters {
    sampling_rate: SamplingRate,
    steps: u64,
    clip_norm: ClipNorm,
    noise_multiplier: NoiseMultiplier,
    public_examples: u64,
}

impl DpSgdParameters {
    /// Checks the parameters against each other.
    ///
    /// # Errors
    /// [`ParameterError`] names the first parameter that is impossible.
    pub fn new(
        sampling_rate: SamplingRate,
        steps: u64,
        clip_norm: ClipNorm,
        noise_multiplier: NoiseMultiplier,
        public_examples: u64,
    ) -> Result<Self, ParameterError> {
        if !(1..=MAX_STEPS).contains(&steps) {
            return Err(ParameterError::Steps { given: steps });
        }
        if !(1..=MAX_PUBLIC_EXAMPLES).contains(&public_examples) {
            return Err(ParameterError::PublicExamples { given: public_examples });
        }
        let parameters = Self {
            sampling_rate,
            steps,
            clip_norm,
            noise_multiplier,
            public_examples,
        };
        let expected = parameters.divisor();
        if expected < 1.0 {
            return Err(ParameterError::BatchBelowOne {
                rate: sampling_rate.get(),
                examples: public_examples,
                expected,
            });
        }
        Ok(parameters)
    }

    /// The same as [`DpSgdParameters::new`], from plain numbers as a job states them.
    ///
    /// # Errors
    /// [`ParameterError`] names the first parameter that is impossible.
    pub fn from_numbers(
        sampling_rate: f64,
        steps: u64,
        clip_norm: f64,
        noise_multiplier: f64,
        public_examples: u64,
    ) -> Result<Self, ParameterError> {
        Self::new(
            SamplingRate::new(sampling_rate)?,
            steps,
            ClipNorm::new(clip_norm)?,
            NoiseMultiplier::new(noise_multiplier)?,
            public_examples,
        )
    }

    /// The probability q with which each example enters each batch.
    #[must_use]
    pub fn sampling_rate(&self) -> SamplingRate {
        self.sampling_rate
    }

    /// Noisy steps per round; an empty batch is a step.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The bound C on each example's gradient.
    #[must_use]
    pub fn clip_norm(&self) -> ClipNorm {
        self.clip_norm
    }

    /// The noise's standard deviation in units of C.
    #[must_use]
    pub fn noise_multiplier(&self) -> NoiseMultiplier {
        self.noise_multiplier
    }

    /// The number of examples every device is taken to have.
    #[must_use]
    pub fn public_examples(&self) -> u64 {
        self.public_examples
    }

    /// The public divisor of the noisy sum: q times the public number of examples.
    #[must_use]
    pub fn divisor(&self) -> f64 {
        self.sampling_rate.get() * self.public_examples as f64
    }

    /// What one round with these parameters releases, as the ledger records it.
    #[must_use]
    pub fn mechanism(&self) -> Mechanism {
        Mechanism {
            sampling_rate: self.sampling_rate,
            noise_multiplier: self.noise_multiplier,
            steps: self.steps,
        }
    }
}

/// The serialised form; reading it goes through the checks.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    #[serde(with = "exact")]
    sampling_rate: SamplingRate,
    steps: u64,
    #[serde(with = "exact")]
    clip_norm: ClipNorm,
    #[serde(with = "exact")]
    noise_multiplier: NoiseMultiplier,
    public_examples: u64,
}

impl TryFrom<Unchecked> for DpSgdParameters {
    type Error = ParameterError;

    fn try_from(unchecked: Unchecked) -> Result<Self, ParameterError> {
        let Unchecked {
            sampling_rate,
            steps,
            clip_norm,
            noise_multiplier,
            public_examples,
        } = unchecked;
        Self::new(sampling_rate, steps, clip_norm, noise_multiplier, public_examples)
    }
}

impl From<DpSgdParameters> for Unchecked {
    fn from(parameters: DpSgdParameters) -> Self {
        let DpSgdParameters {
            sampling_rate,
            steps,
            clip_norm,
            noise_multiplier,
            public_examples,
        } = parameters;
        Self {
            sampling_rate,
            steps,
            clip_norm,
            noise_multiplier,
            public_examples,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_parameters_are_refused_by_name() {
        let cases = [
            ((0.0, 8, 0.5, 1.0, 200), "sampling rate is 0"),
            ((1.5, 8, 0.5, 1.0, 200), "sampling rate is 1.5"),
            ((f64::NAN, 8, 0.5, 1.0, 200), "sampling rate is NaN"),
            ((0.16, 0, 0.5, 1.0, 200), "steps is 0"),
            ((0.16, MAX_STEPS + 1, 0.5, 1.0, 200), "steps is 10000001"),
            ((0.16, 8, 0.0, 1.0, 200), "clip norm is 0"),
            ((0.16, 8, f64::INFINITY, 1.0, 200), "clip norm is inf"),
            ((0.16, 8, 0.5, 0.0, 200), "noise multiplier is 0"),
            ((0.16, 8, 0.5, -1.0, 200), "noise multiplier is -1"),
            ((0.16, 8, 0.5, 1.0, 0), "public examples is 0"),
            ((0.001, 8, 0.5, 1.0, 200), "expects 0.2 examples a batch"),
        ];
        for ((q, steps, clip, sigma, examples), reason) in cases {
            let error = DpSgdParameters::from_numbers(q, steps, clip, sigma, examples).expect_err(reason);
            assert!(error.to_string().contains(reason), "{error} does not say {reason}");
        }
    }

    #[test]
    fn parameters_survive_json_bit_for_bit_and_hostile_json_is_checked() {
        let parameters = DpSgdParameters::from_numbers(0.1 + 0.06, 8, 0.1 * 5.0, 1.04 / 3.0, 200).expect("valid");
        let json = serde_json::to_string(&parameters).expect("serialises");
        assert_eq!(
            serde_json::from_str::<DpSgdParameters>(&json).expect("reads back"),
            parameters
        );
        let hostile = json.replace("\"steps\":8", "\"steps\":0");
        assert!(
            serde_json::from_str::<DpSgdParameters>(&hostile)
                .expect_err("zero steps")
                .to_string()
                .contains("steps")
        );
    }
}
