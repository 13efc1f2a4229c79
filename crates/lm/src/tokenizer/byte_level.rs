//! Byte-level BPE: bytes are written as printable characters, words are cut by an expression, merges have ranks.

use std::cmp::Reverse;
use std::collections::HashMap;

use fancy_regex::Regex;

use super::merge::merge;
use super::{EncodeError, TokenizerError, Vocabulary};
use crate::gguf::Metadata;

const MERGES: &str = "tokenizer.ggml.merges";

/// How text is cut into words before merging, by `tokenizer.ggml.pre`.
///
/// Expressions: `tokenizer.json` of openai-community/gpt2, meta-llama/Meta-Llama-3-8B, Qwen/Qwen2-7B and HuggingFaceTB/SmolLM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreTokenizer {
    /// GPT-2, Phi-1.5 and Phi-2.
    Gpt2,
    /// Llama 3.
    Llama3,
    /// Qwen 2, 2.5 and 3.
    Qwen2,
    /// SmolLM: digits one by one, then as GPT-2.
    SmolLm,
}

const NAMES: [(&str, PreTokenizer); 9] = [
    ("gpt-2", PreTokenizer::Gpt2),
    ("phi-2", PreTokenizer::Gpt2),
    ("default", PreTokenizer::Gpt2),
    ("llama-bpe", PreTokenizer::Llama3),
    ("llama3", PreTokenizer::Llama3),
    ("llama-v3", PreTokenizer::Llama3),
    ("qwen2", PreTokenizer::Qwen2),
    ("deepseek-r1-qwen", PreTokenizer::Qwen2),
    ("smollm", PreTokenizer::SmolLm),
];

impl PreTokenizer {
    fn from_metadata(metadata: &Metadata) -> Result<Self, TokenizerError> {
        let found = metadata.optional_str("tokenizer.ggml.pre")?.unwrap_or("gpt-2");
        let known = NAMES.iter().find(|(name, _)| *name == found);
        known
            .map(|(_, pre_tokenizer)| *pre_tokenizer)
            .ok_or_else(|| TokenizerError::UnknownPreTokenizer {
                found: found.to_owned(),
                expected: NAMES.map(|(name, _)| name).join(", "),
            })
    }

    fn pattern(self) -> &'static str {
        match self {
            PreTokenizer::Gpt2 => r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            PreTokenizer::Llama3 => concat!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
                r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            ),
            PreTokenizer::Qwen2 => concat!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
                r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            ),
            PreTokenizer::SmolLm => r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)(?!\p{N})|\s+",
        }
    }

    /// Whether a word that is one token is taken whole, whatever the merges say.
    fn takes_whole_words(self) -> bool {
        self == PreTokenizer::Llama3
    }
}

#[derive(Debug)]
pub(super) struct ByteLevel {
    pattern: Regex,
    takes_whole_words: bool,
    ranks: HashMap<(u32, u32), u32>,
}

impl ByteLevel {
    pub(super) fn from_metadata(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Self, TokenizerError> {
        let pre_tokenizer = PreTokenizer::from_metadata(metadata)?;
        let pattern = Regex::new(pre_tokenizer.pattern()).map_err(|error| TokenizerError::Invalid {
            key: "tokenizer.ggml.pre",
            problem: format!("its expression does not compile: {error}"),
        })?;
        let merges = metadata.strings(MERGES)?;
        let mut ranks = HashMap::with_capacity(merges.len());
        for (rank, merge) in merges.iter().enumerate() {
            ranks.entry(read_merge(vocabulary, rank, merge)?).or_insert(rank as u32);
        }
        Ok(Self {
            pattern,
            takes_whole_words: pre_tokenizer.takes_whole_words(),
            ranks,
        })
    }

    /// Appends the tokens of `text`, which has no special tokens in it.
    pub(super) fn encode(&self, vocabulary: &Vocabulary, text: &str, tokens: &mut Vec<u32>) -> Result<(), EncodeError> {
        for word in self.pattern.find_iter(text) {
            let word = word.map_err(|error| EncodeError::PreTokenizer {
                reason: error.to_string(),
            })?;
            self.encode_word(vocabulary, word.as_str(), tokens)?;
        }
        Ok(())
    }

    fn encode_word(&self, vocabulary: &Vocabulary, word: &str, tokens: &mut Vec<u32>) -> Result<(), EncodeError> {
        let spelt: String = word.bytes().map(character_of).collect();
        if self.takes_whole_words
            && let Some(id) = vocabulary.id(&spelt)
        {
            tokens.push(id);
            return Ok(());
        }
        let starts: Vec<usize> = spelt.char_indices().map(|(start, _)| start).collect();
        let parts = merge(&starts, spelt.len(), |start, middle, end| {
            let pair = (
                vocabulary.id(&spelt[start..middle])?,
                vocabulary.id(&spelt[middle..end])?,
            );
            self.ranks.get(&pair).map(|rank| Reverse(*rank))
        });
        for part in parts {
            let id = vocabulary.id(&spelt[part.clone()]);
            tokens.push(id.ok_or_else(|| EncodeError::NoToken {
                text: spelt[part].to_owned(),
            })?);
        }
        Ok(())
    }
}

fn read_merge(vocabulary: &Vocabulary, rank: usize, merge: &str) -> Result<(u32, u32), TokenizerError> {
    let invalid = |problem: &str| TokenizerError::Invalid {
        key: MERGES,
        problem: format!("merge {rank} {merge:?}: {problem}"),
    };
    let (left, right) = merge
        .split_once(' ')
        .ok_or_else(|| invalid("expected two tokens with a space between"))?;
    let find = |text: &str| {
        vocabulary
            .id(text)
            .ok_or_else(|| invalid("it names a token that the vocabulary lacks"))
    };
    let pair = (find(left)?, find(right)?);
    find(&format!("{left}{right}"))?;
    Ok(pair)
}

/// The character that stands for a byte: the byte itself where it is printable in Latin-1, else one from U+0100 on
/// (`bytes_to_unicode` in OpenAI's GPT-2 encoder).
fn character_of(byte: u8) -> char {
    let unprintable = match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => return char::from(byte),
        0..=b' ' => u32::from(byte),
        0x7F..=0xA0 => u32::from(byte) - 0x7F + 33,
        0xAD => 67,
    };
    char::from_u32(0x100 + unprintable).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn byte_of(character: char) -> Option<u8> {
    match u32::from(character) {
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => u8::try_from(character)
            .ok()
            .filter(|byte| character_of(*byte) == character),
    }
}

/// The bytes that a token spells. Characters that stand for no byte, as in added tokens, are themselves.
pub(super) fn to_bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for character in text.chars() {
        match byte_of(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend(character.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character_and_comes_back() {
        for byte in 0..=255 {
            assert_eq!(byte_of(character_of(byte)), Some(byte));
        }
        assert_eq!(character_of(b' '), 'Ġ');
        assert_eq!(character_of(b'\n'), 'Ċ');
        assert_eq!(to_bytes("Ġ→"), " →".as_bytes());
    }

    #[test]
    fn every_pre_tokenizer_has_an_expression_that_covers_all_text() {
        for (name, pre_tokenizer) in NAMES {
            let pattern = Regex::new(pre_tokenizer.pattern()).unwrap();
            let text = "It's 12345  words,\n\n  and\tÜmläute... 中文 \r\n '  x 7 ";
            let words: String = pattern.find_iter(text).map(|word| word.unwrap().as_str()).collect();
            assert_eq!(words, text, "{name}");
        }
    }
}
