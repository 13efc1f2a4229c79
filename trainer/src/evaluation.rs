//! How well a model does on a set of examples: the loss over what counts, and exact answers by greedy decoding.

use fieldfare_lm::engine::{Engine, GenerationOptions, Loss, RunError, Sampling};
use fieldfare_lm::example::Rendered;
use fieldfare_lm::tokenizer::{ControlTokens, TemplateError};

use crate::compute::{Stop, Stopped};
use crate::examples::ExampleSet;

/// The result of one evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Over all tokens that count.
    pub loss: Loss,
    /// Examples that ask for an answer.
    pub questions: u32,
    /// Those that were answered exactly.
    pub exact: u32,
}

impl Measured {
    /// Nats per token; without tokens, nothing was learnt about the model, and the loss is not a number.
    pub fn loss_per_token(&self) -> f64 {
        self.loss.per_token().unwrap_or(f64::NAN)
    }

    /// Rate of exact answers; 0 without questions.
    pub fn exact_rate(&self) -> f64 {
        f64::from(self.exact) / f64::from(self.questions.max(1))
    }
}

/// Why an evaluation has no result.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    /// Nobody waits for it.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// An example cannot be computed.
    #[error("example {example}")]
    Run {
        /// Its number, from 1.
        example: usize,
        /// Why.
        #[source]
        source: RunError,
    },
    /// The chat template refuses a conversation.
    #[error("example {example}")]
    Template {
        /// Its number, from 1.
        example: usize,
        /// Why.
        #[source]
        source: TemplateError,
    },
    /// The examples leave nothing to predict.
    #[error("the examples leave no token to predict")]
    NoTokens,
}

/// Measures a model on every example. A model whose numbers are no numbers any more is an error, never a good loss.
///
/// # Errors
/// [`EvaluationError`] names the example.
pub fn measure(engine: &Engine, set: &ExampleSet, stop: &Stop) -> Result<Measured, EvaluationError> {
    let mut measured = Measured::default();
    for (index, example) in set.examples().iter().enumerate() {
        stop.check()?;
        let run = |source| EvaluationError::Run {
            example: index + 1,
            source,
        };
        let template = |source| EvaluationError::Template {
            example: index + 1,
            source,
        };
        match example.rendered(engine.template()).map_err(template)? {
            Rendered::Text(text) => measured.loss += engine.text_loss(text).map_err(run)?,
            Rendered::Completion { prompt, completion } => {
                let assessed = engine.assess(&prompt, completion).map_err(run)?;
                measured.loss += assessed.loss;
                measured.questions += 1;
                measured.exact += u32::from(assessed.exact);
            }
        }
    }
    if measured.loss.tokens == 0 {
        return Err(EvaluationError::NoTokens);
    }
    Ok(measured)
}

/// What greedy decoding says after a prompt, in at most `max_tokens` tokens.
///
/// # Errors
/// The prompt cannot be computed.
pub(crate) fn greedy(engine: &Engine, prompt: &str, max_tokens: u32) -> Result<String, RunError> {
    let tokens = engine.tokenizer().encode_prompt(prompt, ControlTokens::Parse)?;
    let options = GenerationOptions {
        sampling: Sampling::Greedy,
        max_tokens: max_tokens as usize,
        stop: Vec::new(),
    };
    Ok(engine.generate(&tokens, &options)?.text)
}
