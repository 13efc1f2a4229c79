//! Names: DNS-1123 labels, one type for each kind of thing that has one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::MAX_NAME_BYTES;

/// Why a text is no name. The rule is that of a DNS-1123 label: 1 to 63 of `a-z`, `0-9` and `-`, beginning and ending
/// with a letter or a digit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("a name has at least one character")]
    Empty,
    /// The text has more than 63 bytes.
    #[error("a name has at most {MAX_NAME_BYTES} bytes, this one has {bytes}")]
    TooLong {
        /// Length of the text.
        bytes: usize,
    },
    /// A character is not a lower-case letter, a digit or a hyphen.
    #[error("a name consists of a-z, 0-9 and '-'; {character:?} at byte {at} is none of them")]
    Character {
        /// The first character that is refused.
        character: char,
        /// Its byte position.
        at: usize,
    },
    /// The text begins or ends with a hyphen.
    #[error("a name begins and ends with a letter or a digit, {name:?} does not")]
    Edge {
        /// The whole text.
        name: String,
    },
}

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong { bytes: text.len() });
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if let Some((at, character)) = text.char_indices().find(|(_, c)| !allowed(*c)) {
        return Err(NameError::Character { character, at });
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err(NameError::Edge { name: text.to_owned() });
    }
    Ok(())
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// A DNS-1123 label: 1 to 63 of `a-z`, `0-9` and `-`, beginning and ending with a letter or a digit.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses a name.
            ///
            /// # Errors
            /// [`NameError`] names the rule that the text breaks.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                check(&text)?;
                Ok(Self(text))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    )*};
}

names! {
    /// Name of a tenant.
    TenantName;
    /// Name of a model, that is, of a line of releases.
    ModelName;
    /// Name of a deployment.
    DeploymentName;
    /// Name of a federated job.
    JobName;
    /// Name of a variant within its release.
    VariantName;
    /// Name of a trainer.
    TrainerName;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_name_is_told_the_rule_it_breaks() {
        let long = "a".repeat(64);
        let cases: &[(&str, Option<NameError>)] = &[
            ("soil-alerts", None),
            ("q4-0", None),
            ("7b", None),
            ("a", None),
            (&long[..63], None),
            ("", Some(NameError::Empty)),
            (&long, Some(NameError::TooLong { bytes: 64 })),
            ("Soil", Some(NameError::Character { character: 'S', at: 0 })),
            ("q4_0", Some(NameError::Character { character: '_', at: 2 })),
            ("a.b", Some(NameError::Character { character: '.', at: 1 })),
            ("../etc", Some(NameError::Character { character: '.', at: 0 })),
            (
                "caf\u{e9}",
                Some(NameError::Character {
                    character: '\u{e9}',
                    at: 3,
                }),
            ),
            ("-a", Some(NameError::Edge { name: "-a".into() })),
            ("a-", Some(NameError::Edge { name: "a-".into() })),
        ];
        for (text, expected) in cases {
            assert_eq!(ModelName::new(*text).err(), *expected, "{text:?}");
        }
    }

    #[test]
    fn deserialising_checks_the_rule_too() {
        assert!(serde_json::from_str::<JobName>("\"ok\"").is_ok());
        let error = serde_json::from_str::<JobName>("\"a/b\"").unwrap_err().to_string();
        assert!(error.contains("'/'"), "{error}");
    }
}
