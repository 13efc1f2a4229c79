//! How well a model predicts given text: the primitive of every evaluation.

use super::sampling::log_sum_exp;
use super::{Engine, RunError};
use crate::tokenizer::TokenizedExample;

/// A sum of cross-entropies. Losses of several texts add up.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Loss {
    /// Sum over the tokens, in nats.
    pub nats: f64,
    /// The number of tokens.
    pub tokens: u64,
}

impl Loss {
    /// Nats per token, or `None` without tokens.
    pub fn per_token(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.nats / self.tokens as f64)
    }
}

impl std::ops::Add for Loss {
    type Output = Loss;

    fn add(self, other: Loss) -> Loss {
        Loss {
            nats: self.nats + other.nats,
            tokens: self.tokens + other.tokens,
        }
    }
}

impl std::ops::AddAssign for Loss {
    fn add_assign(&mut self, other: Loss) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Loss {
    fn sum<I: Iterator<Item = Loss>>(losses: I) -> Loss {
        losses.fold(Loss::default(), |sum, loss| sum + loss)
    }
}

impl Engine {
    /// Loss of a completion after a prompt: over the completion's tokens and the end token (see [`crate::tokenizer::Tokenizer::example`]).
    pub fn score(&self, prompt: &str, completion: &str) -> Result<Loss, RunError> {
        self.example_loss(&self.tokenizer().example(prompt, completion)?)
    }

    /// Loss of plain text (see [`crate::tokenizer::Tokenizer::plain_text`]).
    pub fn text_loss(&self, text: &str) -> Result<Loss, RunError> {
        self.example_loss(&self.tokenizer().plain_text(text)?)
    }

    /// Loss of a tokenised example. Tokens beyond the context are left out.
    pub fn example_loss(&self, example: &TokenizedExample) -> Result<Loss, RunError> {
        let tokens = &example.tokens[..example.tokens.len().min(self.config().context + 1)];
        if tokens.len() <= example.first_target {
            return Ok(Loss::default());
        }
        let mut loss = Loss::default();
        let inputs = &tokens[..tokens.len() - 1];
        self.model.check(&tokens[tokens.len() - 1..])?;
        self.visit_logits(inputs, example.first_target - 1, |index, logits| {
            let target = tokens[index + 1] as usize;
            loss += Loss {
                nats: log_sum_exp(logits) - f64::from(logits[target]),
                tokens: 1,
            };
        })?;
        if loss.nats.is_finite() {
            Ok(loss)
        } else {
            Err(RunError::NotFinite)
        }
    }
}
