//! Labels of a device, and the selectors that match them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_LABEL_PREFIX_BYTES, MAX_LABELS, MAX_NAME_BYTES};

/// Why a text is no label key or value. The rules are those of Kubernetes labels.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// The key breaks the rule of `[prefix/]name`.
    #[error(
        "label key {text:?}: a key is [prefix/]name, the name 1 to {MAX_NAME_BYTES} of A-Z a-z 0-9 '-' '_' '.' \
         with a letter or digit at both ends, the prefix a DNS name"
    )]
    Key {
        /// The refused key.
        text: String,
    },
    /// The value breaks its rule.
    #[error(
        "label value {text:?}: a value is empty or 1 to {MAX_NAME_BYTES} of A-Z a-z 0-9 '-' '_' '.' \
         with a letter or digit at both ends"
    )]
    Value {
        /// The refused value.
        text: String,
    },
    /// There are more labels than a device may have.
    #[error("a device has at most {MAX_LABELS} labels, these are {count}")]
    TooMany {
        /// Number of labels.
        count: usize,
    },
}

fn is_qualified(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= MAX_NAME_BYTES && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| inner(*b))
}

fn is_dns_name(text: &str) -> bool {
    let label = |part: &str| crate::name::ModelName::new(part).is_ok();
    text.len() <= MAX_LABEL_PREFIX_BYTES && text.split('.').all(label)
}

pub(crate) fn check_key(text: &str) -> Result<(), LabelError> {
    let fits = match text.split_once('/') {
        Some((prefix, name)) => is_dns_name(prefix) && is_qualified(name),
        None => is_qualified(text),
    };
    if fits {
        Ok(())
    } else {
        Err(LabelError::Key { text: text.to_owned() })
    }
}

pub(crate) fn check_value(text: &str) -> Result<(), LabelError> {
    if text.is_empty() || is_qualified(text) {
        Ok(())
    } else {
        Err(LabelError::Value { text: text.to_owned() })
    }
}

/// Labels of a device: at most 64 keys, each with one value.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Checks and collects labels; of equal keys the last counts.
    ///
    /// # Errors
    /// [`LabelError`] names the key or value that breaks its rule.
    pub fn new<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Result<Self, LabelError> {
        Self::try_from(
            pairs
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect::<BTreeMap<_, _>>(),
        )
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All labels, ordered by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// Number of labels.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = LabelError;
    fn try_from(map: BTreeMap<String, String>) -> Result<Self, LabelError> {
        if map.len() > MAX_LABELS {
            return Err(LabelError::TooMany { count: map.len() });
        }
        for (key, value) in &map {
            check_key(key)?;
            check_value(value)?;
        }
        Ok(Self(map))
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(k, v)| format!("{k}={v}")).collect();
        f.pad(&parts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_the_rules_of_kubernetes() {
        for key in ["a", "site", "fieldfare.dev/site", "A_b.c-9"] {
            assert_eq!(check_key(key), Ok(()), "{key}");
        }
        for key in ["", "-a", "a-", "a b", "/a", "a/", "UP.dev/a", "a/b/c", "a=b", "a,b"] {
            assert_eq!(check_key(key), Err(LabelError::Key { text: key.into() }), "{key}");
        }
        assert!(check_value("").is_ok());
        assert!(check_value("north field").is_err());
        let many = (0..65).map(|i| (format!("k{i}"), "v"));
        assert_eq!(Labels::new(many), Err(LabelError::TooMany { count: 65 }));
    }
}
