//! Splitting text at the tokens that are never merged with their surroundings.

use super::{ControlTokens, TokenKind, Vocabulary};

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// Text between such tokens.
    Text(&'a str),
    /// One such token.
    Token(u32),
}

/// Control, unknown and user-defined tokens, grouped by their first byte, longest first.
#[derive(Debug)]
pub(super) struct SpecialTokens {
    by_first_byte: Vec<Vec<Special>>,
}

#[derive(Debug)]
struct Special {
    text: String,
    id: u32,
    is_text: bool,
}

impl SpecialTokens {
    pub(super) fn new(texts: &[String], kinds: &[TokenKind]) -> Self {
        let mut by_first_byte: Vec<Vec<Special>> = (0..256).map(|_| Vec::new()).collect();
        for (id, (text, kind)) in texts.iter().zip(kinds).enumerate() {
            let is_special = matches!(kind, TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined);
            if let (true, Some(first)) = (is_special, text.as_bytes().first()) {
                let is_text = *kind == TokenKind::UserDefined;
                by_first_byte[usize::from(*first)].push(Special {
                    text: text.clone(),
                    id: id as u32,
                    is_text,
                });
            }
        }
        for group in &mut by_first_byte {
            group.sort_by(|left, right| right.text.len().cmp(&left.text.len()).then(left.id.cmp(&right.id)));
        }
        Self { by_first_byte }
    }

    fn longest_at(&self, rest: &str, control: ControlTokens) -> Option<&Special> {
        let first = *rest.as_bytes().first()?;
        self.by_first_byte[usize::from(first)]
            .iter()
            .find(|special| (special.is_text || control == ControlTokens::Parse) && rest.starts_with(&special.text))
    }
}

impl Vocabulary {
    /// Splits `text` at user-defined tokens, and at control tokens where they are to be parsed.
    pub(super) fn split_special<'a>(&self, text: &'a str, control: ControlTokens) -> Vec<Piece<'a>> {
        let mut pieces = Vec::new();
        let mut begin = 0;
        let mut at = 0;
        while at < text.len() {
            match self.special.longest_at(&text[at..], control) {
                Some(special) => {
                    if begin < at {
                        pieces.push(Piece::Text(&text[begin..at]));
                    }
                    pieces.push(Piece::Token(special.id));
                    at += special.text.len();
                    begin = at;
                }
                None => at += text[at..].chars().next().map_or(1, char::len_utf8),
            }
        }
        if begin < text.len() {
            pieces.push(Piece::Text(&text[begin..]));
        }
        pieces
    }
}
