//! The certificate authority of a fleet: a P-256 key that turns requests into certificates of principals.

use std::fmt;
use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, DnsName};

use crate::certificate::{AuthorityCertificate, CertificateError, SerialNumber, ValidityWindow};
use crate::key::{CertificateRequest, KeyError, PrivateKey};
use crate::limits::MAX_SERVER_NAMES;
use crate::pem;
use crate::principal::{Principal, TrustDomain};

/// A certificate authority with its private key.
pub struct CertificateAuthority {
    certificate: AuthorityCertificate,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Why an authority could not be made or loaded.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The private key.
    #[error("the authority's private key")]
    Key(#[from] KeyError),
    /// The PEM file of the certificate.
    #[error("the authority's certificate file")]
    Pem(#[from] pem::PemError),
    /// The certificate is not of our form.
    #[error("the authority's certificate")]
    Certificate(#[from] CertificateError),
    /// Key and certificate belong to different authorities.
    #[error("the authority's private key is not the key of its certificate")]
    KeyMismatch,
    /// The certificate could not be written or signed.
    #[error("the authority's certificate could not be encoded")]
    Encode(#[source] rcgen::Error),
}

/// Why a certificate was not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The principal belongs to another trust domain.
    #[error("the authority of {ours} cannot vouch for {principal}")]
    ForeignDomain {
        /// The domain of the authority.
        ours: TrustDomain,
        /// Who asked.
        principal: Principal,
    },
    /// The certificate would outlive the authority that signs it.
    #[error("the certificate would be valid from {} to {}, outside the authority's own validity", .window.not_before(), .window.not_after())]
    OutlivesAuthority {
        /// The window that was asked for.
        window: ValidityWindow,
    },
    /// Server names were given for a principal that serves nobody.
    #[error("{principal} is no server and cannot have server names")]
    NotAServer {
        /// For whom.
        principal: Principal,
    },
    /// More server names than any server of ours has.
    #[error("{found} server names, more than the limit of {MAX_SERVER_NAMES}")]
    TooManyNames {
        /// How many.
        found: usize,
    },
    /// The certificate could not be written or signed.
    #[error("the certificate could not be encoded")]
    Encode(#[source] rcgen::Error),
}

impl AuthorityCertificate {
    /// Reads the certificate of an authority in PEM.
    ///
    /// # Errors
    /// Not one certificate, or not of our form.
    pub fn from_pem(text: &str) -> Result<Self, AuthorityError> {
        Ok(Self::parse(&pem::one_certificate(text)?)?)
    }
}

/// A name under which clients that are not ours (browsers, curl) may know a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostName {
    /// A DNS name.
    Dns(DnsName<'static>),
    /// An IP address.
    Ip(IpAddr),
}

/// The text is neither a DNS name nor an IP address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is neither a DNS name nor an IP address")]
pub struct HostNameError {
    /// The text.
    pub text: String,
}

impl std::str::FromStr for HostName {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, HostNameError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let dns = DnsName::try_from(text.to_owned()).map_err(|_| HostNameError { text: text.to_owned() })?;
        Ok(Self::Dns(dns))
    }
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn base(
    name: &str,
    uri: &str,
    window: ValidityWindow,
    serial: SerialNumber,
) -> Result<CertificateParams, rcgen::Error> {
    let at = |at: fieldfare_fleet::Timestamp| {
        let seconds = i64::try_from(at.unix_ms() / 1000).map_err(|_| rcgen::Error::Time)?;
        let time = x509_parser::time::ASN1Time::from_timestamp(seconds).map_err(|_| rcgen::Error::Time)?;
        Ok(time.to_datetime())
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.not_before = at(window.not_before())?;
    params.not_after = at(window.not_after())?;
    params.serial_number = Some(serial.as_bytes().to_vec().into());
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    Ok(params)
}

impl CertificateAuthority {
    /// Makes an authority for a trust domain: a new P-256 key and a certificate signed by itself, which vouches for
    /// leaves only.
    ///
    /// # Errors
    /// When no key can be made or the certificate cannot be encoded.
    pub fn create(domain: &TrustDomain, window: ValidityWindow, serial: SerialNumber) -> Result<Self, AuthorityError> {
        let key = PrivateKey::generate()?;
        // The serial number keeps the subjects of two authorities of one domain apart during a rotation.
        let name = format!("Fieldfare authority {serial}");
        let mut params = base(&name, &domain.uri(), window, serial).map_err(AuthorityError::Encode)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(key.pair()).map_err(AuthorityError::Encode)?;
        Self::assemble(AuthorityCertificate::parse(certificate.der())?, key)
    }

    /// Loads an authority from the PEM of its certificate and of its PKCS#8 key.
    ///
    /// # Errors
    /// When either cannot be read, is not of our form, or they do not belong together.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let der = pem::one_certificate(certificate_pem)?;
        Self::assemble(AuthorityCertificate::parse(&der)?, PrivateKey::from_pem(key_pem)?)
    }

    fn assemble(certificate: AuthorityCertificate, key: PrivateKey) -> Result<Self, AuthorityError> {
        if key.digest() != certificate.key_digest() {
            return Err(AuthorityError::KeyMismatch);
        }
        let key_pem = key.to_pem();
        let issuer = Issuer::from_ca_cert_der(certificate.der(), key.into_pair()).map_err(AuthorityError::Encode)?;
        Ok(Self {
            certificate,
            key_pem,
            issuer,
        })
    }

    /// Its certificate.
    pub fn certificate(&self) -> &AuthorityCertificate {
        &self.certificate
    }

    /// Its certificate as PEM.
    pub fn certificate_pem(&self) -> String {
        pem::certificates(&[self.certificate.der().clone()])
    }

    /// Its private key as PKCS#8 PEM: the fleet's greatest secret beside the targets key.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Issues the certificate of a principal for the key of a request. Controllers and trainers, to whom others connect,
    /// also get the usage of a server.
    ///
    /// # Errors
    /// When the principal is of another trust domain, or the certificate would outlive the authority.
    pub fn issue(
        &self,
        request: &CertificateRequest,
        principal: &Principal,
        window: ValidityWindow,
        serial: SerialNumber,
    ) -> Result<CertificateDer<'static>, IssueError> {
        self.sign(request, principal, &[], window, serial)
    }

    /// Issues the certificate of a controller or a trainer, which also carries the names under which clients that
    /// know nothing of SPIFFE reach it.
    ///
    /// # Errors
    /// As [`Self::issue`], and when the principal serves nobody or has too many names.
    pub fn issue_server(
        &self,
        request: &CertificateRequest,
        principal: &Principal,
        names: &[HostName],
        window: ValidityWindow,
        serial: SerialNumber,
    ) -> Result<CertificateDer<'static>, IssueError> {
        if !principal.serves() {
            return Err(IssueError::NotAServer {
                principal: principal.clone(),
            });
        }
        if names.len() > MAX_SERVER_NAMES {
            return Err(IssueError::TooManyNames { found: names.len() });
        }
        self.sign(request, principal, names, window, serial)
    }

    fn sign(
        &self,
        request: &CertificateRequest,
        principal: &Principal,
        names: &[HostName],
        window: ValidityWindow,
        serial: SerialNumber,
    ) -> Result<CertificateDer<'static>, IssueError> {
        if principal.domain != *self.certificate.domain() {
            let ours = self.certificate.domain().clone();
            return Err(IssueError::ForeignDomain {
                ours,
                principal: principal.clone(),
            });
        }
        let own = self.certificate.validity();
        if window.not_before() < own.not_before() || window.not_after() > own.not_after() {
            return Err(IssueError::OutlivesAuthority { window });
        }
        let params = leaf(principal, names, window, serial).map_err(IssueError::Encode)?;
        let certificate = params
            .signed_by(request.public_key(), &self.issuer)
            .map_err(IssueError::Encode)?;
        Ok(certificate.der().clone())
    }
}

fn leaf(
    principal: &Principal,
    names: &[HostName],
    window: ValidityWindow,
    serial: SerialNumber,
) -> Result<CertificateParams, rcgen::Error> {
    let uri = principal.to_string();
    let own_name = uri.rsplit('/').next().unwrap_or(&uri);
    let mut params = base(own_name, &uri, window, serial)?;
    for name in names {
        params.subject_alt_names.push(match name {
            HostName::Dns(dns) => SanType::DnsName(dns.as_ref().try_into()?),
            HostName::Ip(address) => SanType::IpAddress(*address),
        });
    }
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if principal.serves() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    Ok(params)
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}
