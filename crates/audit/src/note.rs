//! Signed notes: a text and who signed it (<https://c2sp.org/signed-note>), with ECDSA on P-256 (signature type 0x02).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fieldfare_release::Sha256Digest;
use fieldfare_release::tuf::{KeyError, PublicKey, SigningKey};
use ring::rand::SecureRandom;

use crate::limits::{MAX_NOTE_BYTES, MAX_ORIGIN_BYTES};

/// What begins a line with a signature: an em dash and a space.
const SIGNATURE: &str = "\u{2014} ";

/// The short name of a key in a note: the first four bytes of the SHA-256 of its SubjectPublicKeyInfo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoteKeyId([u8; 4]);

impl NoteKeyId {
    /// The name of a key.
    pub fn of(key: &PublicKey) -> Self {
        let bytes = *Sha256Digest::of(&key.to_der().unwrap_or_default()).as_bytes();
        Self([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

impl fmt::Display for NoteKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What is wrong with a note.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It is longer than any of ours.
    #[error("it is longer than {MAX_NOTE_BYTES} bytes")]
    TooLong,
    /// It is no signed note, or its text is not what was expected.
    #[error("{0}")]
    Form(&'static str),
    /// It names another log.
    #[error("it is of the log {0}")]
    Origin(String),
    /// It is signed, but not with our key.
    #[error("it is signed with another key, {found}, not with {ours}")]
    OtherKey {
        /// The key that it names.
        found: NoteKeyId,
        /// Ours.
        ours: NoteKeyId,
    },
    /// Our key did not make the signature, or not of this text.
    #[error("its signature is wrong")]
    Signature,
}

/// Whether a text may name a log and its key: not empty, printable, without spaces and plus signs.
pub fn is_origin(text: &str) -> bool {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '+';
    (1..=MAX_ORIGIN_BYTES).contains(&text.len()) && text.chars().all(plain)
}

/// Signs a text that ends in a newline and has no empty line.
///
/// # Errors
/// The source of randomness failed.
pub fn sign(text: &str, name: &str, key: &SigningKey, rng: &dyn SecureRandom) -> Result<String, KeyError> {
    let mut bytes = NoteKeyId::of(key.public()).0.to_vec();
    bytes.extend(key.sign_der(text.as_bytes(), rng)?);
    Ok(format!("{text}\n{SIGNATURE}{name} {}\n", STANDARD.encode(bytes)))
}

/// Checks that a note is signed with a key under a name that is its text's first line, and gives its text. Signatures by
/// others, such as witnesses, are passed over.
///
/// # Errors
/// [`NoteError`]; nothing of the text may be believed then.
pub fn open<'a>(note: &'a [u8], key: &PublicKey) -> Result<&'a str, NoteError> {
    if note.len() > MAX_NOTE_BYTES {
        return Err(NoteError::TooLong);
    }
    let note = str::from_utf8(note).map_err(|_| NoteError::Form("it is no text in UTF-8"))?;
    if note.chars().any(|c| c.is_control() && c != '\n') {
        return Err(NoteError::Form("it has control characters"));
    }
    let split = note.rfind("\n\n").ok_or(NoteError::Form("it has no signature"))?;
    let (text, signatures) = (&note[..=split], &note[split + 2..]);
    let signatures = signatures
        .strip_suffix('\n')
        .ok_or(NoteError::Form("its last line has no end"))?;
    let name = text.lines().next().unwrap_or_default();
    let ours = NoteKeyId::of(key);
    let mut other = None;
    for line in signatures.split('\n') {
        let (signer, id, der) = signature(line).ok_or(NoteError::Form("a signature line is malformed"))?;
        if signer == name && id == ours {
            let valid = key.verifies_der(text.as_bytes(), &der);
            return if valid { Ok(text) } else { Err(NoteError::Signature) };
        }
        if signer == name {
            other = Some(id);
        }
    }
    Err(other.map_or(NoteError::Form("its log did not sign it"), |found| {
        NoteError::OtherKey { found, ours }
    }))
}

fn signature(line: &str) -> Option<(&str, NoteKeyId, Vec<u8>)> {
    let (signer, encoded) = line.strip_prefix(SIGNATURE)?.split_once(' ')?;
    let bytes = STANDARD.decode(encoded).ok()?;
    let (id, der) = bytes.split_first_chunk::<4>()?;
    (is_origin(signer) && !der.is_empty()).then(|| (signer, NoteKeyId(*id), der.to_vec()))
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;

    use super::*;

    const TEXT: &str = "fleet.example/log\n3\nroot\n";

    fn signed() -> (SigningKey, String) {
        let rng = SystemRandom::new();
        let key = SigningKey::generate(&rng).unwrap();
        let note = sign(TEXT, "fleet.example/log", &key, &rng).unwrap();
        (key, note)
    }

    #[test]
    fn a_note_is_of_one_text_by_one_key() {
        let (key, note) = signed();
        assert_eq!(open(note.as_bytes(), key.public()), Ok(TEXT));
        let forged = note.replace("\n3\n", "\n4\n");
        assert_eq!(open(forged.as_bytes(), key.public()), Err(NoteError::Signature));
        let (other, _) = signed();
        let refused = open(note.as_bytes(), other.public());
        assert!(matches!(refused, Err(NoteError::OtherKey { .. })), "{refused:?}");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_note_is_seen() {
        let (key, note) = signed();
        for at in 0..note.len() {
            for bit in 0..8 {
                let mut bytes = note.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                assert!(open(&bytes, key.public()).is_err(), "bit {bit} of byte {at}");
            }
            assert!(open(&note.as_bytes()[..at], key.public()).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_witness_may_sign_beside_the_log() {
        let rng = SystemRandom::new();
        let (key, note) = signed();
        let witness = SigningKey::generate(&rng).unwrap();
        let by_witness = sign(TEXT, "witness.example", &witness, &rng).unwrap();
        let line = by_witness.lines().last().unwrap();
        let both = format!("{note}{line}\n");
        assert_eq!(open(both.as_bytes(), key.public()), Ok(TEXT));
        assert_eq!(
            open(by_witness.as_bytes(), key.public()),
            Err(NoteError::Form("its log did not sign it"))
        );
    }

    #[test]
    fn the_id_of_a_key_is_that_of_its_subject_public_key_info() {
        // `openssl pkey -pubin -in p256.pub.pem -outform DER | sha256sum`, OpenSSL 3.0.
        let pem = include_str!("../../release/src/tuf/testdata/p256.pub.pem");
        assert_eq!(NoteKeyId::of(&PublicKey::from_pem(pem).unwrap()).to_string(), KEY_ID);
    }

    const KEY_ID: &str = "9c001801";

    #[test]
    fn what_would_not_be_one_name_is_no_origin() {
        assert!(is_origin("fleet.example/tenant/farm/device/1"));
        for text in [
            "",
            "a b",
            "a+b",
            "a\nb",
            "a\u{2003}b",
            &"x".repeat(MAX_ORIGIN_BYTES + 1),
        ] {
            assert!(!is_origin(text), "{text:?}");
        }
    }
}
