//! The SHA-256 digest that names content.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub(crate) const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Value of one lower-case hexadecimal digit.
pub(crate) fn digit_value(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

/// A SHA-256 digest: 32 bytes, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// Why a text or a slice is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The text has not 64 bytes.
    #[error("a SHA-256 digest has 64 hexadecimal digits, this text has {bytes} bytes")]
    Length {
        /// Length of the text.
        bytes: usize,
    },
    /// A character is no lower-case hexadecimal digit.
    #[error("a SHA-256 digest has lower-case hexadecimal digits only; byte {at} is none")]
    Character {
        /// Byte position.
        at: usize,
    },
    /// The slice has not 32 bytes.
    #[error("a SHA-256 digest has 32 bytes, this slice has {bytes}")]
    Bytes {
        /// Length of the slice.
        bytes: usize,
    },
}

impl Digest {
    /// The digest with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Digest {
    type Error = DigestError;
    fn try_from(slice: &[u8]) -> Result<Self, DigestError> {
        slice
            .try_into()
            .map(Self)
            .map_err(|_| DigestError::Bytes { bytes: slice.len() })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self
            .0
            .iter()
            .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
        f.pad(&digits.map(char::from).collect::<String>())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        if text.len() != 64 {
            return Err(DigestError::Length { bytes: text.len() });
        }
        let mut bytes = [0u8; 32];
        for (at, byte) in text.bytes().enumerate() {
            let value = digit_value(byte).ok_or(DigestError::Character { at })?;
            bytes[at / 2] |= value << (4 * (1 - at % 2));
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_digest_in_another_form_is_refused() {
        // SHA-256 of the empty string, FIPS 180-4 example values.
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(empty.parse::<Digest>().unwrap().to_string(), empty);
        assert_eq!(
            empty.to_uppercase().parse::<Digest>(),
            Err(DigestError::Character { at: 0 })
        );
        assert_eq!(empty[..62].parse::<Digest>(), Err(DigestError::Length { bytes: 62 }));
        assert_eq!(Digest::try_from(&[0u8; 31][..]), Err(DigestError::Bytes { bytes: 31 }));
    }

    proptest! {
        #[test]
        fn text_and_bytes_round_trip(bytes: [u8; 32]) {
            let digest = Digest::from_bytes(bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        }
    }
}
