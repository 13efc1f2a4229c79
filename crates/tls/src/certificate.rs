//! What a certificate says, read once and checked into a type.

use std::fmt;

use fieldfare_fleet::{Digest, Timestamp};
use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::limits::MAX_CERTIFICATE_BYTES;
use crate::principal::{Principal, PrincipalError, TrustDomain};
use crate::time::unix_seconds;

/// SHA-256 of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let mut array = [0; 32];
    array.copy_from_slice(digest.as_ref());
    Digest::from_bytes(array)
}

pub(crate) fn is_p256(key: &SubjectPublicKeyInfo<'_>) -> bool {
    let curve = key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256)
}

/// Serial number of a certificate: 16 bytes, of which 126 bits are random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SerialNumber([u8; 16]);

impl SerialNumber {
    /// A serial number from 16 random bytes. The two highest bits become `01`, so that the number is positive and
    /// always encoded in 16 bytes (RFC 5280, section 4.1.2.2).
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[0] = (bytes[0] & 0x3f) | 0x40;
        Self(bytes)
    }

    /// The bytes, most significant first.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The serial number with these bytes, if an authority of ours could have given it.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 16] = bytes.try_into().ok()?;
        (Self::from_random(bytes).0 == bytes).then_some(Self(bytes))
    }
}

impl fmt::Display for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SerialNumber({self})")
    }
}

/// The span of time a certificate is good for, both ends included, in whole seconds as X.509 has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidityWindow {
    not_before: Timestamp,
    not_after: Timestamp,
}

/// The end of a validity window is not after its start, or lies beyond what X.509 can write (the year 9999).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a certificate cannot be valid from {not_before} to {not_after}")]
pub struct ImpossibleWindow {
    /// The start that was asked for.
    pub not_before: Timestamp,
    /// The end that was asked for.
    pub not_after: Timestamp,
}

/// The last second of the year 9999, the latest that X.509 can write.
const LAST_SECOND: u64 = 253_402_300_799;

impl ValidityWindow {
    /// A window; both ends are rounded down to whole seconds.
    ///
    /// # Errors
    /// When the end is not after the start, or lies beyond the year 9999.
    pub fn new(not_before: Timestamp, not_after: Timestamp) -> Result<Self, ImpossibleWindow> {
        let (start, end) = (unix_seconds(not_before), unix_seconds(not_after));
        if end <= start || end > LAST_SECOND {
            return Err(ImpossibleWindow { not_before, not_after });
        }
        let whole = |seconds| Timestamp::from_unix_ms(seconds * 1000);
        Ok(Self {
            not_before: whole(start),
            not_after: whole(end),
        })
    }

    /// First second of validity.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// Last second of validity.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Whether the window lies in the future at `now`.
    pub fn is_ahead(&self, now: Timestamp) -> bool {
        now < self.not_before
    }

    /// Whether the window is over at `now`. The whole last second still belongs to it.
    pub fn is_over(&self, now: Timestamp) -> bool {
        unix_seconds(now) > unix_seconds(self.not_after)
    }

    /// The middle of the window, from which on the certificate should be renewed.
    pub fn half_life(&self) -> Timestamp {
        self.not_before
            .saturating_add(self.not_after.since(self.not_before) / 2)
    }
}

/// The leaf certificate of one of our principals, read and found to be of our form. Its signature is not judged here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafCertificate {
    /// Whom it speaks for.
    pub principal: Principal,
    /// Its serial number.
    pub serial: SerialNumber,
    /// SHA-256 of the certificate in DER.
    pub digest: Digest,
    /// SHA-256 of its SubjectPublicKeyInfo in DER.
    pub key_digest: Digest,
    /// When it is valid.
    pub validity: ValidityWindow,
}

/// Why a certificate is not of the form that a Fieldfare authority gives out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It is longer than any of ours.
    #[error("the certificate has {found} bytes, more than the limit of {MAX_CERTIFICATE_BYTES}")]
    TooLarge {
        /// Its length in bytes.
        found: usize,
    },
    /// It is not one X.509 certificate in DER.
    #[error("the bytes are not one X.509 certificate in DER")]
    Malformed,
    /// Its key is RSA, P-384, Ed25519 or something else.
    #[error("the certificate's key is not an ECDSA key on the curve P-256")]
    NotP256,
    /// Its serial number is not one of ours.
    #[error("the certificate's serial number is not one that a Fieldfare authority gives")]
    Serial,
    /// It has none or several URI names.
    #[error("the certificate has {found} URI names where exactly one SPIFFE id is expected")]
    UriNames {
        /// How many.
        found: usize,
    },
    /// Its URI name is none of our SPIFFE ids.
    #[error("the certificate's URI name is not a principal's")]
    Principal(#[source] PrincipalError),
    /// Its validity is impossible.
    #[error("the certificate's validity is impossible")]
    Window(#[source] ImpossibleWindow),
    /// It is an authority where a leaf is expected, or a leaf where an authority is expected.
    #[error("the certificate's basic constraints are not those of {expected}")]
    Constraints {
        /// What was expected.
        expected: &'static str,
    },
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    if der.len() > MAX_CERTIFICATE_BYTES {
        return Err(CertificateError::TooLarge { found: der.len() });
    }
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
    if !rest.is_empty() {
        return Err(CertificateError::Malformed);
    }
    if !is_p256(certificate.public_key()) {
        return Err(CertificateError::NotP256);
    }
    Ok(certificate)
}

fn only_uri<'a>(certificate: &X509Certificate<'a>) -> Result<&'a str, CertificateError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| CertificateError::Malformed)?;
    let names = names.map(|n| n.value.general_names.as_slice()).unwrap_or_default();
    let uris: Vec<&'a str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris.as_slice() {
        [uri] => Ok(uri),
        _ => Err(CertificateError::UriNames { found: uris.len() }),
    }
}

fn is_authority(certificate: &X509Certificate<'_>) -> Result<bool, CertificateError> {
    let constraints = certificate
        .basic_constraints()
        .map_err(|_| CertificateError::Malformed)?;
    Ok(constraints.is_some_and(|c| c.value.ca))
}

fn window(certificate: &X509Certificate<'_>) -> Result<ValidityWindow, CertificateError> {
    let validity = certificate.validity();
    // A date before 1970 becomes 1970: no clock of ours shows an earlier time.
    let at = |seconds: i64| Timestamp::from_unix_ms(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
    ValidityWindow::new(at(validity.not_before.timestamp()), at(validity.not_after.timestamp()))
        .map_err(CertificateError::Window)
}

impl LeafCertificate {
    /// Reads a leaf certificate in DER.
    ///
    /// # Errors
    /// When it is not of the form that a Fieldfare authority gives out.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let certificate = parse(der)?;
        if is_authority(&certificate)? {
            return Err(CertificateError::Constraints { expected: "a leaf" });
        }
        let principal = only_uri(&certificate)?.parse().map_err(CertificateError::Principal)?;
        Ok(Self {
            principal,
            serial: SerialNumber::from_bytes(certificate.raw_serial()).ok_or(CertificateError::Serial)?,
            digest: sha256(der),
            key_digest: sha256(certificate.public_key().raw),
            validity: window(&certificate)?,
        })
    }
}

/// The certificate of an authority: what peers' certificates are checked against.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthorityCertificate {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    domain: TrustDomain,
    digest: Digest,
    key_digest: Digest,
    validity: ValidityWindow,
}

impl AuthorityCertificate {
    /// Reads an authority's certificate in DER.
    ///
    /// # Errors
    /// When it is not of the form that [`crate::CertificateAuthority::create`] makes.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let certificate = parse(der)?;
        if !is_authority(&certificate)? {
            return Err(CertificateError::Constraints {
                expected: "an authority",
            });
        }
        let domain = TrustDomain::from_uri(only_uri(&certificate)?).map_err(CertificateError::Principal)?;
        let owned = CertificateDer::from(der.to_vec());
        let anchor = webpki::anchor_from_trusted_cert(&owned)
            .map_err(|_| CertificateError::Malformed)?
            .to_owned();
        let validity = window(&certificate)?;
        let key_digest = sha256(certificate.public_key().raw);
        Ok(Self {
            anchor,
            domain,
            digest: sha256(der),
            key_digest,
            validity,
            der: owned,
        })
    }

    /// The certificate in DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The trust domain it vouches for.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// SHA-256 of the certificate in DER: the pin that join tokens carry.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// SHA-256 of its SubjectPublicKeyInfo in DER.
    pub fn key_digest(&self) -> Digest {
        self.key_digest
    }

    /// When it is valid.
    pub fn validity(&self) -> ValidityWindow {
        self.validity
    }

    pub(crate) fn anchor(&self) -> &TrustAnchor<'static> {
        &self.anchor
    }
}

impl fmt::Debug for AuthorityCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityCertificate")
            .field("domain", &self.domain)
            .field("digest", &self.digest)
            .finish()
    }
}
