//! Private keys and certificate requests, P-256 only.

use std::fmt;

use fieldfare_fleet::Digest;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData, SubjectPublicKeyInfo};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::certificate::{is_p256, sha256};
use crate::limits::MAX_REQUEST_BYTES;

/// A P-256 private key in PKCS#8. It never shows itself in `Debug`.
pub struct PrivateKey {
    pair: KeyPair,
}

/// Why a private key could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The operating system's generator failed.
    #[error("the system's random generator gave no key")]
    Generate(#[source] rcgen::Error),
    /// The text is not a PKCS#8 PEM private key.
    #[error("the text is not a PEM private key in PKCS#8")]
    Parse(#[source] rcgen::Error),
    /// The key is of another algorithm.
    #[error("the private key is not an ECDSA key on the curve P-256")]
    NotP256,
    /// The request could not be signed.
    #[error("the certificate request could not be signed")]
    Sign(#[source] rcgen::Error),
}

impl PrivateKey {
    /// Makes a key with the operating system's cryptographic generator, which is the only source fit for keys.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(KeyError::Generate)?;
        Ok(Self { pair })
    }

    /// Reads a PKCS#8 PEM.
    ///
    /// # Errors
    /// When the text is not such a PEM, or the key is not P-256.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let pair = KeyPair::from_pem(pem).map_err(KeyError::Parse)?;
        if !pair.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) {
            return Err(KeyError::NotP256);
        }
        Ok(Self { pair })
    }

    /// The key as PKCS#8 PEM: a secret.
    pub fn to_pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// SHA-256 of the public key's SubjectPublicKeyInfo in DER: the key's name everywhere.
    pub fn digest(&self) -> Digest {
        sha256(&self.pair.subject_public_key_info())
    }

    /// A certificate request (PKCS#10 DER) for this key. It names nobody: the authority decides the name.
    ///
    /// # Errors
    /// When signing fails, which needs a broken random generator.
    pub fn certificate_request(&self) -> Result<Vec<u8>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.pair).map_err(KeyError::Sign)?;
        Ok(request.der().to_vec())
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.pair
    }

    pub(crate) fn into_pair(self) -> KeyPair {
        self.pair
    }

    pub(crate) fn der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pair.serialize_der()))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey")
            .field("digest", &self.digest())
            .finish_non_exhaustive()
    }
}

/// A certificate request whose signature proves that the sender holds the key.
///
/// Only the key is kept: whatever names and extensions the request asks for play no part.
#[derive(Debug)]
pub struct CertificateRequest {
    public_key: SubjectPublicKeyInfo,
    digest: Digest,
}

/// Why a certificate request was refused.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The request is longer than any honest one.
    #[error("the certificate request has {found} bytes, more than the limit of {MAX_REQUEST_BYTES}")]
    TooLarge {
        /// Its length in bytes.
        found: usize,
    },
    /// The bytes are not one PKCS#10 request in DER.
    #[error("the bytes are not one PKCS#10 certificate request in DER")]
    Malformed,
    /// The key is RSA, P-384, Ed25519 or something else.
    #[error("the key of the certificate request is not an ECDSA key on the curve P-256")]
    NotP256,
    /// The request is not signed by its own key with ECDSA and SHA-256.
    #[error("the certificate request is not signed by its own key")]
    BadSignature,
}

impl CertificateRequest {
    /// Reads a PKCS#10 request in DER and checks that its own key signed it.
    ///
    /// # Errors
    /// When it is too long, malformed, followed by other bytes, for a key that is not P-256, or not signed by that key.
    pub fn parse(der: &[u8]) -> Result<Self, RequestError> {
        if der.len() > MAX_REQUEST_BYTES {
            return Err(RequestError::TooLarge { found: der.len() });
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| RequestError::Malformed)?;
        if !rest.is_empty() {
            return Err(RequestError::Malformed);
        }
        let key = &request.certification_request_info.subject_pki;
        if !is_p256(key) {
            return Err(RequestError::NotP256);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &key.subject_public_key.data)
            .verify(request.certification_request_info.raw, &request.signature_value.data)
            .map_err(|_| RequestError::BadSignature)?;
        let public_key = SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| RequestError::NotP256)?;
        Ok(Self {
            public_key,
            digest: sha256(key.raw),
        })
    }

    /// SHA-256 of the key's SubjectPublicKeyInfo in DER, to compare with a deny-list or to show for approval.
    pub fn key_digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn public_key(&self) -> &SubjectPublicKeyInfo {
        &self.public_key
    }
}
