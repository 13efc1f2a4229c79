//! Which authorities are trusted, and what a chain of certificates proves.

use fieldfare_fleet::Timestamp;
use rustls_pki_types::CertificateDer;
use webpki::{EndEntityCert, KeyUsage};

use crate::certificate::{AuthorityCertificate, CertificateError, LeafCertificate};
use crate::limits::{MAX_AUTHORITIES, MAX_CHAIN_CERTIFICATES};
use crate::principal::{Principal, TrustDomain};
use crate::time::unix_time;

/// The authorities of one trust domain that are trusted at the moment: one, or several during a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    authorities: Vec<AuthorityCertificate>,
}

/// Why authorities make no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// None, or too many.
    #[error("{found} authorities, expected 1 to {MAX_AUTHORITIES}")]
    Count {
        /// How many.
        found: usize,
    },
    /// They vouch for different trust domains.
    #[error("authorities of {first} and of {other} in one bundle")]
    MixedDomains {
        /// The domain of the first one.
        first: TrustDomain,
        /// Another domain.
        other: TrustDomain,
    },
    /// One of them is not of our form.
    #[error("authority {index} of the bundle")]
    Authority {
        /// Its place, from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: CertificateError,
    },
}

impl TrustBundle {
    /// A bundle of authorities of one domain.
    ///
    /// # Errors
    /// When there are none, too many, or of different domains.
    pub fn new(authorities: Vec<AuthorityCertificate>) -> Result<Self, BundleError> {
        let first = match authorities.first() {
            Some(first) if authorities.len() <= MAX_AUTHORITIES => first.domain(),
            _ => {
                return Err(BundleError::Count {
                    found: authorities.len(),
                });
            }
        };
        if let Some(other) = authorities.iter().find(|a| a.domain() != first) {
            return Err(BundleError::MixedDomains {
                first: first.clone(),
                other: other.domain().clone(),
            });
        }
        Ok(Self { authorities })
    }

    /// A bundle from certificates in DER, as an enrolment hands them over.
    ///
    /// # Errors
    /// As [`Self::new`], and when one of them is not of our form.
    pub fn from_der<D: AsRef<[u8]>>(authorities: impl IntoIterator<Item = D>) -> Result<Self, BundleError> {
        let parse = |(index, der): (usize, D)| {
            AuthorityCertificate::parse(der.as_ref()).map_err(|source| BundleError::Authority { index, source })
        };
        Self::new(
            authorities
                .into_iter()
                .enumerate()
                .map(parse)
                .collect::<Result<_, _>>()?,
        )
    }

    /// The domain that these authorities vouch for.
    pub fn domain(&self) -> &TrustDomain {
        self.authorities[0].domain()
    }

    /// The authorities, at least one.
    pub fn authorities(&self) -> &[AuthorityCertificate] {
        &self.authorities
    }
}

/// What a peer's certificate must be usable for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    Client,
    Server,
}

/// Why a peer's certificate was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefused {
    /// More certificates than any of our chains has.
    #[error("the peer presented {found} certificates, more than the limit of {MAX_CHAIN_CERTIFICATES}")]
    LongChain {
        /// How many.
        found: usize,
    },
    /// The certificate is not of our form.
    #[error("the peer's certificate is not of the expected form: {0}")]
    Form(CertificateError),
    /// The certificate does not lead to a trusted authority.
    #[error("the certificate of {principal} is not signed by a trusted authority")]
    UnknownAuthority {
        /// Whom it claims to speak for.
        principal: Box<Principal>,
    },
    /// The certificate vouches for somebody outside its authority's domain.
    #[error("the certificate of {principal} is signed by the authority of {signer}")]
    ForeignDomain {
        /// Whom it claims to speak for.
        principal: Box<Principal>,
        /// The domain of the authority.
        signer: TrustDomain,
    },
    /// The certificate begins to be valid later. The clock of one side may be wrong.
    #[error("the certificate of {principal} is valid from {not_before}, and the clock here shows {now}")]
    NotYetValid {
        /// Whom it speaks for.
        principal: Box<Principal>,
        /// First second of validity.
        not_before: Timestamp,
        /// The time here.
        now: Timestamp,
    },
    /// The certificate's validity is over, and so is the time in which it could be renewed.
    #[error("the certificate of {principal} expired at {not_after}, and the clock here shows {now}")]
    Expired {
        /// Whom it speaks for.
        principal: Box<Principal>,
        /// Last second of validity.
        not_after: Timestamp,
        /// The time here.
        now: Timestamp,
    },
    /// The principal, its key or its certificate is on the deny-list.
    #[error("{principal} is denied")]
    Denied {
        /// Who.
        principal: Box<Principal>,
    },
    /// The peer is genuine, but not whom we wanted to talk to.
    #[error("the peer is {found}, expected {expected}")]
    WrongRole {
        /// Who it is.
        found: Box<Principal>,
        /// Whom we expected.
        expected: String,
    },
    /// The server did not present the authority that the join token pins.
    #[error("the server does not present the authority {pin} that the join token names")]
    WrongPin {
        /// The pinned digest.
        pin: fieldfare_fleet::Digest,
    },
    /// A message was not signed with the certificate's key.
    #[error("the signature is not one of {principal}")]
    BadSignature {
        /// Whom it claims to speak for.
        principal: Box<Principal>,
    },
    /// Anything else that the path validation refuses.
    #[error("the certificate of {principal} is not acceptable: {reason}")]
    Path {
        /// Whom it claims to speak for.
        principal: Box<Principal>,
        /// What webpki says.
        reason: String,
    },
}

/// Proves that `leaf` leads to one of `authorities` at the time `at`, for this usage and within its domain.
pub(crate) fn prove(
    der: &CertificateDer<'_>,
    leaf: &LeafCertificate,
    intermediates: &[CertificateDer<'_>],
    authorities: &[AuthorityCertificate],
    at: Timestamp,
    usage: Usage,
) -> Result<(), PeerRefused> {
    let principal = || Box::new(leaf.principal.clone());
    if intermediates.len() >= MAX_CHAIN_CERTIFICATES {
        return Err(PeerRefused::LongChain {
            found: intermediates.len() + 1,
        });
    }
    let anchors: Vec<_> = authorities.iter().map(|a| a.anchor().clone()).collect();
    let certificate = EndEntityCert::try_from(der).map_err(|_| PeerRefused::Form(CertificateError::Malformed))?;
    let usage = match usage {
        Usage::Client => KeyUsage::client_auth(),
        Usage::Server => KeyUsage::server_auth(),
    };
    certificate
        .verify_for_usage(
            &[webpki::ring::ECDSA_P256_SHA256],
            &anchors,
            intermediates,
            unix_time(at),
            usage,
            None,
            None,
        )
        .map_err(|error| match error {
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
                PeerRefused::UnknownAuthority { principal: principal() }
            }
            webpki::Error::CertNotValidYet { .. } => PeerRefused::NotYetValid {
                principal: principal(),
                not_before: leaf.validity.not_before(),
                now: at,
            },
            webpki::Error::CertExpired { .. } => PeerRefused::Expired {
                principal: principal(),
                not_after: leaf.validity.not_after(),
                now: at,
            },
            other => PeerRefused::Path {
                principal: principal(),
                reason: other.to_string(),
            },
        })?;
    match authorities.iter().find(|a| *a.domain() != leaf.principal.domain) {
        Some(foreign) => Err(PeerRefused::ForeignDomain {
            principal: principal(),
            signer: foreign.domain().clone(),
        }),
        None => Ok(()),
    }
}
