//! One noisy step: the clipped sum, plus Gaussian noise, over a public constant.

use thiserror::Error;

use crate::clip::{ClippedSum, lattice_unit};
use crate::noise::GaussianNoise;
use crate::parameters::DpSgdParameters;

/// A step that would not be the mechanism which the ledger paid for.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum StepError {
    /// The sum was clipped to another norm than the noise is scaled to.
    #[error("the sum was clipped to {sum}, the parameters say {parameters}")]
    ClipNorm {
        /// The sum's clip norm.
        sum: f64,
        /// The parameters' clip norm.
        parameters: f64,
    },
}

/// `(clipped sum + N(0, sigma^2 C^2)) / (q N_public)`, entry by entry, in the order of the sum.
///
/// Uses up the sum and the noise. The result is differentially private; whatever an optimiser makes of it (momentum,
/// Adam) is post-processing. An empty batch gives noise alone, which must be released all the same.
///
/// # Errors
/// [`StepError::ClipNorm`] when the sum's clip norm is not that of the parameters.
pub fn noisy_gradient(
    sum: ClippedSum,
    mut noise: GaussianNoise,
    parameters: &DpSgdParameters,
) -> Result<Vec<f32>, StepError> {
    let clip = parameters.clip_norm();
    if sum.clip_norm() != clip {
        return Err(StepError::ClipNorm {
            sum: sum.clip_norm().get(),
            parameters: clip.get(),
        });
    }
    let unit = lattice_unit(clip);
    let deviation = parameters.noise_multiplier().get() * clip.get() / unit;
    let value_of_unit = unit / parameters.divisor();
    let noisy = sum.into_units().into_iter().map(|units| {
        // Below 2^56 + 18 * 2^39: no overflow, and the sum of integers is exact.
        let released = units + noise.next_units(deviation);
        (released as f64 * value_of_unit) as f32
    });
    Ok(noisy.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantity::ClipNorm;
    use crate::randomness::TrainingSeed;

    fn parameters(sigma: f64) -> DpSgdParameters {
        DpSgdParameters::from_numbers(0.16, 8, 0.5, sigma, 200).expect("valid")
    }

    fn step(sigma: f64, gradient: &[f32], examples: usize, step: u64) -> Vec<f32> {
        let parameters = parameters(sigma);
        let mut sum = ClippedSum::new(parameters.clip_norm(), gradient.len()).expect("length");
        for _ in 0..examples {
            sum.add_example(&[gradient]).expect("length");
        }
        let noise = GaussianNoise::for_step(&TrainingSeed::new([9; 32]), step);
        noisy_gradient(sum, noise, &parameters).expect("same clip norm")
    }

    #[test]
    fn an_empty_batch_is_noise_of_sigma_c_over_the_public_divisor() {
        let entries = 100_000;
        let gradient = step(1.5, &vec![0.0; entries], 0, 0);
        let variance = gradient.iter().map(|&entry| f64::from(entry).powi(2)).sum::<f64>() / entries as f64;
        let expected = (1.5 * 0.5 / 32.0f64).powi(2);
        assert!(
            (variance / expected - 1.0).abs() < 5.0 * (2.0 / entries as f64).sqrt(),
            "{variance} for {expected}"
        );
    }

    #[test]
    fn the_divisor_is_the_public_constant_whatever_the_batch() {
        // The noise is the same in all three, so differences are the signal: 0.25 per example over 32.
        let gradient = vec![0.25f32; 1];
        let (none, one, hundred) = (
            step(1.0, &gradient, 0, 3),
            step(1.0, &gradient, 1, 3),
            step(1.0, &gradient, 100, 3),
        );
        assert!((f64::from(one[0] - none[0]) - 0.25 / 32.0).abs() < 1e-6);
        assert!((f64::from(hundred[0] - none[0]) - 25.0 / 32.0).abs() < 1e-6);
    }

    #[test]
    fn noise_is_fresh_in_every_step_and_entry() {
        let (first, second) = (step(1.0, &[0.0; 50], 0, 0), step(1.0, &[0.0; 50], 0, 1));
        assert!(first.iter().zip(&second).all(|(a, b)| a != b));
        assert!(first.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_sum_with_another_clip_norm_is_refused() {
        let sum = ClippedSum::new(ClipNorm::new(1.0).expect("valid"), 3).expect("length");
        let noise = GaussianNoise::for_step(&TrainingSeed::new([0; 32]), 0);
        assert_eq!(
            noisy_gradient(sum, noise, &parameters(1.0)),
            Err(StepError::ClipNorm {
                sum: 1.0,
                parameters: 0.5
            })
        );
    }
}
