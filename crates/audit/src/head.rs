//! What a log signs: heads of its tree (<https://c2sp.org/tlog-checkpoint>), and statements of what it removed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fieldfare_release::Sha256Digest;
use fieldfare_release::tuf::{KeyError, PublicKey, SigningKey};
use ring::rand::SecureRandom;

use crate::limits::MAX_RECORDS;
use crate::note::{self, NoteError, is_origin};

/// A head of a log's tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeHead {
    /// Names the log.
    pub origin: String,
    /// How many records it had.
    pub size: u64,
    /// The root of their tree.
    pub root: Sha256Digest,
    /// When it was signed, by the signer's clock, in milliseconds since 1970.
    pub at_unix_ms: u64,
}

/// A statement that a log removed its oldest records by its own limit of disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Names the log.
    pub origin: String,
    /// The first record that was kept; those before it, from 0 on, were removed.
    pub first: u64,
    /// The root of the tree of the removed records.
    pub root: Sha256Digest,
    /// When it was signed, by the signer's clock, in milliseconds since 1970.
    pub at_unix_ms: u64,
}

/// How many records, of at most [`MAX_RECORDS`].
fn count(text: &str) -> Option<u64> {
    decimal(text).filter(|count| *count <= MAX_RECORDS)
}

/// A number as it is written: without sign, zeroes before it, or spaces.
fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// The lines of a text that has exactly `N`, each ended.
fn lines<const N: usize>(text: &str) -> Option<[&str; N]> {
    let lines: Vec<&str> = text.strip_suffix('\n')?.split('\n').collect();
    lines.try_into().ok()
}

fn digest(text: &str) -> Option<Sha256Digest> {
    let bytes: [u8; 32] = STANDARD.decode(text).ok()?.try_into().ok()?;
    Some(Sha256Digest::from_bytes(bytes))
}

fn time(line: &str) -> Option<u64> {
    decimal(line.strip_prefix("time ")?)
}

impl TreeHead {
    fn text(&self) -> String {
        let root = STANDARD.encode(self.root.as_bytes());
        format!("{}\n{}\n{root}\ntime {}\n", self.origin, self.size, self.at_unix_ms)
    }

    fn parse(text: &str) -> Option<Self> {
        let [origin, size, root, at] = lines(text)?;
        is_origin(origin).then_some(())?;
        Some(Self {
            origin: origin.to_owned(),
            size: count(size)?,
            root: digest(root)?,
            at_unix_ms: time(at)?,
        })
    }

    /// Signs it.
    ///
    /// # Errors
    /// The source of randomness failed.
    pub fn sign(&self, key: &SigningKey, rng: &dyn SecureRandom) -> Result<String, KeyError> {
        note::sign(&self.text(), &self.origin, key, rng)
    }

    /// Reads a head that a key signed.
    ///
    /// # Errors
    /// [`NoteError`].
    pub fn open(note: &[u8], key: &PublicKey) -> Result<Self, NoteError> {
        Self::parse(note::open(note, key)?).ok_or(NoteError::Form("it is no head of a tree"))
    }
}

/// The second line of a [`Removal`]. It is no number, so that no statement is ever read as a head.
const REMOVED: &str = "removed";

impl Removal {
    fn text(&self) -> String {
        let root = STANDARD.encode(self.root.as_bytes());
        format!(
            "{}\n{REMOVED}\n{}\n{root}\ntime {}\n",
            self.origin, self.first, self.at_unix_ms
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let [origin, removed, first, root, at] = lines(text)?;
        (is_origin(origin) && removed == REMOVED).then_some(())?;
        Some(Self {
            origin: origin.to_owned(),
            first: count(first)?,
            root: digest(root)?,
            at_unix_ms: time(at)?,
        })
    }

    /// Signs it.
    ///
    /// # Errors
    /// The source of randomness failed.
    pub fn sign(&self, key: &SigningKey, rng: &dyn SecureRandom) -> Result<String, KeyError> {
        note::sign(&self.text(), &self.origin, key, rng)
    }

    /// Reads a statement that a key signed.
    ///
    /// # Errors
    /// [`NoteError`].
    pub fn open(note: &[u8], key: &PublicKey) -> Result<Self, NoteError> {
        Self::parse(note::open(note, key)?).ok_or(NoteError::Form("it is no statement of a removal"))
    }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;

    use super::*;

    #[test]
    fn heads_and_removals_read_back_and_are_never_each_other() {
        let rng = SystemRandom::new();
        let key = SigningKey::generate(&rng).unwrap();
        let (origin, root) = ("fleet.example/log".to_owned(), Sha256Digest::of(b"root"));
        let head = TreeHead {
            origin: origin.clone(),
            size: 7,
            root,
            at_unix_ms: 1_795_366_724_123,
        };
        let removal = Removal {
            origin,
            first: 7,
            root,
            at_unix_ms: 0,
        };
        let (signed_head, signed_removal) = (head.sign(&key, &rng).unwrap(), removal.sign(&key, &rng).unwrap());
        assert_eq!(TreeHead::open(signed_head.as_bytes(), key.public()), Ok(head));
        assert_eq!(Removal::open(signed_removal.as_bytes(), key.public()), Ok(removal));
        assert!(Removal::open(signed_head.as_bytes(), key.public()).is_err());
        assert!(TreeHead::open(signed_removal.as_bytes(), key.public()).is_err());
    }

    #[test]
    fn a_signed_text_of_another_form_is_no_head() {
        let root = STANDARD.encode([7; 32]);
        for text in [
            format!("o\n07\n{root}\ntime 1\n"),
            format!("o\n+7\n{root}\ntime 1\n"),
            format!("o\n{}\n{root}\ntime 1\n", MAX_RECORDS + 1),
            format!("o\n7\n{root}\n"),
            format!("o\n7\n{root}\ntime 1\nmore\n"),
            format!("o\n7\n{}\ntime 1\n", STANDARD.encode([7; 31])),
            format!("o\n7\n{root}\ntime -1\n"),
            format!("o o\n7\n{root}\ntime 1\n"),
        ] {
            assert_eq!(TreeHead::parse(&text), None, "{text}");
        }
        for size in [7, MAX_RECORDS] {
            assert!(TreeHead::parse(&format!("o\n{size}\n{root}\ntime 1\n")).is_some());
        }
    }
}
