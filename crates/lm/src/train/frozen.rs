//! A frozen decoder with a LoRA adapter on it: losses, logits and per-example gradients.

use burn::tensor::{Device, Tensor};

use super::batch::{Batch, PromptWeight, TrainingExample};
use super::decoder::DecoderTensors;
use super::lora::{LoraFactors, LoraSpec};
use super::loss::{HeadGradient, floats, head_loss};
use super::weights::DecoderWeights;
use crate::config::DecoderConfig;

/// A decoder whose weights do not change, ready to be scored or adapted.
#[derive(Debug, Clone)]
pub struct FrozenDecoder {
    config: DecoderConfig,
    tensors: DecoderTensors,
    device: Device,
}

/// How a model does on one example, in teacher forcing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExampleScore {
    /// Mean negative log-likelihood of the scored tokens, in nats.
    pub loss: f32,
    /// Whether every scored token is the most likely one: exactly then does greedy decoding reproduce them all.
    pub exact: bool,
}

impl FrozenDecoder {
    /// Puts the weights on the CPU.
    pub fn new(weights: &DecoderWeights) -> Self {
        let device = Device::flex().autodiff();
        Self {
            config: weights.config().clone(),
            tensors: weights.to_device(&device),
            device,
        }
    }

    /// The shape.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The logits after each of `tokens`, row-major `[tokens, vocabulary]`.
    pub fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        self.logits_with(None, tokens)
    }

    fn logits_with(&self, adapter: Option<(&LoraFactors, &[f32])>, tokens: &[u32]) -> Vec<f32> {
        // The last token of an example is only ever a target: any token will do.
        let padded: Vec<u32> = tokens.iter().copied().chain([0]).collect();
        let Some(example) = TrainingExample::new(padded, 1, usize::MAX) else {
            return Vec::new();
        };
        let batch = Batch::new(&[&example], PromptWeight::ZERO, &self.device);
        let leaves = adapter.map(|(factors, flat_b)| factors.constants(flat_b, batch.examples, &self.device));
        let hidden = self.tensors.hidden(&self.config, &batch, leaves.as_ref());
        floats(hidden.matmul(self.tensors.head().clone().transpose()))
    }

    /// Scores examples without an adapter, at most `examples_at_once` in one pass.
    pub fn score(&self, examples: &[TrainingExample], examples_at_once: usize) -> Vec<ExampleScore> {
        self.score_with(None, examples, examples_at_once)
    }

    fn score_with(
        &self,
        adapter: Option<(&LoraFactors, &[f32])>,
        examples: &[TrainingExample],
        examples_at_once: usize,
    ) -> Vec<ExampleScore> {
        let mut scores = Vec::with_capacity(examples.len());
        for chunk in examples.chunks(examples_at_once.max(1)) {
            let borrowed: Vec<&TrainingExample> = chunk.iter().collect();
            let batch = Batch::new(&borrowed, PromptWeight::ZERO, &self.device);
            let leaves = adapter.map(|(factors, flat_b)| factors.constants(flat_b, batch.examples, &self.device));
            let hidden = self.tensors.hidden(&self.config, &batch, leaves.as_ref());
            let hidden = hidden.select(0, batch.rows.clone());
            let head = head_loss(
                &hidden,
                self.tensors.head(),
                &batch.targets,
                &batch.weights,
                HeadGradient::None,
            );
            scores.extend(batch.per_example(&head.row_losses, &head.row_hits));
        }
        scores
    }
}

/// A frozen decoder and the fixed part of an adapter on it.
#[derive(Debug, Clone)]
pub struct LoraDecoder {
    decoder: FrozenDecoder,
    factors: LoraFactors,
    spec: LoraSpec,
}

impl LoraDecoder {
    /// Draws the A factors of `spec` for the decoder.
    pub fn new(decoder: FrozenDecoder, spec: LoraSpec) -> Self {
        let factors = LoraFactors::new(&spec, &decoder.config, &decoder.device);
        Self { decoder, factors, spec }
    }

    /// The decoder without its adapter.
    pub fn decoder(&self) -> &FrozenDecoder {
        &self.decoder
    }

    /// What the adapter's fixed part was made of.
    pub fn spec(&self) -> &LoraSpec {
        &self.spec
    }

    /// Length of the flat vector of B factors.
    pub fn trained_parameters(&self) -> usize {
        self.spec.trained_parameters(&self.decoder.config)
    }

    /// The logits after each of `tokens` under the adapter with factors `flat_b`, row-major `[tokens, vocabulary]`.
    ///
    /// # Panics
    /// If `flat_b` has not [`Self::trained_parameters`] elements.
    pub fn logits(&self, flat_b: &[f32], tokens: &[u32]) -> Vec<f32> {
        self.decoder.logits_with(Some((&self.factors, flat_b)), tokens)
    }

    /// Scores examples under the adapter with factors `flat_b`, at most `examples_at_once` in one pass.
    ///
    /// # Panics
    /// If `flat_b` has not [`Self::trained_parameters`] elements.
    pub fn score(&self, flat_b: &[f32], examples: &[TrainingExample], examples_at_once: usize) -> Vec<ExampleScore> {
        self.decoder
            .score_with(Some((&self.factors, flat_b)), examples, examples_at_once)
    }

    /// Each example's own gradient of its own mean loss with respect to `flat_b`, by one backward pass over all.
    ///
    /// The memory is proportional to `examples.len()`; see [`super::memory`]. No examples give no gradients.
    ///
    /// # Panics
    /// If `flat_b` has not [`Self::trained_parameters`] elements.
    pub fn per_example_gradients(&self, flat_b: &[f32], examples: &[&TrainingExample]) -> Vec<Vec<f32>> {
        if examples.is_empty() {
            return Vec::new();
        }
        let (decoder, device) = (&self.decoder, &self.decoder.device);
        let batch = Batch::new(examples, PromptWeight::ZERO, device);
        let leaves = self.factors.leaves(flat_b, batch.examples, device);
        let hidden = decoder
            .tensors
            .hidden(&decoder.config, &batch, Some(&leaves))
            .select(0, batch.rows.clone());
        let constant = hidden.clone().detach();
        let head = head_loss(
            &constant,
            decoder.tensors.head(),
            &batch.targets,
            &batch.weights,
            HeadGradient::Hidden,
        );
        // The sum of products with a constant has exactly that constant as its gradient.
        let Some(hidden_gradient) = head.hidden_gradient else {
            return Vec::new();
        };
        let surrogate: Tensor<1> = (hidden * hidden_gradient).sum();
        leaves.gradients(&mut surrogate.backward(), batch.examples)
    }
}
