//! SentencePiece-BPE: merges by score, bytes for what has no token.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::merge::merge;
use super::{EncodeError, TokenKind, TokenizerError, Vocabulary};
use crate::gguf::Metadata;

const SCORES: &str = "tokenizer.ggml.scores";

/// U+2581, which stands for a space in the vocabulary.
const SPACE: char = '\u{2581}';

#[derive(Debug)]
pub(super) struct SentencePiece {
    scores: Vec<f32>,
    bytes: Vec<Option<u32>>,
    add_space_prefix: bool,
}

/// A score with the total order of its bits, so that no file can upset the heap.
#[derive(PartialEq)]
struct Score(f32);

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl SentencePiece {
    pub(super) fn from_metadata(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Self, TokenizerError> {
        let scores = match metadata.optional_f32s(SCORES)? {
            Some(scores) if scores.len() != vocabulary.len() => {
                let problem = format!("{} scores for {} tokens", scores.len(), vocabulary.len());
                return Err(TokenizerError::Invalid { key: SCORES, problem });
            }
            Some(scores) => scores.to_vec(),
            None => vec![0.0; vocabulary.len()],
        };
        let byte_token = |byte: u8| {
            let id = vocabulary.id(&format!("<0x{byte:02X}>"))?;
            (vocabulary.kind(id) == TokenKind::Byte).then_some(id)
        };
        let add_space_prefix = metadata
            .optional_bool("tokenizer.ggml.add_space_prefix")?
            .unwrap_or(true);
        Ok(Self {
            scores,
            bytes: (0..=255).map(byte_token).collect(),
            add_space_prefix,
        })
    }

    pub(super) fn adds_space_prefix(&self) -> bool {
        self.add_space_prefix
    }

    /// Appends the tokens of `text`, which has no special tokens in it.
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        at_start: bool,
        tokens: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        let mut escaped = String::with_capacity(text.len() + text.len() / 2 + 3);
        if at_start && self.add_space_prefix {
            escaped.push(SPACE);
        }
        escaped.extend(
            text.chars()
                .map(|character| if character == ' ' { SPACE } else { character }),
        );
        let starts: Vec<usize> = escaped.char_indices().map(|(start, _)| start).collect();
        let parts = merge(&starts, escaped.len(), |start, _, end| {
            let id = vocabulary.id(&escaped[start..end])?;
            Some(Score(self.scores[id as usize]))
        });
        for part in parts {
            self.push_part(vocabulary, &escaped[part], tokens)?;
        }
        Ok(())
    }

    fn push_part(&self, vocabulary: &Vocabulary, part: &str, tokens: &mut Vec<u32>) -> Result<(), EncodeError> {
        if let Some(id) = vocabulary.id(part) {
            tokens.push(id);
            return Ok(());
        }
        for byte in part.bytes() {
            let id = self.bytes[usize::from(byte)].ok_or_else(|| EncodeError::NoToken { text: part.to_owned() })?;
            tokens.push(id);
        }
        Ok(())
    }
}

/// A token's text with spaces where the vocabulary has U+2581.
pub(super) fn unescape(text: &str) -> Cow<'_, [u8]> {
    if text.contains(SPACE) {
        Cow::Owned(text.replace(SPACE, " ").into_bytes())
    } else {
        Cow::Borrowed(text.as_bytes())
    }
}
