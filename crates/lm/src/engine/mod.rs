//! Inference: a decoder from GGUF, its key-value cache, generation and scoring.
//!
//! Everything runs on the calling thread; nothing here starts another. A process serves several sequences by advancing several
//! [`Session`]s in turn.

mod cache;
mod float;
mod forward;
mod generate;
mod lora;
mod mapping;
pub(crate) mod matrix;
mod sampling;
mod score;
mod stop;
mod weights;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

pub use generate::{FinishReason, GeneratedToken, Generation, GenerationOptions, Session, Step};
pub use mapping::Mapping;
pub(crate) use mapping::blocks_as_bytes;
pub use sampling::Sampling;
pub use score::{Assessment, Loss};
pub use weights::WeightsError;

use crate::adapter::{AdapterMismatch, LoraAdapter};
use crate::config::{Architecture, ConfigError, DecoderConfig};
use crate::gguf::{Gguf, GgufError};
use crate::limits;
use crate::tokenizer::{ChatTemplate, EncodeError, TemplateError, Tokenizer, TokenizerError};
use cache::KvCache;
use forward::{Decoder, Wanted};
use lora::AppliedAdapter;
use weights::Weights;

/// Why a file cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be opened.
    #[error("the model file {path} cannot be opened")]
    Open {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Its metadata describe no decoder.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The decoder is of a family that the engine does not compute.
    #[error("the engine does not compute the architecture {architecture}, only llama")]
    Architecture {
        /// The family.
        architecture: Architecture,
    },
    /// Its vocabulary cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Vocabulary and embedding have different sizes.
    #[error("the vocabulary has {tokens} tokens, and the embedding {rows} rows")]
    VocabularySize {
        /// Tokens in the vocabulary.
        tokens: usize,
        /// Rows of the embedding.
        rows: usize,
    },
    /// Its chat template cannot be used.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Its tensors are not the decoder's.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// Why a sequence cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// There is nothing to compute from.
    #[error("the prompt has no tokens")]
    Empty,
    /// The sequence is longer than the model's context.
    #[error("the sequence has {found} tokens, and the context holds {limit}")]
    ContextExceeded {
        /// Tokens in the sequence.
        found: usize,
        /// Tokens that the context holds.
        limit: usize,
    },
    /// A token is not in the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocabulary}")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// The text cannot be turned into tokens.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The model gave logits that are no numbers: its weights or adapter are damaged.
    #[error("the model computed logits that are no finite numbers")]
    NotFinite,
    /// Too many stop strings were asked for.
    #[error("{found} stop strings, and the limit is {}", limits::MAX_STOP_STRINGS)]
    StopStrings {
        /// Stop strings asked for.
        found: usize,
    },
}

/// The parts of a model that never change.
#[derive(Debug)]
struct Model {
    config: DecoderConfig,
    weights: Weights,
    tokenizer: Tokenizer,
    template: ChatTemplate,
}

/// A model that answers, with or without an adapter.
///
/// Cloning is cheap and shares the weights. An adapter belongs to one clone.
#[derive(Debug, Clone)]
pub struct Engine {
    model: Arc<Model>,
    adapter: Option<Arc<AppliedAdapter>>,
}

impl Engine {
    /// Maps and loads a GGUF file, which must not change while the engine lives. Weights are read when they are first used.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let open_error = |source| LoadError::Open {
            path: path.display().to_string(),
            source,
        };
        Self::load(Arc::new(Mapping::open(path).map_err(open_error)?))
    }

    /// [`Self::open`] for sequences of at most `context` tokens, where the model itself would hold more: the key-value cache of a
    /// sequence grows no further.
    pub fn open_within(path: &Path, context: usize) -> Result<Self, LoadError> {
        let mut engine = Self::open(path)?;
        if let Some(model) = Arc::get_mut(&mut engine.model) {
            model.config.context = model.config.context.min(context);
        }
        Ok(engine)
    }

    /// Loads a GGUF file from memory.
    pub fn from_bytes(file: &[u8]) -> Result<Self, LoadError> {
        Self::load(Arc::new(Mapping::from_bytes(file)))
    }

    /// Loads a GGUF file that is mapped already.
    pub fn load(mapping: Arc<Mapping>) -> Result<Self, LoadError> {
        let gguf = Gguf::parse(mapping.as_bytes())?;
        let config = DecoderConfig::from_gguf(&gguf)?;
        if !config.architecture.is_runnable() {
            return Err(LoadError::Architecture {
                architecture: config.architecture,
            });
        }
        let tokenizer = Tokenizer::from_metadata(&gguf.metadata)?;
        let tokens = tokenizer.vocabulary().len();
        if tokens != config.vocabulary {
            return Err(LoadError::VocabularySize {
                tokens,
                rows: config.vocabulary,
            });
        }
        let template = ChatTemplate::from_metadata(&gguf.metadata, tokenizer.vocabulary())?;
        let weights = Weights::load(&gguf, &mapping, &config)?;
        Ok(Self {
            model: Arc::new(Model {
                config,
                weights,
                tokenizer,
                template,
            }),
            adapter: None,
        })
    }

    /// The decoder's shape.
    pub fn config(&self) -> &DecoderConfig {
        &self.model.config
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.model.tokenizer
    }

    /// The chat template.
    pub fn template(&self) -> &ChatTemplate {
        &self.model.template
    }

    /// Puts an adapter beside the weights, in place of the one before, or takes it away. Nothing is reloaded.
    ///
    /// Sessions that are under way keep the adapter with which they began.
    pub fn set_adapter(&mut self, adapter: Option<&LoraAdapter>) -> Result<(), AdapterMismatch> {
        self.adapter = match adapter {
            Some(adapter) => Some(Arc::new(AppliedAdapter::new(adapter, &self.model.config)?)),
            None => None,
        };
        Ok(())
    }

    /// Logits after each token of a sequence: `[tokens][vocabulary]`.
    pub fn logits(&self, tokens: &[u32]) -> Result<Vec<Vec<f32>>, RunError> {
        let mut rows = Vec::with_capacity(tokens.len());
        self.visit_logits(tokens, 0, |_, logits| rows.push(logits.to_vec()))?;
        Ok(rows)
    }

    /// Calls `visit(index, logits)` with the logits after each token from index `first` on. Memory does not grow with tokens times vocabulary.
    fn visit_logits(&self, tokens: &[u32], first: usize, mut visit: impl FnMut(usize, &[f32])) -> Result<(), RunError> {
        self.model.check(tokens)?;
        let mut cache = KvCache::new(&self.model.config);
        let (skipped, counted) = tokens.split_at(first.min(tokens.len()));
        for chunk in skipped.chunks(limits::PREFILL_CHUNK) {
            self.decoder().forward(&mut cache, chunk, Wanted::None);
        }
        for chunk in counted.chunks(limits::PREFILL_CHUNK) {
            let begin = cache.len();
            let logits = self.decoder().forward(&mut cache, chunk, Wanted::All);
            for (offset, row) in logits.chunks_exact(self.model.config.vocabulary).enumerate() {
                visit(begin + offset, row);
            }
        }
        Ok(())
    }

    fn decoder(&self) -> Decoder<'_> {
        Decoder {
            config: &self.model.config,
            weights: &self.model.weights,
            adapter: self.adapter.as_deref(),
        }
    }
}

impl Model {
    /// Checks that a sequence can be computed at all.
    fn check(&self, tokens: &[u32]) -> Result<(), RunError> {
        if tokens.len() > self.config.context {
            return Err(RunError::ContextExceeded {
                found: tokens.len(),
                limit: self.config.context,
            });
        }
        let vocabulary = self.config.vocabulary;
        match tokens.iter().find(|token| **token as usize >= vocabulary) {
            Some(token) => Err(RunError::UnknownToken {
                token: *token,
                vocabulary,
            }),
            None => Ok(()),
        }
    }
}
