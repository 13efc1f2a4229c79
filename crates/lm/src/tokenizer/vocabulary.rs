//! The tokens of a vocabulary, and which of them have a special meaning.

use std::collections::{BTreeSet, HashMap};

use super::TokenizerError;
use crate::gguf::Metadata;
use crate::limits;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";

/// What a token is, by GGUF's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text.
    Normal,
    /// Stands for what cannot be written.
    Unknown,
    /// Directs the model and is no text.
    Control,
    /// Text that is always one token.
    UserDefined,
    /// Never used.
    Unused,
    /// One byte.
    Byte,
}

/// Texts of tokens that end a turn or a sequence, whatever the metadata say (llama.cpp, `llama-vocab.cpp`, `special_eog_ids`).
const END_TEXTS: [&str; 8] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "<|end_of_text|>",
];

/// The tokens of a model.
#[derive(Debug)]
pub struct Vocabulary {
    texts: Vec<String>,
    kinds: Vec<TokenKind>,
    ids: HashMap<String, u32>,
    pub(super) special: super::pieces::SpecialTokens,
    begin: Option<u32>,
    end: Option<u32>,
    ends: BTreeSet<u32>,
    adds_begin: bool,
}

impl Vocabulary {
    pub(super) fn from_metadata(metadata: &Metadata) -> Result<Self, TokenizerError> {
        let texts = metadata.strings(TOKENS)?.to_vec();
        if texts.is_empty() || texts.len() > limits::MAX_VOCABULARY {
            let problem = format!("{} tokens, expected 1 to {}", texts.len(), limits::MAX_VOCABULARY);
            return Err(TokenizerError::Invalid { key: TOKENS, problem });
        }
        let kinds = read_kinds(metadata, texts.len())?;
        let mut ids = HashMap::with_capacity(texts.len());
        for (id, text) in texts.iter().enumerate() {
            ids.entry(text.clone()).or_insert(id as u32);
        }
        let begin = read_id(metadata, "tokenizer.ggml.bos_token_id", texts.len())?;
        let end = read_id(metadata, "tokenizer.ggml.eos_token_id", texts.len())?;
        let turn_end = read_id(metadata, "tokenizer.ggml.eot_token_id", texts.len())?;
        let mut ends: BTreeSet<u32> = [end, turn_end].into_iter().flatten().collect();
        let is_control = |id: &u32| matches!(kinds[*id as usize], TokenKind::Control | TokenKind::UserDefined);
        ends.extend(
            END_TEXTS
                .iter()
                .filter_map(|text| ids.get(*text).copied())
                .filter(is_control),
        );
        let special = super::pieces::SpecialTokens::new(&texts, &kinds);
        let adds_begin = metadata
            .optional_bool("tokenizer.ggml.add_bos_token")?
            .unwrap_or(metadata.optional_str("tokenizer.ggml.model")? == Some("llama"));
        Ok(Self {
            texts,
            kinds,
            ids,
            special,
            begin,
            end,
            ends,
            adds_begin,
        })
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there are no tokens: never.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// A token's text as the vocabulary spells it.
    pub fn text(&self, token: u32) -> Option<&str> {
        self.texts.get(token as usize).map(String::as_str)
    }

    /// What a token is; `Unused` for ids outside the vocabulary.
    pub fn kind(&self, token: u32) -> TokenKind {
        self.kinds.get(token as usize).copied().unwrap_or(TokenKind::Unused)
    }

    /// The token that is spelt so.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// The token that begins a sequence.
    pub fn begin(&self) -> Option<u32> {
        self.begin
    }

    /// The token that ends a sequence.
    pub fn end(&self) -> Option<u32> {
        self.end
    }

    /// The token that a prompt has to begin with, where the model was trained so.
    pub fn begin_of_prompt(&self) -> Option<u32> {
        self.begin.filter(|_| self.adds_begin)
    }

    /// Whether generation ends with this token: it ends the sequence or a turn.
    pub fn ends_generation(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }
}

/// The byte that a token spelt `<0x0A>` stands for.
pub(super) fn parse_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

fn read_kinds(metadata: &Metadata, tokens: usize) -> Result<Vec<TokenKind>, TokenizerError> {
    let Some(numbers) = metadata.optional_i32s(TYPES)? else {
        return Ok(vec![TokenKind::Normal; tokens]);
    };
    if numbers.len() != tokens {
        let problem = format!("{} types for {tokens} tokens", numbers.len());
        return Err(TokenizerError::Invalid { key: TYPES, problem });
    }
    numbers
        .iter()
        .enumerate()
        .map(|(token, number)| read_kind(token, *number))
        .collect()
}

fn read_kind(token: usize, number: i32) -> Result<TokenKind, TokenizerError> {
    Ok(match number {
        1 => TokenKind::Normal,
        2 => TokenKind::Unknown,
        3 => TokenKind::Control,
        4 => TokenKind::UserDefined,
        5 => TokenKind::Unused,
        6 => TokenKind::Byte,
        _ => {
            let problem = format!("token {token} has the type {number}, expected 1 to 6");
            return Err(TokenizerError::Invalid { key: TYPES, problem });
        }
    })
}

fn read_id(metadata: &Metadata, key: &'static str, tokens: usize) -> Result<Option<u32>, TokenizerError> {
    match metadata.optional_u64(key)? {
        Some(id) if id >= tokens as u64 => {
            let problem = format!("it is {id}, and the vocabulary has {tokens} tokens");
            Err(TokenizerError::Invalid { key, problem })
        }
        id => Ok(id.map(|id| id as u32)),
    }
}
