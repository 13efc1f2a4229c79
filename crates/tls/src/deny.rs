//! The deny-list: who is refused at the handshake and cut off while connected.

use std::collections::BTreeSet;

use fieldfare_fleet::Digest;
use tokio::sync::watch;

use crate::certificate::{LeafCertificate, SerialNumber};
use crate::principal::Principal;

/// One entry of the deny-list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denial {
    /// Everything that speaks for this principal.
    Principal(Principal),
    /// Every certificate for the key with this SHA-256 of its SubjectPublicKeyInfo.
    Key(Digest),
    /// The certificate with this serial number.
    Serial(SerialNumber),
}

/// Everything that is denied at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeniedSet {
    entries: BTreeSet<Denial>,
}

impl DeniedSet {
    /// Whether this certificate is denied, by its principal, its key or its serial number.
    pub fn is_denied(&self, certificate: &LeafCertificate) -> bool {
        !self.entries.is_empty()
            && (self.entries.contains(&Denial::Principal(certificate.principal.clone()))
                || self.entries.contains(&Denial::Key(certificate.key_digest))
                || self.entries.contains(&Denial::Serial(certificate.serial)))
    }

    /// Whether certificates for this key are denied.
    pub fn is_key_denied(&self, key_digest: Digest) -> bool {
        self.entries.contains(&Denial::Key(key_digest))
    }

    /// The entries in order.
    pub fn entries(&self) -> impl Iterator<Item = &Denial> {
        self.entries.iter()
    }
}

impl FromIterator<Denial> for DeniedSet {
    fn from_iter<I: IntoIterator<Item = Denial>>(entries: I) -> Self {
        Self {
            entries: entries.into_iter().collect(),
        }
    }
}

/// A handle on the deny-list of a process. Clones share one list; the store holds the lasting copy.
#[derive(Clone, Debug)]
pub struct DenyList {
    current: watch::Sender<DeniedSet>,
}

impl DenyList {
    /// A list with these entries.
    pub fn new(denied: DeniedSet) -> Self {
        Self {
            current: watch::Sender::new(denied),
        }
    }

    /// Puts another set in the place of the present one, as after reading the store.
    /// Open connections of whoever it denies are cut.
    pub fn replace(&self, denied: DeniedSet) {
        self.current.send_if_modified(|current| {
            let changed = *current != denied;
            *current = denied;
            changed
        });
    }

    /// Denies one more. Its open connections are cut.
    pub fn deny(&self, denial: Denial) {
        self.current.send_if_modified(|current| current.entries.insert(denial));
    }

    /// Takes an entry from the list, so that new connections are possible again.
    pub fn allow(&self, denial: &Denial) {
        self.current.send_if_modified(|current| current.entries.remove(denial));
    }

    /// Whether this certificate is denied now.
    pub fn is_denied(&self, certificate: &LeafCertificate) -> bool {
        self.current.borrow().is_denied(certificate)
    }

    /// Whether certificates for this key are denied now: asked before one is issued.
    pub fn is_key_denied(&self, key_digest: Digest) -> bool {
        self.current.borrow().is_key_denied(key_digest)
    }

    /// Follows the list. Connections of an [`crate::Acceptor`] need no such care: they fail by themselves once their peer is
    /// denied.
    pub fn subscribe(&self) -> watch::Receiver<DeniedSet> {
        self.current.subscribe()
    }

    /// Ends when this certificate is denied, at once if it is already.
    pub async fn denied(&self, certificate: &LeafCertificate) {
        let mut current = self.current.subscribe();
        // The sender lives as long as `self`, so this only ends by a denial.
        let _ = current.wait_for(|denied| denied.is_denied(certificate)).await;
    }
}

impl Default for DenyList {
    fn default() -> Self {
        Self::new(DeniedSet::default())
    }
}
