//! Certificates in PEM (RFC 7468).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::limits::MAX_PEM_BYTES;

/// Characters in a line of base64 (RFC 7468, section 2).
const LINE: usize = 64;

/// Why a PEM text of certificates was refused.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// It is longer than any of ours.
    #[error("the PEM text has {found} bytes, more than the limit of {MAX_PEM_BYTES}")]
    TooLarge {
        /// Its length in bytes.
        found: usize,
    },
    /// Its framing or its base64 is broken.
    #[error("the PEM text is malformed")]
    Malformed(#[source] rustls_pki_types::pem::Error),
    /// It has another number of certificates than expected.
    #[error("the PEM text has {found} certificates, expected {expected}")]
    Count {
        /// How many it has.
        found: usize,
        /// How many it should have.
        expected: &'static str,
    },
}

/// The certificates of a PEM text, at least one, in order.
pub(crate) fn parse(text: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    if text.len() > MAX_PEM_BYTES {
        return Err(PemError::TooLarge { found: text.len() });
    }
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(PemError::Malformed)?;
    if certificates.is_empty() {
        return Err(PemError::Count {
            found: 0,
            expected: "at least 1",
        });
    }
    Ok(certificates)
}

/// The only certificate of a PEM text.
pub(crate) fn one_certificate(text: &str) -> Result<CertificateDer<'static>, PemError> {
    let mut certificates = parse(text)?;
    let found = certificates.len();
    certificates.pop().filter(|_| found == 1).ok_or(PemError::Count {
        found,
        expected: "exactly 1",
    })
}

/// Certificates as PEM text, in order.
pub(crate) fn certificates(certificates: &[CertificateDer<'_>]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        let encoded = STANDARD.encode(certificate);
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, tail) = rest.split_at(rest.len().min(LINE));
            text.push_str(line);
            text.push('\n');
            rest = tail;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}
