//! What training needs, before it starts.

use crate::adapter::Projection;
use crate::config::DecoderConfig;

use super::lora::LoraSpec;

/// Examples in one backward pass, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PhysicalBatch(usize);

impl PhysicalBatch {
    /// The most examples that share a pass; more would only cost memory, since a pass of this size already keeps one
    /// core busy.
    pub const MAX: Self = Self(16);

    /// `examples`, brought into the range from 1 to [`Self::MAX`].
    pub fn new(examples: usize) -> Self {
        Self(examples.clamp(1, Self::MAX.0))
    }

    /// The number of examples.
    pub fn get(self) -> usize {
        self.0
    }

    /// The largest batch with which training fits into `bytes`, if one example does.
    pub fn fitting(bytes: u64, config: &DecoderConfig, spec: &LoraSpec, sequence: usize) -> Option<Self> {
        (1..=Self::MAX.0)
            .rev()
            .map(Self)
            .find(|batch| training_bytes(config, spec, *batch, sequence) <= bytes)
    }
}

/// Bytes of one F32.
const FLOAT: u64 = 4;

/// What the process takes before it trains: code, allocator, tables.
const PROCESS_BYTES: u64 = 32 << 20;

/// Predicted peak of resident bytes while a frozen decoder's adapter is trained on sequences of at most `sequence`
/// tokens, `batch` at a time.
///
/// Three parts grow: the weights in F32, held once; activations, with the batch, the sequence and the layers; the
/// copies of B and their gradients, with the batch.
pub fn training_bytes(config: &DecoderConfig, spec: &LoraSpec, batch: PhysicalBatch, sequence: usize) -> u64 {
    let (examples, length) = (batch.get() as u64, sequence as u64);
    let weights = config.parameters() * FLOAT;
    let tokens = examples * length;
    let activations = config.layers as u64 * layer_activations(config, spec, length) * tokens;
    // The logits of all scored rows are never alive at once, but 256 rows of them are, thrice.
    let logits = 3 * tokens.min(256) * config.vocabulary as u64;
    let adapter = spec.trained_parameters(config) as u64;
    // Per example: the copy of B, its gradient, and the flat vector; once: state, two moments, sum, noise.
    let factors = (3 * examples + 5) * adapter;
    PROCESS_BYTES + weights + FLOAT * (activations + logits + factors)
}

/// Numbers that one layer keeps for the backward pass, per token: what autodiff must remember, and room for gradients on
/// their way back. Fitted to measured peaks; a test holds the prediction between one and two times the measurement.
fn layer_activations(config: &DecoderConfig, spec: &LoraSpec, length: u64) -> u64 {
    let (width, hidden) = (config.width as u64, config.feed_forward as u64);
    let attention = config.query_width() as u64 + 2 * config.kv_width() as u64;
    let scores = config.heads as u64 * length;
    let low_rank = (spec.rank * Projection::ALL.len()) as u64;
    5 * width + 2 * attention + 2 * scores + 3 * hidden + low_rank
}
