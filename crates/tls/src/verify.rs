//! The verifiers that rustls calls: of clients by servers, and of servers by clients.

use std::sync::Arc;
use std::time::Duration;

use fieldfare_fleet::{Digest, TenantName, Timestamp};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::certificate::{AuthorityCertificate, CertificateError, LeafCertificate, sha256};
use crate::deny::DenyList;
use crate::identity::IdentityHandle;
use crate::limits::MAX_CHAIN_CERTIFICATES;
use crate::peer::Validity;
use crate::principal::{Principal, Role};
use crate::time::TimeSource;
use crate::trust::{PeerRefused, TrustBundle, Usage, prove};

/// Handshakes are signed with P-256 and SHA-256, by either side, and certificates too.
static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[webpki::ring::ECDSA_P256_SHA256],
    mapping: &[(
        SignatureScheme::ECDSA_NISTP256_SHA256,
        &[webpki::ring::ECDSA_P256_SHA256],
    )],
};

/// Which alert the peer gets, and what stands in the error on this side.
fn refuse(refused: PeerRefused) -> Error {
    use rustls::CertificateError as Tls;
    Error::InvalidCertificate(match &refused {
        PeerRefused::NotYetValid { .. } => Tls::NotValidYet,
        PeerRefused::Expired { .. } => Tls::Expired,
        PeerRefused::Denied { .. } => Tls::Revoked,
        PeerRefused::UnknownAuthority { .. } => Tls::UnknownIssuer,
        PeerRefused::Form(CertificateError::Malformed) => Tls::BadEncoding,
        _ => Tls::Other(rustls::OtherError(Arc::new(refused))),
    })
}

fn tls12_is_not_spoken() -> Error {
    Error::General("TLS 1.2 is not spoken here".to_owned())
}

/// How a server judges its clients.
#[derive(Clone, Debug)]
pub(crate) struct ClientPolicy {
    pub(crate) identity: IdentityHandle,
    pub(crate) deny: DenyList,
    pub(crate) grace: Duration,
    pub(crate) time: TimeSource,
    pub(crate) required: bool,
}

impl ClientPolicy {
    /// Judges a client's chain: who it is, and whether it may do more than renew.
    pub(crate) fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<(LeafCertificate, Validity), PeerRefused> {
        let (first, intermediates) = chain
            .split_first()
            .ok_or(PeerRefused::Form(CertificateError::Malformed))?;
        let leaf = LeafCertificate::parse(first).map_err(PeerRefused::Form)?;
        let validity = self.validity(&leaf)?;
        // An expired certificate is proved as of its last second: everything but the time must still hold.
        let at = match validity {
            Validity::Valid => self.time.now(),
            Validity::ExpiredInGrace => leaf.validity.not_after(),
        };
        let identity = self.identity.current();
        prove(
            first,
            &leaf,
            intermediates,
            identity.bundle().authorities(),
            at,
            Usage::Client,
        )?;
        if self.deny.is_denied(&leaf) {
            return Err(PeerRefused::Denied {
                principal: Box::new(leaf.principal),
            });
        }
        Ok((leaf, validity))
    }

    fn validity(&self, leaf: &LeafCertificate) -> Result<Validity, PeerRefused> {
        let (now, window) = (self.time.now(), leaf.validity);
        let principal = || Box::new(leaf.principal.clone());
        if window.is_ahead(now) {
            return Err(PeerRefused::NotYetValid {
                principal: principal(),
                not_before: window.not_before(),
                now,
            });
        }
        if !window.is_over(now) {
            return Ok(Validity::Valid);
        }
        if now > window.not_after().saturating_add(self.grace) {
            return Err(PeerRefused::Expired {
                principal: principal(),
                not_after: window.not_after(),
                now,
            });
        }
        Ok(Validity::ExpiredInGrace)
    }
}

impl ClientCertVerifier for ClientPolicy {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    /// None: every client of ours has one identity at most.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain: Vec<_> = std::iter::once(end_entity).chain(intermediates).cloned().collect();
        self.judge(&chain)
            .map(|_| ClientCertVerified::assertion())
            .map_err(refuse)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_is_not_spoken())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

/// Whom a client expects at the other end, within the trust domain of its own authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpectedServer {
    /// Any controller.
    Controller,
    /// Any trainer of this tenant.
    Trainer(TenantName),
    /// Exactly this principal.
    Exactly(Principal),
}

impl ExpectedServer {
    fn accepts(&self, found: &Principal) -> bool {
        match (self, &found.role) {
            (Self::Controller, Role::Controller(_)) => true,
            (Self::Trainer(expected), Role::Trainer(tenant, _)) => expected == tenant,
            (Self::Exactly(expected), _) => expected == found,
            _ => false,
        }
    }
}

impl std::fmt::Display for ExpectedServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Controller => write!(f, "a controller"),
            Self::Trainer(tenant) => write!(f, "a trainer of {tenant}"),
            Self::Exactly(principal) => write!(f, "{principal}"),
        }
    }
}

/// How a client decides whether a server is genuine. Host names and addresses play no part in it.
#[derive(Clone, Debug)]
pub enum ServerTrust {
    /// By an authority of this bundle, and by who the server is.
    Authorities {
        /// The trusted authorities.
        bundle: TrustBundle,
        /// Whom we want to talk to.
        expected: ExpectedServer,
    },
    /// For enrolment: by the SHA-256 of the authority's certificate in DER. The server must be a controller and present
    /// [leaf, authority].
    PinnedAuthority(Digest),
}

/// A server that was found to be genuine.
#[derive(Clone, Debug)]
pub struct ServerIdentity {
    /// Its certificate.
    pub certificate: LeafCertificate,
    /// The authorities by which it was found genuine: with a pin, the one that was learnt.
    pub bundle: TrustBundle,
}

impl ServerTrust {
    /// Trust by the authorities of an identity.
    pub fn by(identity: &crate::Identity, expected: ExpectedServer) -> Self {
        Self::Authorities {
            bundle: identity.bundle().clone(),
            expected,
        }
    }

    /// Judges a message that a server signed away from any connection (ECDSA P-256 with SHA-256, in DER) and sent with its
    /// chain, leaf first, in DER.
    ///
    /// # Errors
    /// The chain is not genuine at `now`, its principal is not whom we expect, or the signature is not its.
    pub fn judge_signed(
        &self,
        chain_der: &[Vec<u8>],
        message: &[u8],
        signature: &[u8],
        now: Timestamp,
    ) -> Result<ServerIdentity, PeerRefused> {
        if chain_der.len() > MAX_CHAIN_CERTIFICATES {
            let found = chain_der.len();
            return Err(PeerRefused::LongChain { found });
        }
        let chain: Vec<_> = chain_der
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        let signer = self.judge(&chain, now)?;
        let malformed = |_| PeerRefused::Form(CertificateError::Malformed);
        let leaf = chain.first().ok_or(PeerRefused::Form(CertificateError::Malformed))?;
        let certificate = webpki::EndEntityCert::try_from(leaf).map_err(malformed)?;
        let verified = certificate.verify_signature(webpki::ring::ECDSA_P256_SHA256, message, signature);
        verified.map_err(|_| PeerRefused::BadSignature {
            principal: Box::new(signer.certificate.principal.clone()),
        })?;
        Ok(signer)
    }

    /// Judges a server's chain.
    pub(crate) fn judge(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<ServerIdentity, PeerRefused> {
        let (first, rest) = chain
            .split_first()
            .ok_or(PeerRefused::Form(CertificateError::Malformed))?;
        let leaf = LeafCertificate::parse(first).map_err(PeerRefused::Form)?;
        let (bundle, expected) = match self {
            Self::Authorities { bundle, expected } => (bundle.clone(), expected),
            Self::PinnedAuthority(pin) => (learn(*pin, rest)?, &ExpectedServer::Controller),
        };
        // Servers send their authority for those who enrol; it is an anchor here, never a link of the chain.
        let is_anchor = |der: &CertificateDer<'_>| bundle.authorities().iter().any(|a| a.der() == der);
        let links: Vec<_> = rest.iter().filter(|der| !is_anchor(der)).cloned().collect();
        prove(first, &leaf, &links, bundle.authorities(), now, Usage::Server)?;
        if !expected.accepts(&leaf.principal) {
            let expected = expected.to_string();
            return Err(PeerRefused::WrongRole {
                found: Box::new(leaf.principal),
                expected,
            });
        }
        Ok(ServerIdentity {
            certificate: leaf,
            bundle,
        })
    }
}

fn learn(pin: Digest, presented: &[CertificateDer<'_>]) -> Result<TrustBundle, PeerRefused> {
    let authority = presented
        .iter()
        .find(|der| sha256(der) == pin)
        .ok_or(PeerRefused::WrongPin { pin })?;
    let authority = AuthorityCertificate::parse(authority).map_err(PeerRefused::Form)?;
    TrustBundle::new(vec![authority]).map_err(|_| PeerRefused::WrongPin { pin })
}

/// [`ServerTrust`] with its clock, as rustls calls it.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    pub(crate) trust: ServerTrust,
    pub(crate) time: TimeSource,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain: Vec<_> = std::iter::once(end_entity).chain(intermediates).cloned().collect();
        self.trust
            .judge(&chain, self.time.now())
            .map(|_| ServerCertVerified::assertion())
            .map_err(|refused| {
                // The reason stays whole: it is this side that reports it.
                Error::InvalidCertificate(rustls::CertificateError::Other(rustls::OtherError(Arc::new(refused))))
            })
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_is_not_spoken())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}
