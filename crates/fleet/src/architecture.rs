//! The size of a decoder, from which the figures of its variants follow.

use serde::{Deserialize, Serialize};

use crate::limits::{
    MAX_CONTEXT_TOKENS, MAX_DECODER_FEED_FORWARD, MAX_DECODER_LAYERS, MAX_DECODER_VECTOR_PARAMS,
    MAX_DECODER_VOCABULARY, MAX_DECODER_WIDTH,
};
use crate::placement::{BitsPerWeight, Loss, VariantSpec};
use crate::{Arithmetic, ByteSize, NameError, Runtime, TrustTier, VariantName};

/// Whether a feed-forward block has a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedForward {
    /// Three matrices: gate, up and down (Llama, Mistral).
    Gated,
    /// Two matrices: up and down (Phi-2).
    Plain,
}

/// The size of a decoder, as its `config.json` or its GGUF header states it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Architecture {
    /// Number of blocks.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Width of the feed-forward blocks.
    pub feed_forward: u32,
    /// Whether they are gated.
    pub feed_forward_kind: FeedForward,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Tokens in the vocabulary.
    pub vocabulary: u32,
    /// Longest context in tokens.
    pub context: u32,
    /// Parameters that are vectors (norms and biases), which every variant keeps as f32.
    pub vector_params: u64,
}

/// Number format of the matrices of a variant, after llama.cpp's file types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantisation {
    /// 16-bit floats.
    F16,
    /// Blocks of 32 at 8 bits with one f16 scale: 8.5 bits per weight.
    Q8_0,
    /// Super-blocks of 256 at 6 bits: 6.5625 bits per weight.
    Q6K,
    /// Super-blocks of 256 at 4 bits (4.5 bits per weight), with half of the value and down projections and the head
    /// at Q6_K.
    Q4KM,
    /// Blocks of 32 at 4 bits with one f16 scale: 4.5 bits per weight, with the head at Q6_K.
    Q4_0,
}

const F16_BITS: u64 = 16_000;
const Q8_0_BITS: u64 = 8_500;
const Q6_K_BITS: u64 = 6_562; // 210 bytes for 256 weights are 6.5625 bits; thousandths round down
const Q4_BITS: u64 = 4_500;

/// Bytes of one element of the key-value cache: f32, the widest that a runtime keeps.
const CACHE_ELEMENT_BYTES: u64 = 4;

/// Memory of a serving process beside weights and cache, assumed: code, tokenizer, activations of one stream.
const PROCESS_MEMORY: ByteSize = ByteSize::from_mib(64);

impl Quantisation {
    /// All number formats, the most precise first.
    pub const ALL: [Self; 5] = [Self::F16, Self::Q8_0, Self::Q6K, Self::Q4KM, Self::Q4_0];

    /// Its name as a variant: `f16`, `q8-0`, `q6-k`, `q4-k-m`, `q4-0`.
    pub const fn variant_name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Q8_0 => "q8-0",
            Self::Q6K => "q6-k",
            Self::Q4KM => "q4-k-m",
            Self::Q4_0 => "q4-0",
        }
    }

    /// Arithmetic of its matrix products.
    pub const fn arithmetic(self) -> Arithmetic {
        match self {
            Self::F16 => Arithmetic::F32,
            Self::Q8_0 | Self::Q6K | Self::Q4KM | Self::Q4_0 => Arithmetic::Int8,
        }
    }

    /// Thousandths of a bit per weight: of most matrices, of those kept more precise, and of the head.
    const fn bits(self) -> (u64, u64, u64) {
        match self {
            Self::F16 => (F16_BITS, F16_BITS, F16_BITS),
            Self::Q8_0 => (Q8_0_BITS, Q8_0_BITS, Q8_0_BITS),
            Self::Q6K => (Q6_K_BITS, Q6_K_BITS, Q6_K_BITS),
            Self::Q4KM => (Q4_BITS, Q6_K_BITS, Q6_K_BITS),
            Self::Q4_0 => (Q4_BITS, Q4_BITS, Q6_K_BITS),
        }
    }
}

/// A size that no decoder has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` of the model is {value}; possible is {least} to {most}")]
pub struct ArchitectureError {
    /// The field.
    pub field: &'static str,
    /// What it says.
    pub value: u64,
    /// Least possible value.
    pub least: u64,
    /// Greatest possible value.
    pub most: u64,
}

impl Architecture {
    /// Refuses sizes that no decoder has: within these, every figure of a variant fits its type.
    ///
    /// # Errors
    /// [`ArchitectureError`] names the field.
    pub fn validate(&self) -> Result<(), ArchitectureError> {
        let checks = [
            ("layers", u64::from(self.layers), 1, MAX_DECODER_LAYERS),
            ("hidden", u64::from(self.hidden), 1, MAX_DECODER_WIDTH),
            (
                "feed_forward",
                u64::from(self.feed_forward),
                1,
                MAX_DECODER_FEED_FORWARD,
            ),
            ("heads", u64::from(self.heads), 1, u64::from(self.hidden)),
            ("kv_heads", u64::from(self.kv_heads), 1, u64::from(self.heads)),
            ("vocabulary", u64::from(self.vocabulary), 1, MAX_DECODER_VOCABULARY),
            ("context", u64::from(self.context), 1, u64::from(MAX_CONTEXT_TOKENS)),
            ("vector_params", self.vector_params, 0, MAX_DECODER_VECTOR_PARAMS),
        ];
        match checks.into_iter().find(|(_, v, a, b)| !(a..=b).contains(&v)) {
            Some((field, value, least, most)) => Err(ArchitectureError {
                field,
                value,
                least,
                most,
            }),
            None => Ok(()),
        }
    }

    const fn kv_width(&self) -> u64 {
        self.hidden as u64 / self.heads as u64 * self.kv_heads as u64
    }

    /// Parameters of the value and down projections of one block.
    const fn sensitive_params(&self) -> u64 {
        let hidden = self.hidden as u64;
        hidden * self.kv_width() + hidden * self.feed_forward as u64
    }

    /// Parameters of the matrices of one block.
    const fn block_params(&self) -> u64 {
        let hidden = self.hidden as u64;
        let matrices = match self.feed_forward_kind {
            FeedForward::Gated => 3,
            FeedForward::Plain => 2,
        };
        2 * hidden * hidden + 2 * hidden * self.kv_width() + matrices * hidden * self.feed_forward as u64
    }

    const fn embedding_params(&self) -> u64 {
        self.vocabulary as u64 * self.hidden as u64
    }

    /// Number of parameters, with an output head of its own.
    pub const fn params(&self) -> u64 {
        self.layers as u64 * self.block_params() + 2 * self.embedding_params() + self.vector_params
    }

    /// Bytes that one token adds to the key-value cache.
    pub const fn kv_bytes_per_token(&self) -> ByteSize {
        ByteSize::new(2 * self.layers as u64 * self.kv_width() * CACHE_ELEMENT_BYTES)
    }

    /// Operations to generate one token, without attention over the cache: two for each weight of the blocks and the
    /// head.
    pub const fn flops_per_token(&self) -> u64 {
        2 * (self.layers as u64 * self.block_params() + self.embedding_params())
    }

    /// Bytes of the weights, and those of them that are read for each token: all but the embedding table.
    fn weight_bytes(&self, quantisation: Quantisation) -> (u64, u64) {
        let (most, precise, head) = quantisation.bits();
        let layers = u64::from(self.layers);
        // llama.cpp's use_more_bits: the first and last eighth of the blocks and every third between, half in sum.
        let precise_params = layers.div_ceil(2) * self.sensitive_params();
        let plain_params = layers * self.block_params() - precise_params;
        let milli_bits = plain_params * most + precise_params * precise + self.embedding_params() * head;
        let read = milli_bits / 8000 + self.vector_params * 4;
        (read + self.embedding_params() * most / 8000, read)
    }

    /// The figures of a variant of this decoder, made with the number format. Its loss is not known: such variants are
    /// ordered by precision.
    ///
    /// # Errors
    /// [`NameError`] if the name of the format is no variant name, which a test rules out.
    pub fn variant(&self, quantisation: Quantisation) -> Result<VariantSpec, NameError> {
        let (weights, read) = self.weight_bytes(quantisation);
        let bits = weights.saturating_mul(8000) / self.params().max(1);
        Ok(VariantSpec {
            name: VariantName::new(quantisation.variant_name())?,
            runtime: Runtime::CandleGguf,
            arithmetic: quantisation.arithmetic(),
            weight_bytes: ByteSize::new(weights),
            bytes_per_token: ByteSize::new(read),
            kv_bytes_per_token: self.kv_bytes_per_token(),
            working_memory: PROCESS_MEMORY,
            context: self.context,
            flops_per_token: self.flops_per_token(),
            params: self.params(),
            loss: Loss::OrderedByPrecision(BitsPerWeight(u32::try_from(bits).unwrap_or(u32::MAX))),
            min_trust: TrustTier::Unattested,
        })
    }

    /// A variant for each number format, the most precise first.
    pub fn variants(&self) -> Vec<VariantSpec> {
        Quantisation::ALL
            .into_iter()
            .filter_map(|quantisation| self.variant(quantisation).ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_no_decoder_has_are_refused_and_the_greatest_others_compute() {
        let greatest = Architecture {
            layers: MAX_DECODER_LAYERS as u32,
            hidden: MAX_DECODER_WIDTH as u32,
            feed_forward: MAX_DECODER_FEED_FORWARD as u32,
            feed_forward_kind: FeedForward::Gated,
            heads: 1,
            kv_heads: 1,
            vocabulary: MAX_DECODER_VOCABULARY as u32,
            context: MAX_CONTEXT_TOKENS,
            vector_params: MAX_DECODER_VECTOR_PARAMS,
        };
        greatest.validate().unwrap();
        for variant in greatest.variants() {
            assert!(variant.weight_bytes.get() > 0 && variant.flops_per_token > 0);
        }
        type Change = fn(&mut Architecture);
        let cases: [(Change, &str); 6] = [
            (
                |a| a.hidden = 1 << 31,
                "`hidden` of the model is 2147483648; possible is 1 to 65536",
            ),
            (|a| a.feed_forward = 1 << 31, "`feed_forward`"),
            (|a| a.layers = 0, "`layers` of the model is 0"),
            (|a| a.heads = 0, "`heads`"),
            (|a| a.kv_heads = 2, "`kv_heads` of the model is 2; possible is 1 to 1"),
            (|a| a.vector_params = u64::MAX, "`vector_params`"),
        ];
        for (change, expected) in cases {
            let mut changed = greatest.clone();
            change(&mut changed);
            let error = changed.validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
