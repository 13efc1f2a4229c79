//! Changes to an input that keep most of its structure.

use crate::dice::Dice;

/// Longest input that mutations grow to, in bytes.
const MOST_BYTES: usize = 64 * 1024;

/// Changes an input at one to four places.
pub(crate) fn mutate(input: &[u8], pool: &[Vec<u8>], words: &[&[u8]], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=dice.below(4) {
        once(&mut bytes, pool, words, dice);
    }
    bytes.truncate(MOST_BYTES);
    bytes
}

fn range(bytes: &[u8], dice: &mut Dice) -> std::ops::Range<usize> {
    let start = dice.below(bytes.len() + 1);
    let most = if dice.below(4) == 0 { bytes.len() } else { 16 };
    start..bytes.len().min(start + dice.below(most + 1))
}

fn once(bytes: &mut Vec<u8>, pool: &[Vec<u8>], words: &[&[u8]], dice: &mut Dice) {
    let at = dice.below(bytes.len());
    match dice.below(11) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
        1 if !bytes.is_empty() => bytes[at] = *dice.one(&[0, 1, 0x7f, 0x80, 0xff, b'0', b'"', b'{', b'[', b'\n', b' ']),
        2 | 3 => number(bytes, dice),
        4 => {
            let range = range(bytes, dice);
            bytes.drain(range);
        }
        5 => {
            // Once more, or many times, somewhere else.
            let range = range(bytes, dice);
            let many = if dice.below(4) == 0 { 64 } else { 1 };
            let part = bytes[range].repeat(many.min(MOST_BYTES / 256));
            bytes.splice(at..at, part);
        }
        6 => {
            let other = dice.one(pool).clone();
            let (from, into) = (range(&other, dice), range(bytes, dice));
            bytes.splice(into, other[from].iter().copied());
        }
        7 | 8 if !words.is_empty() => {
            let word = *dice.one(words);
            let end = if dice.below(2) == 0 {
                at
            } else {
                bytes.len().min(at + word.len())
            };
            bytes.splice(at..end, word.iter().copied());
        }
        9 => digits(bytes, dice),
        10 => bytes.truncate(at),
        _ => {
            let some: Vec<u8> = (0..dice.below(9)).map(|_| dice.draw() as u8).collect();
            bytes.splice(at..at, some);
        }
    }
}

/// Writes a number over a place, or changes the one that is there by little.
fn number(bytes: &mut [u8], dice: &mut Dice) {
    let width = *dice.one(&[1, 2, 4, 8]);
    let Some(last) = bytes.len().checked_sub(width) else {
        return;
    };
    let at = dice.below(last + 1);
    let place = &mut bytes[at..at + width];
    let mut present = [0; 8];
    present[..width].copy_from_slice(place);
    let value = match dice.below(2) {
        0 => u64::from_le_bytes(present)
            .wrapping_add(dice.draw() % 9)
            .wrapping_sub(4),
        _ => dice.edge(),
    };
    place.copy_from_slice(&value.to_le_bytes()[..width]);
    if dice.below(8) == 0 {
        place.reverse();
    }
}

/// Writes another number where one stands in digits.
fn digits(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let begins = |index: &usize| bytes[*index].is_ascii_digit() && (*index == 0 || !bytes[*index - 1].is_ascii_digit());
    let starts: Vec<usize> = (0..bytes.len()).filter(begins).collect();
    if starts.is_empty() {
        return;
    }
    let start = *dice.one(&starts);
    let end = (start..bytes.len())
        .find(|index| !bytes[*index].is_ascii_digit())
        .unwrap_or(bytes.len());
    let text = match dice.below(4) {
        0 => "-1".to_owned(),
        1 => (*dice.one(&["1e999", "0.5", "1e-400", "00", "null", "-0"])).to_owned(),
        _ => dice.edge().to_string(),
    };
    bytes.splice(start..end, text.into_bytes());
}
