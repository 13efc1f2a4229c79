//! SHA-256 digests, and the check of an artifact's bytes while they stream by.

use std::fmt;
use std::str::FromStr;

use ring::digest::{Context, SHA256, digest};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The SHA-256 digest of some bytes. Written as 64 lower-case hexadecimal digits, and read in no other form.
#[derive(Clone, Copy, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Sha256Digest([u8; 32]);

impl Sha256Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_ring(digest(&SHA256, bytes))
    }

    /// A digest that was computed elsewhere.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn from_ring(value: ring::digest::Digest) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(value.as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{self}")
    }
}

/// The text is not 64 lower-case hexadecimal digits.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("a SHA-256 digest is 64 lower-case hexadecimal digits, not {0:?}")]
pub struct DigestError(String);

impl FromStr for Sha256Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let mut bytes = [0; 32];
        let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) if lower => Ok(Self(bytes)),
            _ => Err(DigestError(text.chars().take(80).collect())),
        }
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Why downloaded bytes are not the artifact that was listed.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum ArtifactError {
    /// More bytes arrived than were listed; the rest need not be read.
    #[error("more than the listed {listed} bytes")]
    TooLong {
        /// The listed length, in bytes.
        listed: u64,
    },
    /// The stream ended early. Nothing is wrong with what came, so a download may be resumed.
    #[error("{received} bytes, but {listed} are listed")]
    TooShort {
        /// The listed length, in bytes.
        listed: u64,
        /// What arrived, in bytes.
        received: u64,
    },
    /// The length is right and the content is not.
    #[error("digest {found}, but {listed} is listed")]
    WrongDigest {
        /// The listed digest.
        listed: Sha256Digest,
        /// The digest of what arrived.
        found: Sha256Digest,
    },
}

/// Checks bytes against a listed length and digest as they arrive, in constant memory.
#[derive(Clone)]
pub struct ArtifactVerifier {
    length: u64,
    sha256: Sha256Digest,
    received: u64,
    context: Context,
}

impl ArtifactVerifier {
    /// Expects exactly `length` bytes with the digest `sha256`.
    pub fn new(length: u64, sha256: Sha256Digest) -> Self {
        Self {
            length,
            sha256,
            received: 0,
            context: Context::new(&SHA256),
        }
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// [`ArtifactError::TooLong`] at the first byte beyond the listed length, whatever follows.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), ArtifactError> {
        let received = self.received.saturating_add(bytes.len() as u64);
        if received > self.length {
            return Err(ArtifactError::TooLong { listed: self.length });
        }
        self.received = received;
        self.context.update(bytes);
        Ok(())
    }

    /// Bytes taken so far.
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// The verdict on the whole stream.
    ///
    /// # Errors
    /// [`ArtifactError::TooShort`] or [`ArtifactError::WrongDigest`].
    pub fn finish(self) -> Result<(), ArtifactError> {
        if self.received < self.length {
            return Err(ArtifactError::TooShort {
                listed: self.length,
                received: self.received,
            });
        }
        let found = Sha256Digest::from_ring(self.context.finish());
        if found != self.sha256 {
            return Err(ArtifactError::WrongDigest {
                listed: self.sha256,
                found,
            });
        }
        Ok(())
    }

    /// The verdict on bytes that are already in memory.
    ///
    /// # Errors
    /// Any [`ArtifactError`].
    pub fn check(length: u64, sha256: Sha256Digest, bytes: &[u8]) -> Result<(), ArtifactError> {
        let mut verifier = Self::new(length, sha256);
        verifier.update(bytes)?;
        verifier.finish()
    }
}

impl fmt::Debug for ArtifactVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ArtifactVerifier({} of {} bytes of {})",
            self.received, self.length, self.sha256
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{ArtifactError, ArtifactVerifier, Sha256Digest};

    #[test]
    fn digests_are_read_in_one_form_only() {
        // FIPS 180-4, the digest of the empty message.
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Sha256Digest::of(b"").to_string(), empty);
        assert_eq!(empty.parse(), Ok(Sha256Digest::of(b"")));
        for wrong in [&empty.to_uppercase(), &empty[1..], "", "zz"] {
            assert!(wrong.parse::<Sha256Digest>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn endless_data_is_refused_at_the_first_surplus_byte() {
        let mut verifier = ArtifactVerifier::new(8, Sha256Digest::of(b"12345678"));
        verifier.update(b"12345678").unwrap();
        assert_eq!(verifier.update(b"9"), Err(ArtifactError::TooLong { listed: 8 }));
        assert_eq!(verifier.received(), 8);
        assert_eq!(verifier.finish(), Ok(()));
    }

    #[test]
    fn truncated_and_altered_artifacts_are_told_apart() {
        let sha256 = Sha256Digest::of(b"weights");
        assert_eq!(ArtifactVerifier::check(7, sha256, b"weights"), Ok(()));
        assert_eq!(
            ArtifactVerifier::check(7, sha256, b"weight"),
            Err(ArtifactError::TooShort { listed: 7, received: 6 })
        );
        let found = Sha256Digest::of(b"weightz");
        assert_eq!(
            ArtifactVerifier::check(7, sha256, b"weightz"),
            Err(ArtifactError::WrongDigest { listed: sha256, found })
        );
    }
}
