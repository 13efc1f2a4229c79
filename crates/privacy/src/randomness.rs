//! The secret randomness of one round's training.

use std::fmt;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

/// What a stream of random numbers is used for. Streams of one seed are independent of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Sampling = 1,
    Noise = 2,
}

/// The 32 secret bytes from which one round draws its batches and its noise.
///
/// Draw it from the operating system for each (job, round, attempt), never send it anywhere, and never train two
/// different rounds with one seed: who knows the seed can subtract the noise. Training again with the same seed and
/// the same examples repeats the same bytes, so that a crash is no second release.
#[derive(Clone, PartialEq, Eq)]
pub struct TrainingSeed([u8; 32]);

impl TrainingSeed {
    /// Takes 32 bytes from a cryptographic generator.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// ChaCha20 keyed by the seed; `step` and the purpose select one of 2^64 independent streams.
    pub(crate) fn stream(&self, purpose: Purpose, step: u64) -> ChaCha20Rng {
        debug_assert!(step < 1 << 56, "steps are limited far below 2^56");
        let mut generator = ChaCha20Rng::from_seed(self.0);
        generator.set_stream((purpose as u64) << 56 | step);
        generator
    }
}

impl fmt::Debug for TrainingSeed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TrainingSeed(secret)")
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::Rng;

    use super::*;

    #[test]
    fn streams_of_one_seed_differ_by_purpose_and_by_step() {
        let seed = TrainingSeed::new([7; 32]);
        let first = |purpose, step| seed.stream(purpose, step).next_u64();
        let drawn = [
            first(Purpose::Sampling, 0),
            first(Purpose::Noise, 0),
            first(Purpose::Sampling, 1),
            first(Purpose::Noise, 1),
        ];
        for (index, value) in drawn.iter().enumerate() {
            assert!(!drawn[..index].contains(value), "stream {index} repeats another");
        }
        assert_eq!(first(Purpose::Noise, 1), drawn[3], "a stream repeats itself");
    }

    #[test]
    fn debug_output_does_not_reveal_the_seed() {
        assert_eq!(format!("{:?}", TrainingSeed::new([42; 32])), "TrainingSeed(secret)");
    }
}
