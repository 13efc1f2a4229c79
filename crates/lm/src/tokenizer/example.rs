//! How text becomes a sequence to learn from or to be scored on: one definition for training and evaluation.

use super::{ControlTokens, EncodeError, Position, Tokenizer};

/// A sequence of tokens, of which those from `first_target` on are to be predicted, each from all before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizedExample {
    /// The whole sequence.
    pub tokens: Vec<u32>,
    /// Index of the first token that counts in the loss; at least 1 where the sequence is not empty.
    pub first_target: usize,
}

impl TokenizedExample {
    /// The number of tokens that count in the loss.
    pub fn targets(&self) -> usize {
        self.tokens.len().saturating_sub(self.first_target)
    }
}

impl Tokenizer {
    /// A prompt and what should follow: begin token, prompt, completion as its continuation, end token. The completion and the end token count.
    ///
    /// Control tokens in the prompt are parsed, since it is the output of a chat template; in the completion they are text.
    pub fn example(&self, prompt: &str, completion: &str) -> Result<TokenizedExample, EncodeError> {
        let mut tokens = self.encode_prompt(prompt, ControlTokens::Parse)?;
        let first_target = tokens.len().max(1);
        let position = if prompt.is_empty() {
            Position::Start
        } else {
            Position::Continuation
        };
        tokens.extend(self.encode(completion, ControlTokens::AsText, position)?);
        tokens.extend(self.vocabulary().end());
        Ok(TokenizedExample { tokens, first_target })
    }

    /// Plain text: begin token, then the text, all of which counts. Without a begin token the first token of the text cannot be predicted and does not count.
    pub fn plain_text(&self, text: &str) -> Result<TokenizedExample, EncodeError> {
        let tokens = self.encode_prompt(text, ControlTokens::AsText)?;
        Ok(TokenizedExample {
            tokens,
            first_target: 1,
        })
    }
}
