//! Keys and signatures: ECDSA on P-256 with SHA-256, which every TUF client speaks.

use std::collections::BTreeMap;
use std::fmt;

use ring::rand::SecureRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Extra, canonical, pem};
use crate::digest::Sha256Digest;

const KEY_TYPE: &str = "ecdsa";
const SCHEME: &str = "ecdsa-sha2-nistp256";
const PUBLIC_LABEL: &str = "PUBLIC KEY";
const PRIVATE_LABEL: &str = "PRIVATE KEY";

/// What precedes the 65 bytes of an uncompressed P-256 point in a SubjectPublicKeyInfo (RFC 5480): two sequences,
/// the object identifiers id-ecPublicKey and secp256r1, and the header of a bit string.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Length of an uncompressed P-256 point, in bytes.
const POINT_BYTES: usize = 65;

/// The name of a key in metadata. Ours are the SHA-256 of the key's canonical form; clients compare it as a text.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(String);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A public key as metadata holds it. Keys of other types than ours may be listed; they verify nothing.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PublicKey {
    /// `ecdsa` for our keys.
    pub keytype: String,
    /// `ecdsa-sha2-nistp256` for our keys.
    pub scheme: String,
    /// The key itself.
    pub keyval: KeyValue,
    /// Fields that this build does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The value of a public key.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct KeyValue {
    /// A PEM of a SubjectPublicKeyInfo for our keys.
    pub public: String,
    /// Fields that this build does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A signature in metadata.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Signature {
    /// The key that made it.
    pub keyid: KeyId,
    /// The DER signature in lower-case hexadecimal.
    pub sig: String,
    /// Fields that this build does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Why a key cannot be made or read.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    /// The source of randomness failed.
    #[error("the source of randomness failed")]
    Randomness,
    /// The text is no public key of ours.
    #[error("expected a PEM \"PUBLIC KEY\" with an uncompressed P-256 point")]
    Public,
    /// The text is no private key of ours.
    #[error("expected a PEM \"PRIVATE KEY\" with a PKCS #8 P-256 key that includes its public key")]
    Private,
}

impl PublicKey {
    /// Reads the PEM of a SubjectPublicKeyInfo, as [`PublicKey::to_pem`] and `openssl pkey -pubout` write it.
    ///
    /// # Errors
    /// [`KeyError::Public`].
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let der = pem::decode(PUBLIC_LABEL, text).ok_or(KeyError::Public)?;
        let point = der.strip_prefix(&SPKI_PREFIX).ok_or(KeyError::Public)?;
        if point.len() != POINT_BYTES || point[0] != 4 {
            return Err(KeyError::Public);
        }
        Ok(Self::from_point(point))
    }

    /// The PEM that the metadata holds.
    pub fn to_pem(&self) -> &str {
        &self.keyval.public
    }

    /// The id under which our metadata lists the key.
    pub fn id(&self) -> KeyId {
        let mut document = json!({
            "keytype": self.keytype, "scheme": self.scheme, "keyval": { "public": self.keyval.public },
        });
        let known = BTreeMap::from([("", &self.extra), ("keyval", &self.keyval.extra)]);
        for (place, extra) in known {
            let object = if place.is_empty() {
                &mut document
            } else {
                &mut document[place]
            };
            for (name, value) in extra {
                object[name] = value.clone();
            }
        }
        KeyId(Sha256Digest::of(&canonical::canonical(&document)).to_string())
    }

    /// Whether the key made this signature of this message.
    pub(super) fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        let lower = !signature.sig.bytes().any(|byte| byte.is_ascii_uppercase());
        hex::decode(&signature.sig).is_ok_and(|der| lower && self.verifies_der(message, &der))
    }

    /// Whether the key made this DER signature of this message, outside of metadata.
    pub fn verifies_der(&self, message: &[u8], der: &[u8]) -> bool {
        self.point().is_some_and(|point| {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
                .verify(message, der)
                .is_ok()
        })
    }

    /// The SubjectPublicKeyInfo in DER; nothing for a key of another type than ours.
    pub fn to_der(&self) -> Option<Vec<u8>> {
        self.point().map(|point| [&SPKI_PREFIX[..], &point].concat())
    }

    /// The point, which is the identity of the key whatever it is called and however its PEM is broken into lines.
    pub(super) fn point(&self) -> Option<Vec<u8>> {
        // `ecdsa-sha2-nistp256` as a key type is what repositories of before 2023 wrote.
        let ours = (self.keytype == KEY_TYPE || self.keytype == SCHEME) && self.scheme == SCHEME;
        let der = pem::decode(PUBLIC_LABEL, &self.keyval.public).filter(|_| ours)?;
        let point = der.strip_prefix(&SPKI_PREFIX)?;
        (point.len() == POINT_BYTES).then(|| point.to_vec())
    }

    fn from_point(point: &[u8]) -> Self {
        let der = [&SPKI_PREFIX, point].concat();
        let keyval = KeyValue {
            public: pem::encode(PUBLIC_LABEL, &der),
            extra: Extra::new(),
        };
        Self {
            keytype: KEY_TYPE.to_owned(),
            scheme: SCHEME.to_owned(),
            keyval,
            extra: Extra::new(),
        }
    }
}

/// A private key with its public part.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    pkcs8: Vec<u8>,
    public: PublicKey,
    id: KeyId,
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// [`KeyError::Randomness`].
    pub fn generate(rng: &dyn SecureRandom) -> Result<Self, KeyError> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, rng);
        Self::from_pkcs8(pkcs8.map_err(|_| KeyError::Randomness)?.as_ref(), rng)
    }

    /// Reads what [`SigningKey::to_pem`] wrote, or `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`.
    ///
    /// # Errors
    /// [`KeyError::Private`].
    pub fn from_pem(text: &str, rng: &dyn SecureRandom) -> Result<Self, KeyError> {
        Self::from_pkcs8(&pem::decode(PRIVATE_LABEL, text).ok_or(KeyError::Private)?, rng)
    }

    /// The private key as a PEM of PKCS #8. Whoever has this text can sign.
    pub fn to_pem(&self) -> String {
        pem::encode(PRIVATE_LABEL, &self.pkcs8)
    }

    /// The public part.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The id under which our metadata lists the public part.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// Signs a message.
    ///
    /// # Errors
    /// [`KeyError::Randomness`].
    pub fn sign(&self, message: &[u8], rng: &dyn SecureRandom) -> Result<Signature, KeyError> {
        Ok(Signature {
            keyid: self.id.clone(),
            sig: hex::encode(self.sign_der(message, rng)?),
            extra: Extra::new(),
        })
    }

    /// Signs a message outside of metadata. The signature is in DER.
    ///
    /// # Errors
    /// [`KeyError::Randomness`].
    pub fn sign_der(&self, message: &[u8], rng: &dyn SecureRandom) -> Result<Vec<u8>, KeyError> {
        let der = self.pair.sign(rng, message).map_err(|_| KeyError::Randomness)?;
        Ok(der.as_ref().to_vec())
    }

    fn from_pkcs8(pkcs8: &[u8], rng: &dyn SecureRandom) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, rng);
        let pair = pair.map_err(|_| KeyError::Private)?;
        let public = PublicKey::from_point(pair.public_key().as_ref());
        let id = public.id();
        Ok(Self {
            pair,
            pkcs8: pkcs8.to_vec(),
            public,
            id,
        })
    }
}

/// Shows the id only.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;

    use super::{KeyError, PublicKey, SigningKey};

    /// Made by OpenSSL 3.0: `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`, then `openssl pkey -pubout`.
    const OPENSSL_PRIVATE: &str = include_str!("testdata/p256.pem");
    const OPENSSL_PUBLIC: &str = include_str!("testdata/p256.pub.pem");
    const OPENSSL_P384: &str = include_str!("testdata/p384.pub.pem");

    #[test]
    fn keys_of_openssl_are_read_and_written_alike() {
        let key = SigningKey::from_pem(OPENSSL_PRIVATE, &SystemRandom::new()).unwrap();
        assert_eq!(key.to_pem(), OPENSSL_PRIVATE);
        assert_eq!(key.public().to_pem(), OPENSSL_PUBLIC);
        assert_eq!(PublicKey::from_pem(OPENSSL_PUBLIC).unwrap(), *key.public());
        assert_eq!(
            PublicKey::from_pem(&OPENSSL_PUBLIC.replace('\n', "\r\n")).unwrap().id(),
            *key.id()
        );
    }

    #[test]
    fn keys_of_another_curve_or_label_are_refused() {
        let rng = SystemRandom::new();
        assert_eq!(PublicKey::from_pem(OPENSSL_P384), Err(KeyError::Public));
        assert_eq!(PublicKey::from_pem(OPENSSL_PRIVATE), Err(KeyError::Public));
        assert_eq!(PublicKey::from_pem(""), Err(KeyError::Public));
        assert_eq!(
            SigningKey::from_pem(OPENSSL_PUBLIC, &rng).unwrap_err(),
            KeyError::Private
        );
    }

    #[test]
    fn a_signature_is_of_one_message_by_one_key() {
        let rng = SystemRandom::new();
        let (key, other) = (SigningKey::generate(&rng).unwrap(), SigningKey::generate(&rng).unwrap());
        let signature = key.sign(b"message", &rng).unwrap();
        assert!(key.public().verifies(b"message", &signature));
        assert!(!key.public().verifies(b"massage", &signature));
        assert!(!other.public().verifies(b"message", &signature));
        let der = key.sign_der(b"message", &rng).unwrap();
        assert!(key.public().verifies_der(b"message", &der) && !other.public().verifies_der(b"message", &der));
        assert_eq!(key.public().to_der().unwrap().len(), 91);
        assert!(!format!("{key:?}").contains(&key.to_pem()[30..40]));
    }
}
