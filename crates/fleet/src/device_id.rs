//! The identity of a device.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Identity of an enrolled device: 16 bytes, written as a UUID in lower case (`8-4-4-4-12` hexadecimal digits).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId([u8; 16]);

/// Why a text is no device id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceIdError {
    /// The text has not 36 bytes.
    #[error("a device id has 36 characters (8-4-4-4-12), this text has {bytes} bytes")]
    Length {
        /// Length of the text.
        bytes: usize,
    },
    /// A character is neither the hyphen nor the lower-case hexadecimal digit that its place asks for.
    #[error(
        "a device id has lower-case hexadecimal digits and hyphens (8-4-4-4-12); byte {at} is neither in its place"
    )]
    Character {
        /// Byte position.
        at: usize,
    },
    /// The slice has not 16 bytes.
    #[error("a device id has 16 bytes, this slice has {bytes}")]
    Bytes {
        /// Length of the slice.
        bytes: usize,
    },
}

const HYPHENS: [usize; 4] = [8, 13, 18, 23];

impl DeviceId {
    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes of the id.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl TryFrom<&[u8]> for DeviceId {
    type Error = DeviceIdError;
    fn try_from(slice: &[u8]) -> Result<Self, DeviceIdError> {
        slice
            .try_into()
            .map(Self)
            .map_err(|_| DeviceIdError::Bytes { bytes: slice.len() })
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(36);
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            text.push(char::from(crate::digest::DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(crate::digest::DIGITS[usize::from(byte & 15)]));
        }
        f.pad(&text)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceId({self})")
    }
}

impl FromStr for DeviceId {
    type Err = DeviceIdError;
    fn from_str(text: &str) -> Result<Self, DeviceIdError> {
        if text.len() != 36 {
            return Err(DeviceIdError::Length { bytes: text.len() });
        }
        let mut bytes = [0u8; 16];
        let mut digit = 0;
        for (at, byte) in text.bytes().enumerate() {
            if HYPHENS.contains(&at) {
                if byte != b'-' {
                    return Err(DeviceIdError::Character { at });
                }
                continue;
            }
            let value = crate::digest::digit_value(byte).ok_or(DeviceIdError::Character { at })?;
            bytes[digit / 2] |= value << (4 * (1 - digit % 2));
            digit += 1;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for DeviceId {
    type Error = DeviceIdError;
    fn try_from(text: String) -> Result<Self, DeviceIdError> {
        text.parse()
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_text_form_is_that_of_rfc_4122() {
        let text = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"; // the example of RFC 4122, section 3
        let id: DeviceId = text.parse().unwrap();
        assert_eq!(id.as_bytes()[..5], [0xf8, 0x1d, 0x4f, 0xae, 0x7d]);
        assert_eq!(id.to_string(), text);
    }

    #[test]
    fn other_texts_are_refused_with_the_place() {
        let cases = [
            ("", DeviceIdError::Length { bytes: 0 }),
            ("f81d4fae7dec11d0a76500a0c91e6bf6", DeviceIdError::Length { bytes: 32 }),
            (
                "F81d4fae-7dec-11d0-a765-00a0c91e6bf6",
                DeviceIdError::Character { at: 0 },
            ),
            (
                "f81d4faeA7dec-11d0-a765-00a0c91e6bf6",
                DeviceIdError::Character { at: 8 },
            ),
            (
                "f81d4fae-7dec-11d0-a765-00a0c91e6bg6",
                DeviceIdError::Character { at: 34 },
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<DeviceId>(), Err(expected), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn text_and_bytes_round_trip(bytes: [u8; 16]) {
            let id = DeviceId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse::<DeviceId>(), Ok(id));
            prop_assert_eq!(serde_json::from_str::<DeviceId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        }

        #[test]
        fn any_text_is_parsed_or_refused_without_a_panic(text in ".{0,40}") {
            let _ = text.parse::<DeviceId>();
        }
    }
}
