//! Tokenizers, read from the vocabulary inside a GGUF file: SentencePiece-BPE (`llama`) and byte-level BPE (`gpt2`).
//!
//! Token ids agree with llama.cpp's, whose test vectors are this module's tests.

mod byte_level;
mod chat;
mod example;
mod merge;
mod pieces;
mod sentence_piece;
mod stream;
mod vocabulary;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub use byte_level::PreTokenizer;
pub use chat::{ChatMessage, ChatTemplate, TemplateError};
pub use example::TokenizedExample;
pub use stream::Detokenizer;
pub use vocabulary::{TokenKind, Vocabulary};

use crate::gguf::{Metadata, MetadataError};
use crate::limits;
use byte_level::ByteLevel;
use pieces::Piece;
use sentence_piece::SentencePiece;

/// What to do with text that spells a control token, such as `</s>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlTokens {
    /// It is text like any other: for what users and documents say.
    AsText,
    /// It is that token: for the output of a chat template.
    Parse,
}

/// Where a piece of text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// At the beginning of a sequence: vocabularies that prefix the first word with a space do so.
    Start,
    /// After other text: nothing is prefixed.
    Continuation,
}

/// Why a GGUF file has no usable vocabulary.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TokenizerError {
    /// A key is missing or has the wrong type.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The kind of tokenizer is none that this version knows.
    #[error("tokenizer.ggml.model is {found:?}, expected \"llama\" or \"gpt2\"")]
    UnknownModel {
        /// The name in the file.
        found: String,
    },
    /// The pre-tokenizer is none that this version knows.
    #[error("tokenizer.ggml.pre is {found:?}, expected one of {expected}")]
    UnknownPreTokenizer {
        /// The name in the file.
        found: String,
        /// The known names.
        expected: String,
    },
    /// Something in the vocabulary contradicts something else.
    #[error("{key}: {problem}")]
    Invalid {
        /// The metadata key.
        key: &'static str,
        /// What is wrong, and what was expected.
        problem: String,
    },
}

/// Why text cannot be turned into tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The text is longer than any context.
    #[error("the text has {found} bytes, and the limit is {}", limits::MAX_TEXT_BYTES)]
    TooLong {
        /// Bytes of the text.
        found: usize,
    },
    /// The vocabulary has no way to write this text: it lacks both the character and its bytes.
    #[error("the vocabulary has no token for {text:?}")]
    NoToken {
        /// The part without a token.
        text: String,
    },
    /// The pre-tokenizer's expression gave up.
    #[error("the pre-tokenizer gave up on the text: {reason}")]
    PreTokenizer {
        /// What the expression engine said.
        reason: String,
    },
}

#[derive(Debug)]
enum Model {
    SentencePiece(SentencePiece),
    ByteLevel(ByteLevel),
}

/// A tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    model: Model,
}

impl Tokenizer {
    /// Reads the vocabulary from a header's metadata.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, TokenizerError> {
        let model = metadata.str("tokenizer.ggml.model")?;
        let vocabulary = Vocabulary::from_metadata(metadata)?;
        let model = match model {
            "llama" => Model::SentencePiece(SentencePiece::from_metadata(metadata, &vocabulary)?),
            "gpt2" => Model::ByteLevel(ByteLevel::from_metadata(metadata, &vocabulary)?),
            found => {
                return Err(TokenizerError::UnknownModel {
                    found: found.to_owned(),
                });
            }
        };
        Ok(Self { vocabulary, model })
    }

    /// The vocabulary.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The tokens of `text`, without a beginning-of-sequence token.
    pub fn encode(&self, text: &str, control: ControlTokens, position: Position) -> Result<Vec<u32>, EncodeError> {
        if text.len() > limits::MAX_TEXT_BYTES {
            return Err(EncodeError::TooLong { found: text.len() });
        }
        let mut tokens = Vec::with_capacity(text.len() / 3 + 1);
        let mut at_start = position == Position::Start;
        for piece in self.vocabulary.split_special(text, control) {
            match piece {
                Piece::Token(token) => {
                    tokens.push(token);
                    at_start = true;
                }
                Piece::Text(text) => {
                    self.encode_text(text, at_start, &mut tokens)?;
                    at_start = false;
                }
            }
        }
        Ok(tokens)
    }

    /// The tokens of a prompt: the beginning-of-sequence token where the vocabulary asks for one, then `text`.
    pub fn encode_prompt(&self, text: &str, control: ControlTokens) -> Result<Vec<u32>, EncodeError> {
        let mut tokens = self.encode(text, control, Position::Start)?;
        if let Some(begin) = self.vocabulary.begin_of_prompt()
            && tokens.first() != Some(&begin)
        {
            tokens.insert(0, begin);
        }
        Ok(tokens)
    }

    fn encode_text(&self, text: &str, at_start: bool, tokens: &mut Vec<u32>) -> Result<(), EncodeError> {
        match &self.model {
            Model::SentencePiece(model) => model.encode(&self.vocabulary, text, at_start, tokens),
            Model::ByteLevel(model) => model.encode(&self.vocabulary, text, tokens),
        }
    }

    /// The bytes that a token adds to the text: none for control tokens and for ids outside the vocabulary.
    pub fn token_bytes(&self, token: u32) -> Cow<'_, [u8]> {
        let Some(text) = self.vocabulary.text(token) else {
            return Cow::Borrowed(&[]);
        };
        match (self.vocabulary.kind(token), &self.model) {
            (TokenKind::Control | TokenKind::Unknown, _) => Cow::Borrowed(&[]),
            (TokenKind::Byte, _) => match vocabulary::parse_byte(text) {
                Some(byte) => Cow::Owned(vec![byte]),
                None => Cow::Borrowed(text.as_bytes()),
            },
            (TokenKind::UserDefined, _) => Cow::Borrowed(text.as_bytes()),
            (_, Model::SentencePiece(_)) => sentence_piece::unescape(text),
            (_, Model::ByteLevel(_)) => Cow::Owned(byte_level::to_bytes(text)),
        }
    }

    /// The text of a whole sequence. The space that the vocabulary prefixed to the first word is taken off again.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|token| self.token_bytes(*token).into_owned())
            .collect();
        let text = String::from_utf8_lossy(&bytes);
        match &self.model {
            Model::SentencePiece(model) if model.adds_space_prefix() => {
                text.strip_prefix(' ').unwrap_or(&text).to_owned()
            }
            _ => text.into_owned(),
        }
    }

    /// The text that `tokens` add after other text: nothing is taken off.
    pub fn decode_continuation(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|token| self.token_bytes(*token).into_owned())
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
