//! Poisson sampling of batches from a cryptographic generator.

use rand_chacha::rand_core::Rng;

use crate::quantity::SamplingRate;
use crate::randomness::{Purpose, TrainingSeed};

/// Draws one batch per step: each example enters independently with the sampling rate.
///
/// This, and not shuffling or fixed batches, is what the accountant's amplification assumes. A batch may be empty; it
/// is still a step, and its noise is added.
#[derive(Clone, Debug)]
pub struct PoissonSampler {
    seed: TrainingSeed,
    /// An example enters when a uniform 64-bit number lies below this; 2^64 for a rate of 1.
    threshold: u128,
}

impl PoissonSampler {
    /// A sampler for one round.
    #[must_use]
    pub fn new(seed: &TrainingSeed, rate: SamplingRate) -> Self {
        // Truncated, so that the probability is never above the rate that the ledger pays for.
        let threshold = (rate.get() * 2f64.powi(64)) as u128;
        Self {
            seed: seed.clone(),
            threshold,
        }
    }

    /// The indices, ascending, of the examples in the batch of `step`, out of `examples`.
    ///
    /// Every step has a stream of its own, so steps may be drawn in any order. As many numbers are drawn as there are
    /// examples, whatever the batch.
    #[must_use]
    pub fn batch(&self, step: u64, examples: usize) -> Vec<usize> {
        let mut generator = self.seed.stream(Purpose::Sampling, step);
        (0..examples)
            .filter(|_| u128::from(generator.next_u64()) < self.threshold)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(rate: f64) -> PoissonSampler {
        PoissonSampler::new(&TrainingSeed::new([3; 32]), SamplingRate::new(rate).expect("valid"))
    }

    #[test]
    fn every_example_enters_with_the_rate_and_independently_of_its_neighbour() {
        let (rate, examples, steps) = (0.16, 200, 5_000);
        let sampler = sampler(rate);
        let mut entered = vec![0u32; examples];
        let mut pairs = 0u32;
        let mut sizes = Vec::new();
        for step in 0..steps {
            let batch = sampler.batch(step, examples);
            sizes.push(batch.len() as f64);
            pairs += u32::from(batch.contains(&0) && batch.contains(&1));
            batch.iter().for_each(|&example| entered[example] += 1);
        }
        let deviation = (steps as f64 * rate * (1.0 - rate)).sqrt();
        for count in entered {
            assert!(
                (f64::from(count) - steps as f64 * rate).abs() < 5.0 * deviation,
                "an example entered {count} times"
            );
        }
        let expected_pairs = steps as f64 * rate * rate;
        assert!(
            (f64::from(pairs) - expected_pairs).abs() < 5.0 * expected_pairs.sqrt(),
            "{pairs} pairs"
        );
        let mean = sizes.iter().sum::<f64>() / sizes.len() as f64;
        let variance = sizes.iter().map(|size| (size - mean).powi(2)).sum::<f64>() / sizes.len() as f64;
        let binomial = examples as f64 * rate * (1.0 - rate);
        assert!(
            (variance / binomial - 1.0).abs() < 0.1,
            "batch sizes vary by {variance}, binomial is {binomial}"
        );
    }

    #[test]
    fn the_extremes_of_the_rate_are_exact() {
        assert_eq!(sampler(1.0).batch(0, 1000).len(), 1000);
        assert!(sampler(1e-9).batch(0, 1000).is_empty());
        assert!(sampler(0.5).batch(0, 0).is_empty());
    }

    #[test]
    fn a_step_repeats_its_batch_and_differs_from_the_next() {
        let sampler = sampler(0.5);
        assert_eq!(sampler.batch(9, 500), sampler.batch(9, 500));
        assert_ne!(sampler.batch(9, 500), sampler.batch(10, 500));
    }
}
