//! The numbers that make the shipped model.

use fieldfare_lm::config::{Architecture, DecoderConfig, Rope, RopePairing};
use serde::Serialize;

/// How a model is pretrained. The default is how the shipped one was.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recipe {
    /// Seed of everything random: weights, text, vocabulary.
    pub seed: u64,
    /// Steps of AdamW.
    pub steps: usize,
    /// Examples a step.
    pub batch: usize,
    /// The highest learning rate; see [`fieldfare_lm::train::CosineSchedule`].
    pub learning_rate: f32,
    /// AdamW's decay of squares.
    pub beta2: f32,
    /// AdamW's weight decay.
    pub weight_decay: f32,
    /// Weight of a prompt's token in the loss, against 1 for an alert's.
    pub prompt_weight: f32,
    /// Pieces of the vocabulary.
    pub vocabulary: usize,
    /// Examples that the vocabulary is learnt from.
    pub vocabulary_examples: usize,
    /// Held-out examples that judge the model.
    pub held_out_examples: usize,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            seed: 7,
            steps: 1_200,
            batch: 32,
            learning_rate: 4e-3,
            beta2: 0.98,
            weight_decay: 0.05,
            prompt_weight: 0.2,
            vocabulary: 1_024,
            vocabulary_examples: 20_000,
            held_out_examples: 500,
        }
    }
}

impl Recipe {
    /// The model's shape. Widths are multiples of 32, so that every matrix quantises in blocks of 32.
    pub fn config(&self, vocabulary: usize) -> DecoderConfig {
        DecoderConfig {
            architecture: Architecture::Llama,
            width: 96,
            layers: 4,
            heads: 3,
            kv_heads: 3,
            head_width: 32,
            feed_forward: 256,
            vocabulary,
            context: 256,
            norm_epsilon: 1e-5,
            rope: Rope {
                theta: 10_000.0,
                dimensions: 32,
                position_divisor: 1.0,
                pairing: RopePairing::Interleaved,
            },
            tied_embeddings: true,
        }
    }

    // The streams of text that one seed makes must differ from each other.
    pub(super) fn corpus_seed(&self) -> u64 {
        self.seed.wrapping_mul(16).wrapping_add(1)
    }

    pub(super) fn vocabulary_seed(&self) -> u64 {
        self.seed.wrapping_mul(16).wrapping_add(2)
    }

    pub(super) fn held_out_seed(&self) -> u64 {
        self.seed.wrapping_mul(16).wrapping_add(3)
    }

    pub(super) fn novelty_seed(&self) -> u64 {
        self.seed.wrapping_mul(16).wrapping_add(4)
    }
}
