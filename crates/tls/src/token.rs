//! Join tokens: what a newcomer is given to enrol with.

use std::fmt;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::{DecodeError, Engine};
use fieldfare_fleet::Digest;

use crate::certificate::sha256;
use crate::endpoint::{Endpoint, EndpointError};
use crate::limits::{MAX_HOST_BYTES, MAX_TOKEN_ENDPOINTS, MAX_TOKEN_TEXT};

const PREFIX: &str = "ff1_";
const CHECKSUM_BYTES: usize = 4;
/// `https://`, brackets, a colon and five digits around the host.
const MAX_ENDPOINT_BYTES: usize = MAX_HOST_BYTES + 16;
const SECRET_DOMAIN: &[u8] = b"fieldfare join token secret v1\0";

/// What the bearer of a token may become. A hint for the bearer: the controller decides by its own record of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinRole {
    /// A device.
    Device,
    /// A trainer.
    Trainer,
    /// An operator.
    Operator,
}

impl fmt::Display for JoinRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Device => "device",
            Self::Trainer => "trainer",
            Self::Operator => "operator",
        })
    }
}

/// The secret of a token: 32 random bytes. It never shows itself in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinSecret([u8; 32]);

impl JoinSecret {
    /// A secret from 32 bytes of a cryptographic generator.
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret with these bytes, as it arrives on the wire.
    ///
    /// Nothing where there are not exactly 32.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes, to send to the controller.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What the controller stores: SHA-256 over a fixed prefix and the secret. A secret of 256 random bits needs no salt
    /// and no slow function.
    pub fn hash(&self) -> Digest {
        sha256(&[SECRET_DOMAIN, &self.0].concat())
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(..)")
    }
}

/// The first `root.json` of the release repository: with it a controller cannot introduce a root of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootPin {
    /// Version of the root metadata.
    pub version: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
}

/// Everything that a newcomer needs to enrol and to distrust whoever is not the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// Where controllers listen: 1 to 8.
    pub endpoints: Vec<Endpoint>,
    /// SHA-256 of the certificate of the fleet's authority in DER.
    pub authority: Digest,
    /// The release root to start from.
    pub root: RootPin,
    /// The one-time secret.
    pub secret: JoinSecret,
    /// What the bearer is meant to become.
    pub role: JoinRole,
}

/// Why a text is no join token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin as tokens do.
    #[error("a join token begins with `{PREFIX}`; was another text pasted?")]
    Prefix,
    /// It is longer than any token.
    #[error("the join token has {found} characters, more than the limit of {MAX_TOKEN_TEXT}")]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// A character is none of base64url.
    #[error("the join token has a character that is not of base64url; was it wrapped or quoted?")]
    NotBase64,
    /// The checksum does not fit: a character is wrong or missing.
    #[error("the join token is damaged: its checksum does not match; copy it again, whole")]
    Checksum,
    /// It ends inside a field.
    #[error("the join token ends inside its field `{field}`")]
    Truncated {
        /// The field.
        field: &'static str,
    },
    /// The role has a number that this version does not know.
    #[error("the join token is for role number {found}, which this version does not know")]
    UnknownRole {
        /// The number.
        found: u8,
    },
    /// None or too many endpoints.
    #[error("the join token has {found} endpoints, expected 1 to {MAX_TOKEN_ENDPOINTS}")]
    EndpointCount {
        /// How many.
        found: usize,
    },
    /// An endpoint is none.
    #[error("endpoint {index} of the join token")]
    Endpoint {
        /// Its place, from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: EndpointError,
    },
    /// An endpoint is not text.
    #[error("endpoint {index} of the join token is not text")]
    EndpointText {
        /// Its place, from 0.
        index: usize,
    },
    /// Bytes follow the last field.
    #[error("the join token has {found} bytes after its last field")]
    Trailing {
        /// How many.
        found: usize,
    },
}

impl JoinToken {
    /// The token as text: `ff1_` and base64url of the fields and a checksum. A secret.
    ///
    /// # Errors
    /// When there are no endpoints, or more than a token may have.
    pub fn to_text(&self) -> Result<String, TokenError> {
        let count = match u8::try_from(self.endpoints.len()) {
            Ok(count @ 1..) if usize::from(count) <= MAX_TOKEN_ENDPOINTS => count,
            _ => {
                return Err(TokenError::EndpointCount {
                    found: self.endpoints.len(),
                });
            }
        };
        let mut bytes = vec![match self.role {
            JoinRole::Device => 1,
            JoinRole::Trainer => 2,
            JoinRole::Operator => 3,
        }];
        bytes.extend_from_slice(self.authority.as_bytes());
        bytes.extend_from_slice(&self.root.version.to_be_bytes());
        bytes.extend_from_slice(self.root.sha256.as_bytes());
        bytes.extend_from_slice(self.secret.as_bytes());
        bytes.push(count);
        for endpoint in &self.endpoints {
            let text = endpoint.to_string();
            debug_assert!(
                text.len() <= MAX_ENDPOINT_BYTES,
                "a host has at most {MAX_HOST_BYTES} bytes"
            );
            bytes.extend_from_slice(&(text.len() as u16).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        let checksum = sha256(&bytes);
        bytes.extend_from_slice(&checksum.as_bytes()[..CHECKSUM_BYTES]);
        Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Reads a token; white space around it is ignored.
    ///
    /// # Errors
    /// [`TokenError`] says what is wrong with the text. It never quotes the secret.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let encoded = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        if text.len() > MAX_TOKEN_TEXT {
            return Err(TokenError::TooLong { found: text.len() });
        }
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|error| match error {
            DecodeError::InvalidByte(..) | DecodeError::InvalidPadding => TokenError::NotBase64,
            // What a text that was cut off looks like.
            DecodeError::InvalidLength(_) | DecodeError::InvalidLastSymbol(..) => TokenError::Checksum,
        })?;
        let fields = bytes
            .len()
            .checked_sub(CHECKSUM_BYTES)
            .ok_or(TokenError::Truncated { field: "checksum" })?;
        let (fields, checksum) = bytes.split_at(fields);
        if sha256(fields).as_bytes()[..CHECKSUM_BYTES] != *checksum {
            return Err(TokenError::Checksum);
        }
        Reader { rest: fields }.token()
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], TokenError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(TokenError::Truncated { field })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], TokenError> {
        self.take(N, field)?
            .try_into()
            .map_err(|_| TokenError::Truncated { field })
    }

    fn token(mut self) -> Result<JoinToken, TokenError> {
        let role = match self.array("role")? {
            [1] => JoinRole::Device,
            [2] => JoinRole::Trainer,
            [3] => JoinRole::Operator,
            [found] => return Err(TokenError::UnknownRole { found }),
        };
        let authority = Digest::from_bytes(self.array("authority")?);
        let version = u64::from_be_bytes(self.array("root version")?);
        let root = RootPin {
            version,
            sha256: Digest::from_bytes(self.array("root digest")?),
        };
        let secret = JoinSecret(self.array("secret")?);
        let [count] = self.array("endpoint count")?;
        let count = usize::from(count);
        if count == 0 || count > MAX_TOKEN_ENDPOINTS {
            return Err(TokenError::EndpointCount { found: count });
        }
        let endpoints = (0..count).map(|index| self.endpoint(index)).collect::<Result<_, _>>()?;
        if !self.rest.is_empty() {
            return Err(TokenError::Trailing { found: self.rest.len() });
        }
        Ok(JoinToken {
            endpoints,
            authority,
            root,
            secret,
            role,
        })
    }

    fn endpoint(&mut self, index: usize) -> Result<Endpoint, TokenError> {
        let length = u16::from_be_bytes(self.array("endpoint length")?);
        let text = self.take(usize::from(length), "endpoint")?;
        let text = std::str::from_utf8(text).map_err(|_| TokenError::EndpointText { index })?;
        text.parse().map_err(|source| TokenError::Endpoint { index, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token() -> JoinToken {
        JoinToken {
            endpoints: vec![
                "https://controller.example:8443".parse().unwrap(),
                "https://[::1]:8443".parse().unwrap(),
            ],
            authority: Digest::from_bytes([1; 32]),
            root: RootPin {
                version: 3,
                sha256: Digest::from_bytes([2; 32]),
            },
            secret: JoinSecret::from_random([3; 32]),
            role: JoinRole::Device,
        }
    }

    fn encode(fields: &[u8]) -> String {
        let mut bytes = fields.to_vec();
        bytes.extend_from_slice(&sha256(fields).as_bytes()[..CHECKSUM_BYTES]);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    fn fields() -> Vec<u8> {
        let text = token().to_text().unwrap();
        let mut bytes = URL_SAFE_NO_PAD.decode(&text[PREFIX.len()..]).unwrap();
        bytes.truncate(bytes.len() - CHECKSUM_BYTES);
        bytes
    }

    #[test]
    fn a_token_round_trips_with_white_space_around_it() {
        let text = token().to_text().unwrap();
        assert_eq!(JoinToken::parse(&format!("  {text}\n")), Ok(token()));
    }

    #[test]
    fn what_is_wrong_with_a_token_is_said() {
        let good = token().to_text().unwrap();
        let with = |at: usize, byte: u8| {
            let mut bytes = fields();
            bytes[at] = byte;
            encode(&bytes)
        };
        let cases: Vec<(String, TokenError)> = vec![
            (String::new(), TokenError::Prefix),
            (good[1..].to_owned(), TokenError::Prefix),
            (
                format!("ff1_{}", "A".repeat(MAX_TOKEN_TEXT)),
                TokenError::TooLong {
                    found: MAX_TOKEN_TEXT + 4,
                },
            ),
            (format!("{good}="), TokenError::NotBase64),
            ("ff1_AA".to_owned(), TokenError::Truncated { field: "checksum" }),
            (good[..good.len() - 4].to_owned(), TokenError::Checksum),
            (with(0, 9), TokenError::UnknownRole { found: 9 }),
            (with(105, 0), TokenError::EndpointCount { found: 0 }),
            (with(105, 200), TokenError::EndpointCount { found: 200 }),
            (
                with(105, 3),
                TokenError::Truncated {
                    field: "endpoint length",
                },
            ),
            (with(105, 1), TokenError::Trailing { found: 20 }),
            (with(108, 0xff), TokenError::EndpointText { index: 0 }),
            (encode(&fields()[..50]), TokenError::Truncated { field: "root digest" }),
        ];
        for (text, expected) in cases {
            assert_eq!(JoinToken::parse(&text), Err(expected), "{text}");
        }
    }

    #[test]
    fn the_stored_hash_is_that_of_the_prefixed_secret() {
        // Reference: Python 3.11 hashlib.sha256(b"fieldfare join token secret v1\0" + bytes([3]) * 32).hexdigest()
        let expected = "ab4d52e7ac63f0f94f21efebbcc1c90d4c30d12e176658901447ef6a3ae5b5fb";
        assert_eq!(token().secret.hash().to_string(), expected);
    }

    #[test]
    fn the_secret_never_shows_in_debug() {
        assert!(!format!("{:?}", token()).contains("3, 3"));
    }

    proptest! {
        #[test]
        fn any_single_wrong_character_is_noticed(at in 4usize..200, letter in "[A-Za-z0-9_-]") {
            let good = token().to_text().unwrap();
            let at = at.min(good.len() - 1);
            let mut text = good.clone();
            text.replace_range(at..=at, &letter);
            prop_assume!(text != good);
            prop_assert!(JoinToken::parse(&text).is_err());
        }

        #[test]
        fn any_fields_are_parsed_or_refused_without_a_panic(fields in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = JoinToken::parse(&encode(&fields));
        }
    }
}
