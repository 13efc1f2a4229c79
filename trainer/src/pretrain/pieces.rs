//! The vocabulary of a small model: SentencePiece-style pieces learnt by byte-pair merges, with byte fallback.

use std::collections::{BTreeMap, BTreeSet};

/// The mark that stands for a space, as in SentencePiece.
const SPACE: char = '\u{2581}';

/// Pieces before the learnt ones: unknown, beginning, end, and the 256 bytes.
pub const FIXED_PIECES: usize = 3 + 256;

/// What a piece is, with GGUF's numbers (`tokenizer.ggml.token_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum PieceKind {
    /// Text.
    Normal = 1,
    /// Stands for what no piece covers.
    Unknown = 2,
    /// Beginning or end of text.
    Control = 3,
    /// One byte.
    Byte = 6,
}

/// One piece.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Its text, with [`SPACE`] for spaces.
    pub text: String,
    /// Higher merges first.
    pub score: f32,
    /// What it is.
    pub kind: PieceKind,
}

/// A vocabulary; the index of a piece is its token id.
#[derive(Debug, Clone, PartialEq)]
pub struct Pieces(Vec<Piece>);

impl Pieces {
    /// Id of the beginning-of-text token.
    pub const BEGIN: u32 = 1;
    /// Id of the end-of-text token.
    pub const END: u32 = 2;

    /// Learns at most `size` pieces from `texts`.
    ///
    /// Every character that occurs becomes a piece; then the most frequent pair of neighbours inside a word is merged,
    /// again and again. Digits and punctuation stay alone, so that numbers are read digit by digit.
    pub fn learn<'a>(texts: impl Iterator<Item = &'a str>, size: usize) -> Self {
        let mut words = count_words(texts);
        let alphabet: BTreeSet<&String> = words.keys().flatten().collect();
        let mut learnt: Vec<String> = alphabet.into_iter().cloned().collect();
        while FIXED_PIECES + learnt.len() < size {
            let Some((left, right)) = most_frequent_pair(&words) else {
                break;
            };
            words = words
                .into_iter()
                .map(|(word, count)| (merge(word, &left, &right), count))
                .collect();
            learnt.push(left + &right);
        }
        Self(
            fixed_pieces()
                .chain(learnt.into_iter().enumerate().map(scored))
                .collect(),
        )
    }

    /// The pieces, by token id.
    pub fn as_slice(&self) -> &[Piece] {
        &self.0
    }
}

fn fixed_pieces() -> impl Iterator<Item = Piece> {
    let special = [
        ("<unk>", PieceKind::Unknown),
        ("<s>", PieceKind::Control),
        ("</s>", PieceKind::Control),
    ];
    let special = special.into_iter().map(|(text, kind)| Piece {
        text: text.to_owned(),
        score: 0.0,
        kind,
    });
    let bytes = (0..=255_u8).map(|byte| Piece {
        text: format!("<0x{byte:02X}>"),
        score: 0.0,
        kind: PieceKind::Byte,
    });
    special.chain(bytes)
}

/// Pieces that were learnt earlier merge first.
fn scored((rank, text): (usize, String)) -> Piece {
    Piece {
        text,
        score: -(rank as f32),
        kind: PieceKind::Normal,
    }
}

/// A word is a space and what follows up to the next space or line feed, as single characters.
fn count_words<'a>(texts: impl Iterator<Item = &'a str>) -> BTreeMap<Vec<String>, u64> {
    let mut words = BTreeMap::new();
    for line in texts.flat_map(str::lines).filter(|line| !line.is_empty()) {
        for (index, word) in line.split(' ').enumerate() {
            let space = (index > 0).then_some(SPACE);
            let characters: Vec<String> = space.into_iter().chain(word.chars()).map(String::from).collect();
            *words.entry(characters).or_insert(0) += 1;
        }
    }
    words
}

/// Whether a symbol may be part of a longer piece.
fn merges(symbol: &str) -> bool {
    symbol
        .chars()
        .all(|character| character.is_alphabetic() || character == SPACE || character == '-')
}

/// Ties go to the pair that comes first in text order.
fn most_frequent_pair(words: &BTreeMap<Vec<String>, u64>) -> Option<(String, String)> {
    let mut pairs: BTreeMap<(&String, &String), u64> = BTreeMap::new();
    for (word, count) in words {
        for pair in word.windows(2).filter(|pair| pair.iter().all(|symbol| merges(symbol))) {
            *pairs.entry((&pair[0], &pair[1])).or_insert(0) += count;
        }
    }
    let best = pairs
        .into_iter()
        .min_by(|(left, left_count), (right, right_count)| right_count.cmp(left_count).then_with(|| left.cmp(right)));
    best.map(|((left, right), _)| (left.clone(), right.clone()))
}

fn merge(word: Vec<String>, left: &str, right: &str) -> Vec<String> {
    let mut merged: Vec<String> = Vec::with_capacity(word.len());
    for symbol in word {
        match merged.last_mut() {
            Some(last) if *last == left && symbol == right => last.push_str(right),
            _ => merged.push(symbol),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learnt(texts: &[&str], extra: usize) -> Vec<String> {
        let pieces = Pieces::learn(texts.iter().copied(), FIXED_PIECES + extra);
        pieces.as_slice()[FIXED_PIECES..]
            .iter()
            .map(|piece| piece.text.clone())
            .collect()
    }

    #[test]
    fn frequent_neighbours_merge_and_digits_stay_alone() {
        let pieces = learnt(&["low 12 low 12 low", "low 12"], 12);
        assert!(pieces.contains(&"low".to_owned()), "{pieces:?}");
        assert!(pieces.contains(&"\u{2581}low".to_owned()), "{pieces:?}");
        assert!(!pieces.contains(&"12".to_owned()), "{pieces:?}");
    }

    #[test]
    fn bytes_and_specials_have_the_ids_that_llama_vocabularies_use() {
        let pieces = Pieces::learn(["a"].into_iter(), 300);
        let text = |id: usize| pieces.as_slice()[id].text.as_str();
        assert_eq!(
            (text(0), text(1), text(2), text(3), text(258)),
            ("<unk>", "<s>", "</s>", "<0x00>", "<0xFF>")
        );
        assert_eq!(
            pieces.as_slice().len(),
            FIXED_PIECES + 1,
            "one letter leaves nothing to merge"
        );
    }

    #[test]
    fn earlier_merges_score_higher() {
        let pieces = Pieces::learn(["low lower lowest"].into_iter(), FIXED_PIECES + 14);
        let scores: Vec<f32> = pieces.as_slice()[FIXED_PIECES..]
            .iter()
            .map(|piece| piece.score)
            .collect();
        assert!(scores.windows(2).all(|pair| pair[0] > pair[1]), "{scores:?}");
    }
}
