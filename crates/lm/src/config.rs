//! The shape of a decoder, read from GGUF metadata.

use crate::gguf::{Gguf, Metadata, MetadataError};
use crate::limits;

/// Bytes of one element of the key-value cache: F32, so that a cached token costs no accuracy.
pub const KV_ELEMENT_BYTES: u64 = 4;

/// A family of decoders, as `general.architecture` names it.
///
/// All of them can be sized from a header; [`Architecture::is_runnable`] says which ones the engine computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Architecture {
    /// Llama 2 and 3, TinyLlama, Mistral.
    Llama,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3.
    Qwen3,
    /// Phi 1.5 and 2.
    Phi2,
    /// Phi 3 and 3.5.
    Phi3,
    /// Gemma.
    Gemma,
    /// Gemma 2.
    Gemma2,
}

impl Architecture {
    /// Every known architecture.
    pub const ALL: [Architecture; 7] = {
        use Architecture::*;
        [Llama, Qwen2, Qwen3, Phi2, Phi3, Gemma, Gemma2]
    };

    /// The name in GGUF metadata, which is also the prefix of the architecture's keys.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
            Architecture::Phi2 => "phi2",
            Architecture::Phi3 => "phi3",
            Architecture::Gemma => "gemma",
            Architecture::Gemma2 => "gemma2",
        }
    }

    /// The architecture with this name in GGUF metadata.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|architecture| architecture.name() == name)
    }

    /// Whether this build computes it.
    pub fn is_runnable(self) -> bool {
        self == Architecture::Llama
    }

    /// How rotary embedding pairs the elements of a head in GGUF weights of this architecture.
    pub fn rope_pairing(self) -> RopePairing {
        match self {
            Architecture::Llama => RopePairing::Interleaved,
            _ => RopePairing::Halves,
        }
    }
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Which elements of a head rotate together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairing {
    /// `2i` and `2i + 1`. GGUF stores Llama's query and key rows permuted to this order.
    Interleaved,
    /// `i` and `i + n/2`, as in Hugging Face's implementations.
    Halves,
}

/// Rotary position embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Base of the frequencies: 10,000 unless the model says otherwise.
    pub theta: f32,
    /// Elements of each head that rotate; even, at most the head's width.
    pub dimensions: usize,
    /// Factor by which positions are divided (linear scaling); 1 without scaling.
    pub position_divisor: f32,
    /// Which elements rotate together.
    pub pairing: RopePairing,
}

/// The shape of a decoder. All sizes are positive and within [`limits`]; heads are a multiple of key-value heads.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// The family.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub width: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads: grouped-query attention where fewer than `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_width: usize,
    /// Width of the feed-forward layer.
    pub feed_forward: usize,
    /// Tokens in the vocabulary: rows of the embedding.
    pub vocabulary: usize,
    /// Longest sequence that the model was trained for, in tokens.
    pub context: usize,
    /// Added to the mean square in the norms.
    pub norm_epsilon: f32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Whether the output head is the embedding itself.
    pub tied_embeddings: bool,
}

/// Why metadata describe no decoder.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A key is missing or has the wrong type.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The architecture is none that this version knows.
    #[error("general.architecture is {found:?}, expected one of llama, qwen2, qwen3, phi2, phi3, gemma, gemma2")]
    UnknownArchitecture {
        /// The name in the file.
        found: String,
    },
    /// A number is 0 or larger than anything that makes sense.
    #[error("metadata: {key} is {found}, expected 1 to {limit}")]
    OutOfRange {
        /// The key.
        key: String,
        /// The number in the file.
        found: u64,
        /// The largest accepted.
        limit: u64,
    },
    /// Two numbers contradict each other, or one has no meaning.
    #[error("metadata: {key}: {problem}")]
    Invalid {
        /// The key.
        key: String,
        /// What is wrong, and what was expected.
        problem: String,
    },
}

impl DecoderConfig {
    /// Reads the shape from a header.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, ConfigError> {
        let name = gguf.metadata.str("general.architecture")?;
        let architecture =
            Architecture::from_name(name).ok_or_else(|| ConfigError::UnknownArchitecture { found: name.to_owned() })?;
        let keys = Keys {
            metadata: &gguf.metadata,
            prefix: architecture.name(),
        };
        if let Some(experts) = keys.optional_size("expert_count", limits::MAX_DIMENSION)? {
            let problem =
                format!("it is {experts}, and mixtures of experts are neither sized nor computed by this version");
            return Err(keys.invalid("expert_count", problem));
        }
        let width = keys.size("embedding_length", limits::MAX_WIDTH)?;
        let heads = keys.size("attention.head_count", limits::MAX_HEADS)?;
        let kv_heads = keys.size_or("attention.head_count_kv", limits::MAX_HEADS, heads)?;
        if !heads.is_multiple_of(kv_heads) {
            let problem = format!("{kv_heads} key-value heads do not divide {heads} heads");
            return Err(keys.invalid("attention.head_count_kv", problem));
        }
        let head_width = keys.size_or("attention.key_length", limits::MAX_WIDTH, width / heads)?;
        if head_width == 0 || (head_width * heads != width && architecture == Architecture::Llama) {
            let problem = format!("{heads} heads of {head_width} do not make the width {width}");
            return Err(keys.invalid("attention.head_count", problem));
        }
        let query_width = (head_width * heads) as u64;
        if query_width > limits::MAX_WIDTH {
            return Err(ConfigError::OutOfRange {
                key: keys.key("attention.key_length") + " of all heads",
                found: query_width,
                limit: limits::MAX_WIDTH,
            });
        }
        Ok(Self {
            architecture,
            width,
            layers: keys.size("block_count", limits::MAX_LAYERS)?,
            heads,
            kv_heads,
            head_width,
            feed_forward: keys.size("feed_forward_length", limits::MAX_WIDTH)?,
            vocabulary: read_vocabulary(gguf, &keys)?,
            context: keys.size("context_length", limits::MAX_CONTEXT)?,
            norm_epsilon: read_norm_epsilon(&keys)?,
            rope: read_rope(&keys, architecture, head_width)?,
            tied_embeddings: gguf.tensor("output.weight").is_none(),
        })
    }

    /// Writes the shape as metadata, so that [`DecoderConfig::from_gguf`] reads it back.
    pub fn write_metadata(&self, metadata: &mut Metadata) {
        use crate::gguf::Value;
        let prefix = self.architecture.name();
        let mut set = |key: &str, value: Value| metadata.set(format!("{prefix}.{key}"), value);
        set("context_length", Value::U32(self.context as u32));
        set("embedding_length", Value::U32(self.width as u32));
        set("block_count", Value::U32(self.layers as u32));
        set("feed_forward_length", Value::U32(self.feed_forward as u32));
        set("attention.head_count", Value::U32(self.heads as u32));
        set("attention.head_count_kv", Value::U32(self.kv_heads as u32));
        set("attention.key_length", Value::U32(self.head_width as u32));
        set("attention.value_length", Value::U32(self.head_width as u32));
        set("attention.layer_norm_rms_epsilon", Value::F32(self.norm_epsilon));
        set("rope.dimension_count", Value::U32(self.rope.dimensions as u32));
        set("rope.freq_base", Value::F32(self.rope.theta));
        if self.rope.position_divisor != 1.0 {
            set("rope.scaling.type", Value::String("linear".to_owned()));
            set("rope.scaling.factor", Value::F32(self.rope.position_divisor));
        }
        set("vocab_size", Value::U32(self.vocabulary as u32));
        metadata.set("general.architecture", Value::String(prefix.to_owned()));
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_width
    }

    /// Width of all key heads together, and of all value heads.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_width
    }

    /// Bytes of key-value cache that one token takes in the engine.
    pub fn kv_bytes_per_token(&self) -> u64 {
        2 * self.layers as u64 * self.kv_width() as u64 * KV_ELEMENT_BYTES
    }

    /// Parameters that are multiplied with every token: all matrices but the embedding's look-up.
    ///
    /// Right for gated feed-forward layers; families without a gate have a third less in the feed-forward part.
    pub fn multiplied_parameters(&self) -> u64 {
        let (width, feed_forward) = (self.width as u64, self.feed_forward as u64);
        let attention = 2 * width * self.query_width() as u64 + 2 * width * self.kv_width() as u64;
        let matrices = if self.architecture == Architecture::Phi2 { 2 } else { 3 };
        self.layers as u64 * (attention + matrices * width * feed_forward) + width * self.vocabulary as u64
    }

    /// All parameters, computed from the shape: norms and embedding included, biases not.
    pub fn parameters(&self) -> u64 {
        let width = self.width as u64;
        let embedding = if self.tied_embeddings {
            0
        } else {
            width * self.vocabulary as u64
        };
        self.multiplied_parameters() + embedding + (2 * self.layers as u64 + 1) * width
    }

    /// Floating-point operations to compute one token at `position`: two for each multiplied parameter, and attention over what is cached.
    pub fn flops_per_token(&self, position: u64) -> u64 {
        let attention = 4 * self.layers as u64 * self.query_width() as u64 * (position + 1);
        2 * self.multiplied_parameters() + attention
    }
}

struct Keys<'a> {
    metadata: &'a Metadata,
    prefix: &'static str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn invalid(&self, name: &str, problem: String) -> ConfigError {
        ConfigError::Invalid {
            key: self.key(name),
            problem,
        }
    }

    fn optional_size(&self, name: &str, limit: u64) -> Result<Option<usize>, ConfigError> {
        let key = self.key(name);
        match self.metadata.optional_u64(&key)? {
            Some(found) if found == 0 || found > limit => Err(ConfigError::OutOfRange { key, found, limit }),
            found => Ok(found.map(|size| size as usize)),
        }
    }

    fn size_or(&self, name: &str, limit: u64, default: usize) -> Result<usize, ConfigError> {
        Ok(self.optional_size(name, limit)?.unwrap_or(default))
    }

    fn size(&self, name: &str, limit: u64) -> Result<usize, ConfigError> {
        self.optional_size(name, limit)?
            .ok_or_else(|| MetadataError::Missing { key: self.key(name) }.into())
    }

    fn positive(&self, name: &str) -> Result<Option<f32>, ConfigError> {
        match self.metadata.optional_f32(&self.key(name))? {
            Some(found) if !(found.is_finite() && found > 0.0) => {
                Err(self.invalid(name, format!("it is {found}, expected a positive number")))
            }
            found => Ok(found),
        }
    }
}

/// Rows of the embedding where the header lists it, else what the metadata say.
fn read_vocabulary(gguf: &Gguf, keys: &Keys<'_>) -> Result<usize, ConfigError> {
    let limit = limits::MAX_VOCABULARY as u64;
    let rows = gguf
        .tensor("token_embd.weight")
        .and_then(|embedding| embedding.dimensions.get(1).copied());
    let tokens = || match gguf.metadata.optional_strings("tokenizer.ggml.tokens") {
        Ok(tokens) => tokens.map(|tokens| tokens.len() as u64),
        Err(_) => None,
    };
    match rows.or_else(tokens) {
        Some(found) if found == 0 || found > limit => Err(ConfigError::OutOfRange {
            key: "token_embd.weight rows".to_owned(),
            found,
            limit,
        }),
        Some(found) => Ok(found as usize),
        None => keys.size("vocab_size", limit),
    }
}

fn read_norm_epsilon(keys: &Keys<'_>) -> Result<f32, ConfigError> {
    if let Some(epsilon) = keys.positive("attention.layer_norm_rms_epsilon")? {
        return Ok(epsilon);
    }
    keys.positive("attention.layer_norm_epsilon")?.ok_or_else(|| {
        MetadataError::Missing {
            key: keys.key("attention.layer_norm_rms_epsilon"),
        }
        .into()
    })
}

fn read_rope(keys: &Keys<'_>, architecture: Architecture, head_width: usize) -> Result<Rope, ConfigError> {
    let dimensions = keys.size_or("rope.dimension_count", limits::MAX_WIDTH, head_width)?;
    if dimensions > head_width || !dimensions.is_multiple_of(2) {
        let problem = format!("it is {dimensions}, expected an even number of at most {head_width}");
        return Err(keys.invalid("rope.dimension_count", problem));
    }
    let factor = keys.positive("rope.scaling.factor")?;
    let position_divisor = match keys.metadata.optional_str(&keys.key("rope.scaling.type"))? {
        None | Some("none") => 1.0,
        Some("linear") => factor.unwrap_or(1.0),
        Some(other) => {
            return Err(keys.invalid(
                "rope.scaling.type",
                format!("it is {other:?}, expected \"none\" or \"linear\""),
            ));
        }
    };
    Ok(Rope {
        theta: keys.positive("rope.freq_base")?.unwrap_or(10_000.0),
        dimensions,
        position_divisor,
        pairing: architecture.rope_pairing(),
    })
}

#[cfg(test)]
pub(crate) mod tests;
