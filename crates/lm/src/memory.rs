//! How much memory serving a model takes, predicted from its shape.

use crate::config::{DecoderConfig, KV_ELEMENT_BYTES};
use crate::gguf::Gguf;
use crate::limits::PREFILL_CHUNK;

/// Bytes of a serving process that do not depend on the model: code, stacks, allocator, tokenizer of a small vocabulary.
/// A whole process that loads stories260K (1.2 MB) and generates with it peaks under 14 MiB on Linux x86-64.
pub const PROCESS_BYTES: u64 = 16 << 20;

/// Bytes that one vocabulary entry takes in the tokenizer, counted from its structures: the text twice with two headers, a slot in
/// the table of texts and one in the table of merges, each table at most half empty.
pub const BYTES_PER_VOCABULARY_ENTRY: u64 = 160;

/// Predicted resident bytes of serving one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServingMemory {
    /// Weights, all of whose mapped pages are counted: every token reads them.
    pub weights: u64,
    /// The key-value cache of a full context.
    pub kv_cache: u64,
    /// Activations of one prefill chunk, and logits.
    pub activations: u64,
    /// Process and tokenizer.
    pub process: u64,
}

impl ServingMemory {
    /// Predicts serving one sequence of up to `context` tokens with `weight_bytes` of weights.
    pub fn predict(config: &DecoderConfig, weight_bytes: u64, context: u64) -> Self {
        let widest =
            (config.width * 2 + config.query_width() * 2 + config.kv_width() * 2 + config.feed_forward * 2) as u64;
        let chunk = PREFILL_CHUNK as u64;
        // Scores of attention are one row of the context; logits exist once raw and once ranked.
        let activations = (chunk * widest + 2 * config.vocabulary as u64 + context) * KV_ELEMENT_BYTES;
        Self {
            weights: weight_bytes,
            kv_cache: context * config.kv_bytes_per_token(),
            activations,
            process: PROCESS_BYTES + config.vocabulary as u64 * BYTES_PER_VOCABULARY_ENTRY,
        }
    }

    /// The sum.
    pub fn total(&self) -> u64 {
        self.weights + self.kv_cache + self.activations + self.process
    }
}

/// Parameters and bytes of a file's tensors: exact, whatever the architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Elements of all tensors.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub weight_bytes: u64,
    /// Bytes of weights that are read to compute one token: all, but of an embedding that is not the output head one row only.
    pub bytes_per_token: u64,
}

impl Footprint {
    /// Of a header.
    pub fn of(gguf: &Gguf) -> Self {
        let weight_bytes: u64 = gguf.tensors.iter().map(|tensor| tensor.bytes).sum();
        let has_own_head = gguf.tensor("output.weight").is_some();
        let embedding = gguf.tensor("token_embd.weight").filter(|_| has_own_head);
        let looked_up = embedding.map_or(0, |embedding| {
            let rows = embedding.dimensions.get(1).copied().unwrap_or(1);
            embedding.bytes - embedding.bytes / rows
        });
        Self {
            parameters: gguf.tensors.iter().map(|tensor| tensor.elements()).sum(),
            weight_bytes,
            bytes_per_token: weight_bytes - looked_up,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data;

    #[test]
    fn the_footprint_of_a_real_file_agrees_with_its_shape() {
        let Some(path) = test_data::find(test_data::STORIES) else {
            return;
        };
        let gguf = Gguf::parse(&std::fs::read(path).unwrap()).unwrap();
        let config = DecoderConfig::from_gguf(&gguf).unwrap();
        let footprint = Footprint::of(&gguf);
        // 260,032 parameters (llama2.c), and the output head, which this file holds a second time.
        assert_eq!(footprint.parameters, 260_032 + 64 * 512);
        assert_eq!(footprint.parameters, config.parameters());
        assert_eq!(footprint.weight_bytes, 4 * footprint.parameters);
        assert_eq!(footprint.bytes_per_token, footprint.weight_bytes - 511 * 64 * 4);
    }

    #[test]
    fn serving_memory_is_the_sum_of_its_parts_and_grows_with_the_context() {
        let config = DecoderConfig::from_gguf(&crate::config::tests::llama_2_7b()).unwrap();
        let (short, long) = (
            ServingMemory::predict(&config, 1 << 30, 512),
            ServingMemory::predict(&config, 1 << 30, 4096),
        );
        assert_eq!(long.kv_cache, 2 * 4096 * 32 * 4096 * 4);
        assert_eq!(long.kv_cache, 8 * short.kv_cache);
        assert_eq!(
            long.total(),
            (1 << 30) + long.kv_cache + long.activations + long.process
        );
    }
}
