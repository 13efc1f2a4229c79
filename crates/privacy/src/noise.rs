//! Gaussian noise from a cryptographic generator, for a lattice.
//!
//! Textbook samplers return floating-point numbers of which many neighbours can never occur, and which ones depends on
//! the value they are added to: an observer reads the un-noised sum from the low bits (Mironov 2012; Jin et al. 2021,
//! arXiv 2112.05307, which breaks DP-SGD this way). Two things stand against it here. The noise is rounded to the
//! lattice on which [`crate::clip`] sums exactly, so that the released value is `round(x + N)` of an integer `x`: the
//! rounding is post-processing of the Gaussian mechanism, and every lattice point has at least 2^13 floating-point
//! preimages within one standard deviation. And each draw is half the sum of four normal values (Holohan and Braghin
//! 2021), which makes inverting the sampler infeasible and extends its tail from 8.5 to 17 standard deviations.
//!
//! The number of generator calls per value is constant. The time of the elementary functions is not guaranteed to be:
//! noise is drawn in the training child, off every request path.

use std::fmt;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;

use crate::randomness::{Purpose, TrainingSeed};

/// The Gaussian noise of one step. Used up by [`crate::noisy_gradient`], so that no noise is added twice.
pub struct GaussianNoise {
    generator: ChaCha20Rng,
}

impl GaussianNoise {
    /// The noise of `step`, counted from 0 within the round of the seed.
    #[must_use]
    pub fn for_step(seed: &TrainingSeed, step: u64) -> Self {
        Self {
            generator: seed.stream(Purpose::Noise, step),
        }
    }

    /// One rounded Gaussian integer with the given standard deviation.
    pub(crate) fn next_units(&mut self, deviation: f64) -> i64 {
        let (a, b) = self.normal_pair();
        let (c, d) = self.normal_pair();
        let standard = ((a + b) + (c + d)) * 0.5;
        libm::rint(standard * deviation) as i64
    }

    /// Two independent standard normal values (Box and Muller). `libm` computes the same bits on every machine.
    fn normal_pair(&mut self) -> (f64, f64) {
        const UNIFORM: f64 = 1.0 / (1u64 << 53) as f64;
        // In (0, 1], so that the logarithm is finite.
        let radius_draw = ((self.generator.next_u64() >> 11) + 1) as f64 * UNIFORM;
        let angle_draw = (self.generator.next_u64() >> 11) as f64 * UNIFORM;
        let radius = (-2.0 * libm::log(radius_draw)).sqrt();
        let (sine, cosine) = libm::sincos(std::f64::consts::TAU * angle_draw);
        (radius * cosine, radius * sine)
    }
}

impl fmt::Debug for GaussianNoise {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("GaussianNoise(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(seed: u8, step: u64, deviation: f64, count: usize) -> Vec<i64> {
        let mut noise = GaussianNoise::for_step(&TrainingSeed::new([seed; 32]), step);
        (0..count).map(|_| noise.next_units(deviation)).collect()
    }

    #[test]
    fn the_noise_has_the_moments_and_the_distribution_of_a_gaussian() {
        let (deviation, count) = (2f64.powi(24), 200_000);
        let mut values: Vec<f64> = draw(1, 0, deviation, count)
            .into_iter()
            .map(|units| units as f64 / deviation)
            .collect();
        let moment = |power| values.iter().map(|value| value.powi(power)).sum::<f64>() / count as f64;
        // Bounds of five standard errors: sqrt(1/n), sqrt(2/n), sqrt(15/n), sqrt(96/n).
        let error = |variance: f64| 5.0 * (variance / count as f64).sqrt();
        assert!(moment(1).abs() < error(1.0), "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < error(2.0), "variance {}", moment(2));
        assert!(moment(3).abs() < error(15.0), "third moment {}", moment(3));
        assert!((moment(4) - 3.0).abs() < error(96.0), "fourth moment {}", moment(4));
        values.sort_by(f64::total_cmp);
        let distance = values.iter().enumerate().fold(0.0f64, |largest, (rank, value)| {
            let cumulative = 0.5 * libm::erfc(-value / std::f64::consts::SQRT_2);
            largest.max((cumulative - (rank as f64 + 0.5) / count as f64).abs())
        });
        // Kolmogorov-Smirnov at a level of 1e-6: sqrt(ln(2 / 1e-6) / 2n).
        assert!(
            distance < (2e6f64.ln() / (2.0 * count as f64)).sqrt(),
            "distance {distance}"
        );
    }

    #[test]
    fn noise_repeats_for_its_step_and_differs_for_every_other() {
        let first = draw(1, 0, 1e9, 64);
        assert_eq!(first, draw(1, 0, 1e9, 64));
        for other in [draw(1, 1, 1e9, 64), draw(2, 0, 1e9, 64)] {
            assert!(first.iter().zip(&other).all(|(a, b)| a != b));
        }
    }

    #[test]
    fn low_bits_of_the_noise_are_uniform_so_that_spacing_reveals_nothing() {
        // At the largest multiplier the deviation is below 2^39 units: the lowest bits must still be even.
        let values = draw(5, 0, 2f64.powi(39), 64_000);
        let mut buckets = [0u32; 16];
        values.iter().for_each(|value| buckets[(value & 15) as usize] += 1);
        let chi_squared: f64 = buckets
            .iter()
            .map(|&count| (f64::from(count) - 4_000.0).powi(2) / 4_000.0)
            .sum();
        // 15 degrees of freedom: 50 is exceeded with a probability of 1e-5; the seed is fixed.
        assert!(chi_squared < 50.0, "chi squared {chi_squared}");
    }
}
