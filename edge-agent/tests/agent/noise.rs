//! What privacy rests on, measured in the contributions of the real training process: that noise of the configured size is added,
//! drawn anew for each step and each round, and that one example moves no step by more than the clip norm.
//!
//! Adam divides a gradient `g` by `|g| + epsilon` in its first step. With clip norms that make all gradients much smaller than its
//! epsilon, an update is the gradient, magnified by a known constant, whatever the model. The seed is the process's own and of no
//! test's choosing; tolerances are seven standard deviations of what is measured, which chance exceeds once in 10^11 runs.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fieldfare_agent::private::StoredExample;
use fieldfare_agent::rounds::{Order, Training, train};
use fieldfare_lm::example::Example;
use fieldfare_lm::train::{AdamConfig, LoraSpec};
use fieldfare_privacy::{DpSgdParameters, RingCodec, RingParameters};

use crate::binary;

/// The shipped model has 4 layers; B has a row for each output of its seven projections (four of 96, two of 256, 96), times rank 4.
const ENTRIES: usize = 4 * 4 * (4 * 96 + 2 * 256 + 96);

/// What a round is to measure.
#[derive(Clone, Copy, Debug)]
struct Setting {
    steps: u64,
    /// The clip norm C.
    clip: f64,
    /// The noise multiplier sigma.
    sigma: f64,
    /// The sampling rate q.
    rate: f64,
    public_examples: u64,
    /// The device's examples.
    examples: u64,
}

impl Setting {
    /// The deviation of the noise in one entry of one step.
    fn deviation(self) -> f64 {
        self.sigma * self.clip / (self.rate * self.public_examples as f64)
    }

    /// The sum that a contribution is of the gradients of its steps, each times what Adam's means and corrections make of it.
    async fn contributed(self) -> Vec<f64> {
        let ring = RingParameters {
            length: ENTRIES,
            range: 0.5,
            ring_bits: 32,
            cohort_limit: 64,
        };
        let LoraSpec { rank, alpha, seed } = LoraSpec {
            rank: 4,
            alpha: 8.0,
            seed: 3,
        };
        let dp = DpSgdParameters::from_numbers(self.rate, self.steps, self.clip, self.sigma, self.public_examples);
        let example = |id| StoredExample {
            id,
            example: Example::Completion {
                prompt: "At mill-lane the soil moisture is too low.\n".into(),
                completion: "Moisture low in Zone 3.".into(),
            },
        };
        let order = Order {
            weights: weights(),
            training: Training {
                rank,
                alpha,
                a_seed: seed,
                dp: dp.unwrap(),
                ring,
                learning_rate: 1.0,
                max_sequence_tokens: 32,
                physical_batch: 4,
            },
            state: STANDARD.encode(vec![0; ENTRIES * 4]),
            examples: (0..self.examples).map(example).collect(),
            address_space: 16 << 30,
        };
        let bytes = train(&binary(), &order).await.unwrap();
        let update = RingCodec::new(ring).unwrap().decode(&bytes).unwrap();
        assert_eq!(update.len(), ENTRIES);
        let epsilon = f64::from(AdamConfig::default().epsilon);
        update.iter().map(|entry| -f64::from(*entry) * epsilon).collect()
    }
}

fn weights() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/farm-alert/farm-alert-f16.gguf")
}

fn energy(entries: &[f64]) -> f64 {
    entries.iter().map(|entry| entry * entry).sum()
}

/// Correlation of two vectors of mean zero.
fn correlation(one: &[f64], other: &[f64]) -> f64 {
    let product: f64 = one.iter().zip(other).map(|(one, other)| one * other).sum();
    product / (energy(one) * energy(other)).sqrt()
}

/// Seven deviations of a mean square of as many entries, relative to it; and one part in a hundred for Adam's epsilon.
fn tolerance() -> f64 {
    7.0 * (2.0 / ENTRIES as f64).sqrt() + 0.01
}

/// What the gradient of each step is multiplied with in the end, from Adam's published formulas (arXiv 1412.6980).
fn weights_of_steps(steps: i32) -> Vec<f64> {
    let beta = f64::from(AdamConfig::default().beta1);
    let of = |step: i32| (step..=steps).map(move |t| (1.0 - beta) * beta.powi(t - step) / (1.0 - beta.powi(t)));
    (1..=steps).map(|step| of(step).sum()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_of_the_configured_size_is_in_every_contribution_and_is_drawn_anew() {
    let small = Setting {
        steps: 1,
        clip: 1e-11,
        sigma: 1.0,
        rate: 0.5,
        public_examples: 2,
        examples: 0,
    };
    let settings = [
        small,
        Setting { sigma: 3.0, ..small },
        Setting { clip: 4e-11, ..small },
        Setting {
            rate: 0.25,
            public_examples: 20,
            sigma: 20.0,
            ..small
        },
    ];
    let mut measured = Vec::new();
    for setting in settings {
        let noise = setting.contributed().await;
        let found = energy(&noise) / ENTRIES as f64 / setting.deviation().powi(2);
        assert!(
            (found - 1.0).abs() < tolerance(),
            "{setting:?}: {found} of the variance"
        );
        measured.push(noise);
    }
    for (index, one) in measured.iter().enumerate() {
        for other in &measured[..index] {
            let found = correlation(one, other);
            assert!(
                found.abs() < 7.0 / (ENTRIES as f64).sqrt(),
                "rounds share their noise: {found}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_noise_of_distinct_steps_is_independent() {
    let setting = Setting {
        steps: 8,
        clip: 1e-11,
        sigma: 1.0,
        rate: 1.0,
        public_examples: 1,
        examples: 0,
    };
    let noise = setting.contributed().await;
    let found = energy(&noise) / ENTRIES as f64 / setting.deviation().powi(2);
    // Variances add where steps are independent; deviations would where they are the same.
    let weights = weights_of_steps(8);
    let (independent, same) = (energy(&weights), weights.iter().sum::<f64>().powi(2));
    assert!(
        same > 4.0 * independent,
        "the two can be told apart: {same}, {independent}"
    );
    assert!(
        (found / independent - 1.0).abs() < tolerance(),
        "{found}, expected {independent}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_example_moves_a_step_by_the_clip_norm_and_no_more() {
    let setting = Setting {
        steps: 1,
        clip: 1e-10,
        sigma: 0.01,
        rate: 1.0,
        public_examples: 1,
        examples: 1,
    };
    let step = setting.contributed().await;
    let noise = ENTRIES as f64 * setting.deviation().powi(2);
    // Its gradient is much larger than the clip norm, and so is exactly as large once it is clipped.
    let moved = (energy(&step) - noise) / setting.clip.powi(2);
    // The noise's energy and its product with the example, each seven deviations.
    let spread = 7.0 * (noise * (2.0 / ENTRIES as f64).sqrt() / setting.clip.powi(2) + 2.0 * setting.sigma);
    assert!(
        (moved - 1.0).abs() < spread + 0.05,
        "{moved} of the squared clip norm, within {spread}"
    );
}
