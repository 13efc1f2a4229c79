//! Pretraining of the shipped model: all parameters, from scratch, on generated farm text.

mod command;
mod evaluation;
mod export;
pub mod pieces;
mod recipe;

use std::io::Write;

use fieldfare_lm::gguf::{Metadata, WriteError};
use fieldfare_lm::tokenizer::{EncodeError, Tokenizer, TokenizerError};
use fieldfare_lm::train::{
    AdamConfig, CosineSchedule, DecoderWeights, FrozenDecoder, FullTrainer, PromptWeight, TrainingExample,
};

use crate::farm::Example;
use crate::farm::corpus::Corpus;

pub use command::PretrainOptions;
pub use evaluation::{Evaluation, Score};
pub use export::Storage;
pub use recipe::Recipe;

use pieces::Pieces;

/// Why pretraining stopped.
#[derive(Debug, thiserror::Error)]
pub enum PretrainError {
    /// The learnt vocabulary is not one that the tokenizer reads.
    #[error("the learnt vocabulary is unusable")]
    Vocabulary(#[from] TokenizerError),
    /// The generator wrote something that the vocabulary cannot write.
    #[error("generated text has no tokens")]
    Encode(#[from] EncodeError),
    /// A generated example leaves nothing to predict.
    #[error("generated text leaves nothing to predict: {text:?}")]
    Empty {
        /// The example's text.
        text: String,
    },
}

/// What is known after a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: usize,
    /// All steps.
    pub steps: usize,
    /// Mean loss of the last batch's scored tokens, in nats.
    pub loss: f32,
    /// Tokens seen so far.
    pub tokens: u64,
}

/// A trained model.
#[derive(Debug)]
pub struct Pretrained {
    weights: DecoderWeights,
    metadata: Metadata,
    tokenizer: Tokenizer,
}

/// Trains a model after a recipe; `progress` is called after each step.
///
/// The same recipe gives the same weights on the same kind of processor.
///
/// # Errors
/// [`PretrainError`]
pub fn pretrain(recipe: &Recipe, mut progress: impl FnMut(Progress)) -> Result<Pretrained, PretrainError> {
    let pieces = learn_vocabulary(recipe);
    let config = recipe.config(pieces.as_slice().len());
    let metadata = export::metadata(&config, &pieces);
    let tokenizer = Tokenizer::from_metadata(&metadata)?;
    let adam = AdamConfig {
        beta2: recipe.beta2,
        weight_decay: recipe.weight_decay,
        ..AdamConfig::default()
    };
    let weights = DecoderWeights::initialise(config, recipe.seed);
    let mut trainer = FullTrainer::new(weights, adam, PromptWeight::new(recipe.prompt_weight));
    let schedule = CosineSchedule {
        peak: recipe.learning_rate,
        warmup: recipe.steps / 20,
        steps: recipe.steps,
    };
    let mut corpus = Corpus::new(recipe.corpus_seed());
    let mut tokens = 0;
    for step in 0..recipe.steps {
        let batch = tokenise(&tokenizer, &corpus.by_ref().take(recipe.batch).collect::<Vec<_>>())?;
        tokens += batch.iter().map(|example| example.tokens().len() as u64).sum::<u64>();
        let loss = trainer.step(&batch.iter().collect::<Vec<_>>(), schedule.rate(step));
        progress(Progress {
            step: step + 1,
            steps: recipe.steps,
            loss,
            tokens,
        });
    }
    Ok(Pretrained {
        weights: trainer.into_weights(),
        metadata,
        tokenizer,
    })
}

fn learn_vocabulary(recipe: &Recipe) -> Pieces {
    let texts: Vec<String> = Corpus::new(recipe.vocabulary_seed())
        .take(recipe.vocabulary_examples)
        .map(|example| example.prompt + &example.completion)
        .collect();
    Pieces::learn(texts.iter().map(String::as_str), recipe.vocabulary)
}

/// Longest generated sequence that is trained on, in tokens; the generator stays below it.
const MAX_SEQUENCE: usize = 160;

/// Examples as the model reads them.
///
/// # Errors
/// [`PretrainError::Encode`], [`PretrainError::Empty`]
pub fn tokenise(tokenizer: &Tokenizer, examples: &[Example]) -> Result<Vec<TrainingExample>, PretrainError> {
    let tokenise = |example: &Example| {
        let tokenised = tokenizer.example(&example.prompt, &example.completion)?;
        TrainingExample::from_tokenized(tokenised, MAX_SEQUENCE).ok_or_else(|| PretrainError::Empty {
            text: example.prompt.clone() + &example.completion,
        })
    };
    examples.iter().map(tokenise).collect()
}

impl Pretrained {
    /// The weights.
    pub fn weights(&self) -> &DecoderWeights {
        &self.weights
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Judges the model on held-out text of its own domain and on the devices' novelty.
    ///
    /// # Errors
    /// [`PretrainError::Encode`], [`PretrainError::Empty`]
    pub fn evaluate(&self, recipe: &Recipe) -> Result<Evaluation, PretrainError> {
        Evaluation::run(&FrozenDecoder::new(&self.weights), &self.tokenizer, recipe)
    }

    /// Writes the model as GGUF, with its tokenizer and chat template.
    ///
    /// # Errors
    /// [`WriteError`] when `out` cannot be written.
    pub fn write_gguf(&self, out: impl Write, storage: Storage) -> Result<(), WriteError> {
        export::write(out, &self.metadata, &self.weights, storage)
    }
}

#[cfg(test)]
mod tests;
