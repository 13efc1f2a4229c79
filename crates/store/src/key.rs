//! Keys and prefixes: paths like `/v1/acme/devices/42`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits::KEY_BYTES_MAX;

/// Why a text is not a [`Key`] or a [`Prefix`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Keys and prefixes are absolute paths.
    #[error("{text:?} does not start with `/`")]
    NotAbsolute {
        /// The refused text.
        text: String,
    },
    /// `//` and the empty key name nothing; a key that ends in `/` is a prefix.
    #[error("{text:?} has an empty segment")]
    EmptySegment {
        /// The refused text.
        text: String,
    },
    /// A prefix ends in `/`, so that `/v1/acme/` never selects `/v1/acme-2/…`.
    #[error("the prefix {text:?} does not end in `/`")]
    PrefixNotClosed {
        /// The refused text.
        text: String,
    },
    /// Keys appear in logs and on terminals.
    #[error("{text:?} has a control character at byte {at}")]
    ControlCharacter {
        /// The refused text.
        text: String,
        /// Byte offset of the character.
        at: usize,
    },
    /// Longer than [`KEY_BYTES_MAX`].
    #[error("a key of {bytes} bytes is longer than {KEY_BYTES_MAX}")]
    TooLong {
        /// Length of the refused text in bytes.
        bytes: usize,
    },
}

/// The name of one value: an absolute path of non-empty segments, at most [`KEY_BYTES_MAX`] bytes, ordered by bytes.
///
/// Cloning shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// What a listing or a watch selects: every key below one path. Starts and ends in `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Arc<str>);

fn check_path(text: &str, segments: &str) -> Result<(), KeyError> {
    if text.len() > KEY_BYTES_MAX {
        return Err(KeyError::TooLong { bytes: text.len() });
    }
    if let Some((at, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
        return Err(KeyError::ControlCharacter {
            text: text.to_owned(),
            at,
        });
    }
    if segments.split('/').any(str::is_empty) {
        return Err(KeyError::EmptySegment { text: text.to_owned() });
    }
    Ok(())
}

impl Key {
    /// Checks `text` and makes it a key.
    pub fn new(text: impl AsRef<str>) -> Result<Key, KeyError> {
        let text = text.as_ref();
        let Some(segments) = text.strip_prefix('/') else {
            return Err(KeyError::NotAbsolute {
                text: text.chars().take(KEY_BYTES_MAX).collect(),
            });
        };
        check_path(text, segments)?;
        Ok(Key(text.into()))
    }

    /// The whole path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `prefix` selects this key.
    pub fn is_under(&self, prefix: &Prefix) -> bool {
        self.0.starts_with(&*prefix.0)
    }

    /// The path below `prefix`, or nothing when `prefix` does not select this key.
    pub fn below(&self, prefix: &Prefix) -> Option<&str> {
        self.0.strip_prefix(&*prefix.0)
    }
}

impl Prefix {
    /// Selects every key.
    pub fn root() -> Prefix {
        Prefix("/".into())
    }

    /// Checks `text` and makes it a prefix.
    pub fn new(text: impl AsRef<str>) -> Result<Prefix, KeyError> {
        let text = text.as_ref();
        if text == "/" {
            return Ok(Prefix::root());
        }
        let Some(open) = text.strip_prefix('/') else {
            return Err(KeyError::NotAbsolute {
                text: text.chars().take(KEY_BYTES_MAX).collect(),
            });
        };
        let Some(segments) = open.strip_suffix('/') else {
            return Err(KeyError::PrefixNotClosed {
                text: text.chars().take(KEY_BYTES_MAX).collect(),
            });
        };
        check_path(text, segments)?;
        Ok(Prefix(text.into()))
    }

    /// The key `rest` below this prefix; `rest` may have several segments.
    pub fn key(&self, rest: impl fmt::Display) -> Result<Key, KeyError> {
        Key::new(format!("{}{rest}", self.0))
    }

    /// The prefix of everything below `segment`, which may be several segments.
    pub fn child(&self, segment: impl fmt::Display) -> Result<Prefix, KeyError> {
        Prefix::new(format!("{}{segment}/", self.0))
    }

    /// The whole path, with its closing `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prefix({})", self.0)
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Key, KeyError> {
        Key::new(text)
    }
}

impl FromStr for Prefix {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Prefix, KeyError> {
        Prefix::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_closed_absolute_paths() {
        for good in ["/a", "/v1/acme/devices/42", "/v1/größe", "/a b"] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
        }
        let long = format!("/{}", "x".repeat(KEY_BYTES_MAX - 1));
        assert!(Key::new(&long).is_ok());
        assert_eq!(
            Key::new(format!("{long}x")),
            Err(KeyError::TooLong {
                bytes: KEY_BYTES_MAX + 1
            })
        );
        for (bad, why) in [
            ("", "does not start"),
            ("a", "does not start"),
            ("/", "empty segment"),
            ("/a/", "empty segment"),
            ("/a//b", "empty segment"),
            ("/a\nb", "control character at byte 2"),
            ("/\0", "control character at byte 1"),
        ] {
            let error = Key::new(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad:?}: {error}");
        }
    }

    #[test]
    fn a_prefix_never_selects_a_neighbour_with_a_longer_name() {
        let acme = Prefix::new("/v1/acme/").unwrap();
        assert!(acme.key("devices/1").unwrap().is_under(&acme));
        assert!(!Key::new("/v1/acme-2/devices/1").unwrap().is_under(&acme));
        assert!(!Key::new("/v1/acme").unwrap().is_under(&acme));
        assert_eq!(acme.key("devices/1").unwrap().below(&acme), Some("devices/1"));
        assert_eq!(acme.child("devices").unwrap().as_str(), "/v1/acme/devices/");
        for bad in ["", "v1/", "/v1", "//", "/v1//"] {
            assert!(Prefix::new(bad).is_err(), "{bad:?}");
        }
        assert!(Key::new("/a").unwrap().is_under(&Prefix::new("/").unwrap()));
    }
}
