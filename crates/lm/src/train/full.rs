//! Training of all parameters, from scratch or from a given model.

use burn::tensor::Device;

use super::adam::{Adam, AdamConfig};
use super::batch::{Batch, PromptWeight, TrainingExample};
use super::loss::{HeadGradient, floats, head_loss};
use super::weights::DecoderWeights;

/// Trains every parameter of a decoder with AdamW.
#[derive(Debug)]
pub struct FullTrainer {
    weights: DecoderWeights,
    adam: Adam,
    prompt_weight: PromptWeight,
    /// For each parameter, whether it decays: matrices do, norms do not.
    decays: Vec<bool>,
    device: Device,
}

/// Gradients longer than this, over all parameters, are scaled down to it.
const MAX_GRADIENT_NORM: f32 = 1.0;

impl FullTrainer {
    /// A trainer that starts at `weights`. Tokens of prompts weigh `prompt_weight` against 1 for scored tokens.
    pub fn new(weights: DecoderWeights, adam: AdamConfig, prompt_weight: PromptWeight) -> Self {
        let decays = weights
            .places()
            .iter()
            .flat_map(|place| vec![!place.is_norm(); place.length()])
            .collect();
        let adam = Adam::new(adam, weights.values().len());
        Self {
            weights,
            adam,
            prompt_weight,
            decays,
            device: Device::flex().autodiff(),
        }
    }

    /// The weights as they are now.
    pub fn weights(&self) -> &DecoderWeights {
        &self.weights
    }

    /// The trained weights.
    pub fn into_weights(self) -> DecoderWeights {
        self.weights
    }

    /// One step on a batch; returns the mean loss of its scored tokens before the step, in nats.
    ///
    /// No examples are no step, and a loss of 0.
    pub fn step(&mut self, examples: &[&TrainingExample], learning_rate: f32) -> f32 {
        if examples.is_empty() {
            return 0.0;
        }
        let (loss, mut gradient) = self.gradient(examples);
        let norm = gradient.iter().map(|value| value * value).sum::<f32>().sqrt();
        if norm > MAX_GRADIENT_NORM {
            gradient.iter_mut().for_each(|value| *value *= MAX_GRADIENT_NORM / norm);
        }
        let decays = &self.decays;
        self.adam
            .step(self.weights.values_mut(), &gradient, learning_rate, |index| {
                decays[index]
            });
        loss
    }

    fn gradient(&self, examples: &[&TrainingExample]) -> (f32, Vec<f32>) {
        let mut batch = Batch::new(examples, self.prompt_weight, &self.device);
        batch.weigh_tokens_equally(self.prompt_weight);
        let tensors = self.weights.to_device(&self.device).trained();
        let hidden = tensors
            .hidden(self.weights.config(), &batch, None)
            .select(0, batch.rows.clone());
        let (constant, head) = (hidden.clone().detach(), tensors.head().clone().detach());
        let result = head_loss(
            &constant,
            &head,
            &batch.targets,
            &batch.weights,
            HeadGradient::HiddenAndHead,
        );
        let mut gradients = match result.hidden_gradient {
            Some(gradient) => (hidden * gradient).sum().backward(),
            None => unreachable!("a batch with examples has rows"),
        };
        let mut flat = Vec::with_capacity(self.weights.values().len());
        for (place, tensor) in self.weights.places().iter().zip(tensors.all()) {
            match tensor.grad_remove(&mut gradients) {
                Some(gradient) => flat.extend(floats(gradient)),
                None => flat.resize(flat.len() + place.length(), 0.0),
            }
        }
        if let Some(gradient) = result.head_gradient {
            let start = self.weights.places()[tensors.head_index()].offset;
            flat[start..]
                .iter_mut()
                .zip(floats(gradient))
                .for_each(|(sum, part)| *sum += part);
        }
        (batch.mean_scored_loss(&result.row_losses), flat)
    }
}

/// A learning rate that rises linearly over `warmup` steps and then falls along half a cosine to a tenth of `peak`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CosineSchedule {
    /// The highest rate.
    pub peak: f32,
    /// Steps of the rise.
    pub warmup: usize,
    /// All steps.
    pub steps: usize,
}

impl CosineSchedule {
    /// The rate of a step, counted from 0.
    pub fn rate(&self, step: usize) -> f32 {
        if step < self.warmup {
            return self.peak * (step + 1) as f32 / self.warmup as f32;
        }
        let done = (step - self.warmup) as f32 / (self.steps.saturating_sub(self.warmup)).max(1) as f32;
        let cosine = 0.5 * (1.0 + (std::f32::consts::PI * done.min(1.0)).cos());
        self.peak * (0.1 + 0.9 * cosine)
    }
}
