//! How well a model predicts given text: the primitive of every evaluation.

use super::generate::{GenerationOptions, Step};
use super::sampling::{Sampling, log_sum_exp, most_probable};
use super::{Engine, RunError};
use crate::limits::ANSWER_SLACK_TOKENS;
use crate::tokenizer::{ControlTokens, TokenizedExample};

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

/// What a model makes of a prompt whose answer is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Assessment {
    /// Over the answer's tokens and the end token.
    pub loss: Loss,
    /// Whether greedy decoding gives the answer and then ends, white space at both ends aside.
    pub exact: bool,
}

/// How a model predicts the targets of an example, each after the true tokens before it.
struct Prediction {
    loss: Loss,
    /// Each target is the most probable token.
    likely: bool,
    /// No token was left out.
    whole: bool,
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
        Ok(self.predict(example)?.loss)
    }

    /// How well the model answers a prompt, compared with the answer that is expected.
    pub fn assess(&self, prompt: &str, answer: &str) -> Result<Assessment, RunError> {
        let example = self.tokenizer().example(prompt, answer)?;
        let predicted = self.predict(&example)?;
        // Where each token is the most probable one after those before it, the end token among them, greedy decoding gives
        // just these. Where one is not, it may still write the same text with other tokens.
        let ends = self.tokenizer().vocabulary().end().is_some();
        let exact = if predicted.whole && predicted.likely && ends {
            true
        } else {
            self.writes(prompt, answer, example.targets() + ANSWER_SLACK_TOKENS)?
        };
        Ok(Assessment {
            loss: predicted.loss,
            exact,
        })
    }

    /// Whether greedy decoding gives the answer in at most `max_tokens` tokens and then ends, white space at both ends aside.
    fn writes(&self, prompt: &str, answer: &str, max_tokens: usize) -> Result<bool, RunError> {
        let tokens = self.tokenizer().encode_prompt(prompt, ControlTokens::Parse)?;
        if tokens.is_empty() || tokens.len() > self.config().context {
            return Ok(false);
        }
        let options = GenerationOptions {
            sampling: Sampling::Greedy,
            max_tokens,
            stop: Vec::new(),
        };
        let mut session = self.session(&tokens, &options)?;
        let (mut text, answer) = (String::new(), answer.trim());
        loop {
            match session.step()? {
                Step::Prefilled { .. } => {}
                Step::Token(token) => text.push_str(&token.text),
                Step::Finished { text: rest, .. } => return Ok((text + &rest).trim() == answer),
            }
            // The rest of a wrong answer need not be computed.
            if !answer.starts_with(text.trim()) {
                return Ok(false);
            }
        }
    }

    fn predict(&self, example: &TokenizedExample) -> Result<Prediction, RunError> {
        let tokens = &example.tokens[..example.tokens.len().min(self.config().context + 1)];
        let mut predicted = Prediction {
            loss: Loss::default(),
            likely: true,
            whole: tokens.len() == example.tokens.len(),
        };
        if tokens.len() <= example.first_target {
            return Ok(predicted);
        }
        let inputs = &tokens[..tokens.len() - 1];
        self.model.check(&tokens[tokens.len() - 1..])?;
        self.visit_logits(inputs, example.first_target - 1, |index, logits| {
            let target = tokens[index + 1] as usize;
            predicted.likely &= most_probable(logits) as usize == target;
            predicted.loss += Loss {
                nats: log_sum_exp(logits) - f64::from(logits[target]),
                tokens: 1,
            };
        })?;
        if predicted.loss.nats.is_finite() {
            Ok(predicted)
        } else {
            Err(RunError::NotFinite)
        }
    }
}
