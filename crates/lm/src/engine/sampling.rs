//! Choosing the next token.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampling {
    /// The most probable token; the lowest id among equals.
    Greedy,
    /// A token drawn at random.
    Random {
        /// Logits are divided by it; positive. Under 1 the probable tokens gain.
        temperature: f32,
        /// Only the `top_k` most probable tokens may be drawn; `None` for all.
        top_k: Option<usize>,
        /// Only the most probable tokens that together reach this probability may be drawn; 1 for all.
        top_p: f32,
        /// Seed of the generator: the same seed, prompt and weights give the same text.
        seed: u64,
    },
}

impl Sampling {
    /// What OpenAI's `temperature` and `top_p` mean: temperature 0 is greedy.
    pub fn from_temperature(temperature: f32, top_p: f32, seed: u64) -> Self {
        if temperature > 0.0 {
            Sampling::Random {
                temperature,
                top_k: None,
                top_p,
                seed,
            }
        } else {
            Sampling::Greedy
        }
    }
}

/// A token and how probable the model found it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Choice {
    pub(crate) token: u32,
    /// Natural logarithm of its probability under the model itself: before temperature and truncation.
    pub(crate) log_probability: f32,
}

/// Chooses tokens for one generation.
#[derive(Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    generator: ChaCha8Rng,
}

impl Sampler {
    pub(crate) fn new(sampling: Sampling) -> Self {
        let seed = match sampling {
            Sampling::Greedy => 0,
            Sampling::Random { seed, .. } => seed,
        };
        Self {
            sampling,
            generator: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    pub(crate) fn choose(&mut self, logits: &[f32]) -> Choice {
        let token = match self.sampling {
            Sampling::Greedy => most_probable(logits),
            Sampling::Random {
                temperature,
                top_k,
                top_p,
                ..
            } => self.draw(logits, temperature, top_k, top_p),
        };
        let log_probability = logits[token as usize] - log_sum_exp(logits) as f32;
        Choice { token, log_probability }
    }

    fn draw(&mut self, logits: &[f32], temperature: f32, top_k: Option<usize>, top_p: f32) -> u32 {
        let mut ranked: Vec<(u32, f64)> = logits
            .iter()
            .enumerate()
            .map(|(token, logit)| (token as u32, f64::from(*logit / temperature)))
            .collect();
        ranked.sort_unstable_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
        ranked.truncate(top_k.unwrap_or(usize::MAX).max(1));
        let largest = ranked[0].1;
        for (_, weight) in &mut ranked {
            *weight = (*weight - largest).exp();
        }
        let nucleus = nucleus(&ranked, f64::from(top_p));
        let total: f64 = ranked[..nucleus].iter().map(|(_, weight)| weight).sum();
        let mut left = self.uniform() * total;
        for (token, weight) in &ranked[..nucleus] {
            left -= weight;
            if left < 0.0 {
                return *token;
            }
        }
        ranked[0].0
    }

    /// A number of 53 random bits in `[0, 1)`.
    fn uniform(&mut self) -> f64 {
        (self.generator.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// How many of the ranked weights it takes to reach the part `top_p` of their sum; at least one.
fn nucleus(ranked: &[(u32, f64)], top_p: f64) -> usize {
    let enough = top_p * ranked.iter().map(|(_, weight)| weight).sum::<f64>();
    let mut reached = 0.0;
    for (index, (_, weight)) in ranked.iter().enumerate() {
        reached += weight;
        if reached >= enough {
            return index + 1;
        }
    }
    ranked.len()
}

pub(crate) fn most_probable(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

/// `ln(sum(exp(logits)))`, summed in F64.
pub(crate) fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    f64::from(largest) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(temperature: f32, top_k: Option<usize>, top_p: f32, seed: u64) -> Sampler {
        Sampler::new(Sampling::Random {
            temperature,
            top_k,
            top_p,
            seed,
        })
    }

    /// How often each of four tokens is drawn in 4,000 draws.
    fn counts(mut sampler: Sampler) -> [usize; 4] {
        let logits = [0.4_f32, 0.3, 0.2, 0.1].map(f32::ln);
        let mut counts = [0; 4];
        for _ in 0..4_000 {
            counts[sampler.choose(&logits).token as usize] += 1;
        }
        counts
    }

    #[test]
    fn draws_follow_the_distribution() {
        // Four standard deviations of a binomial of 4,000 draws are at most 127.
        for (drawn, expected) in counts(random(1.0, None, 1.0, 7))
            .into_iter()
            .zip([1600, 1200, 800, 400])
        {
            assert!(usize::abs_diff(drawn, expected) < 127, "{drawn} of {expected}");
        }
    }

    #[test]
    fn truncation_keeps_the_most_probable() {
        assert_eq!(counts(random(1.0, Some(1), 1.0, 1)), [4_000, 0, 0, 0]);
        assert_eq!(counts(random(1.0, Some(2), 1.0, 1))[2..], [0, 0]);
        assert_eq!(counts(random(1.0, None, 0.69, 1))[2..], [0, 0]);
        assert!(counts(random(1.0, None, 0.71, 1))[2] > 0);
        assert_eq!(counts(random(1.0, None, 0.0, 1)), [4_000, 0, 0, 0]);
    }

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let draws = |seed| {
            let mut sampler = random(1.0, None, 1.0, seed);
            (0..32).map(|_| sampler.choose(&[0.0; 16]).token).collect::<Vec<_>>()
        };
        assert_eq!(draws(3), draws(3));
        assert_ne!(draws(3), draws(4));
    }

    #[test]
    fn log_probabilities_are_the_models_own() {
        let logits = [0.4_f32, 0.3, 0.2, 0.1].map(f32::ln);
        let choice = random(0.1, None, 1.0, 1).choose(&logits);
        assert!((choice.log_probability - logits[choice.token as usize]).abs() < 1e-6);
        assert_eq!(Sampler::new(Sampling::Greedy).choose(&[1.0, 3.0, 3.0]).token, 1);
    }
}
