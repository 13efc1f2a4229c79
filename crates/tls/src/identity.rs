//! What a process is in the fleet: its key, its certificate, and whom it trusts.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use fieldfare_fleet::Timestamp;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

use crate::certificate::{CertificateError, LeafCertificate};
use crate::key::{KeyError, PrivateKey};
use crate::limits::MAX_CHAIN_CERTIFICATES;
use crate::principal::Principal;
use crate::trust::{PeerRefused, TrustBundle, Usage, prove};

/// A private key with its certificate chain and the authorities that are trusted.
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

struct Inner {
    key: PrivateKey,
    chain: Vec<CertificateDer<'static>>,
    leaf: LeafCertificate,
    bundle: TrustBundle,
    as_client: Arc<CertifiedKey>,
    as_server: Arc<CertifiedKey>,
}

/// Why a key, a chain and authorities make no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No certificate, or too many.
    #[error("a chain of {found} certificates, expected 1 to {MAX_CHAIN_CERTIFICATES}")]
    ChainLength {
        /// How many.
        found: usize,
    },
    /// The first certificate is not of our form.
    #[error("the identity's certificate")]
    Certificate(#[from] CertificateError),
    /// The private key.
    #[error("the identity's private key")]
    Key(#[from] KeyError),
    /// The certificate is for another key.
    #[error("the certificate of {principal} is for another key")]
    KeyMismatch {
        /// Whom the certificate speaks for.
        principal: Principal,
    },
    /// The certificate does not lead to one of the authorities.
    #[error("the identity's certificate does not lead to the authorities that come with it")]
    Chain(#[from] PeerRefused),
    /// The TLS library cannot sign with the key.
    #[error("the TLS library refuses the private key")]
    Signing(#[source] rustls::Error),
}

impl Identity {
    /// Puts an identity together. `chain` begins with the certificate of `key`; the authorities need not be in it.
    ///
    /// The certificate must lead to one of the authorities of `bundle` in its own validity window; whether that window
    /// contains the present is not asked, since an expired identity can still be renewed.
    ///
    /// # Errors
    /// When the parts do not belong together.
    pub fn new(
        key: PrivateKey,
        chain: Vec<CertificateDer<'static>>,
        bundle: TrustBundle,
    ) -> Result<Self, IdentityError> {
        let (first, intermediates) = match chain.split_first() {
            Some(parts) if chain.len() <= MAX_CHAIN_CERTIFICATES => parts,
            _ => return Err(IdentityError::ChainLength { found: chain.len() }),
        };
        let leaf = LeafCertificate::parse(first)?;
        if leaf.key_digest != key.digest() {
            return Err(IdentityError::KeyMismatch {
                principal: leaf.principal,
            });
        }
        let at = leaf.validity.not_before();
        let signer = bundle
            .authorities()
            .iter()
            .map(|a| prove(first, &leaf, intermediates, std::slice::from_ref(a), at, Usage::Client).map(|()| a))
            .reduce(|found, next| found.or(next))
            .ok_or(IdentityError::ChainLength { found: 0 })??;
        let signing = rustls::crypto::ring::sign::any_ecdsa_type(&key.der()).map_err(IdentityError::Signing)?;
        let mut with_authority = chain.clone();
        // A client that enrols knows nothing but the digest of the authority, and finds it here.
        if !with_authority.contains(signer.der()) {
            with_authority.push(signer.der().clone());
        }
        let as_client = Arc::new(CertifiedKey::new(chain.clone(), Arc::clone(&signing)));
        let as_server = Arc::new(CertifiedKey::new(with_authority, signing));
        Ok(Self {
            inner: Arc::new(Inner {
                key,
                chain,
                leaf,
                bundle,
                as_client,
                as_server,
            }),
        })
    }

    /// Who this is.
    pub fn principal(&self) -> &Principal {
        &self.inner.leaf.principal
    }

    /// The certificate of this identity.
    pub fn certificate(&self) -> &LeafCertificate {
        &self.inner.leaf
    }

    /// The chain in DER, its own certificate first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.inner.chain
    }

    /// The authorities that it trusts.
    pub fn bundle(&self) -> &TrustBundle {
        &self.inner.bundle
    }

    /// The private key, to sign the request of a renewal with the same key.
    pub fn key(&self) -> &PrivateKey {
        &self.inner.key
    }

    /// Whether half of the certificate's life is over.
    pub fn needs_renewal(&self, now: Timestamp) -> bool {
        now >= self.inner.leaf.validity.half_life()
    }

    /// Whether the certificate's life is over.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.inner.leaf.validity.is_over(now)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("certificate", &self.inner.leaf)
            .finish_non_exhaustive()
    }
}

/// The present identity of a running process. Clones share it; a renewal replaces it for every later handshake.
#[derive(Clone, Debug)]
pub struct IdentityHandle {
    current: Arc<RwLock<Identity>>,
}

impl IdentityHandle {
    /// A handle on this identity.
    pub fn new(identity: Identity) -> Self {
        Self {
            current: Arc::new(RwLock::new(identity)),
        }
    }

    /// The identity in use.
    pub fn current(&self) -> Identity {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Uses another identity from now on. Open connections keep the old one.
    pub fn replace(&self, identity: Identity) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = identity;
    }
}

impl rustls::server::ResolvesServerCert for IdentityHandle {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current().inner.as_server))
    }
}

impl rustls::client::ResolvesClientCert for IdentityHandle {
    fn resolve(&self, _: &[&[u8]], schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = schemes.contains(&rustls::SignatureScheme::ECDSA_NISTP256_SHA256);
        usable.then(|| Arc::clone(&self.current().inner.as_client))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
