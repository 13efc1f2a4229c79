//! Who is at the other end of an accepted connection.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use tokio::sync::watch;

use crate::certificate::LeafCertificate;
use crate::principal::Principal;

/// How a certificate stands to the time of its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// Within its window.
    Valid,
    /// Expired, but so recently that it may still be renewed, and nothing else.
    ExpiredInGrace,
}

/// The value of the TLS exporter (RFC 5705, RFC 8446 section 7.5) with the label `EXPORTER-fieldfare` and no context:
/// 32 bytes that both ends of one connection know and nobody else. A proof over it cannot be moved to another connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ChannelBinding([u8; 32]);

pub(crate) const EXPORTER_LABEL: &[u8] = b"EXPORTER-fieldfare";

impl ChannelBinding {
    pub(crate) fn of<D>(connection: &rustls::ConnectionCommon<D>) -> Result<Self, rustls::Error> {
        connection
            .export_keying_material([0; 32], EXPORTER_LABEL, None)
            .map(Self)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for ChannelBinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChannelBinding(..)")
    }
}

/// Who is at the other end of an accepted connection. Found in the extensions of every request, of tonic as of
/// [`crate::serve_http`].
#[derive(Clone, Debug)]
pub struct PeerIdentity {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    address: SocketAddr,
    certificate: Option<(LeafCertificate, Validity)>,
    binding: ChannelBinding,
    hung_up: watch::Sender<bool>,
}

/// Why a request is refused for who its sender is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The client presented no certificate.
    #[error("this needs a client certificate")]
    Anonymous,
    /// The client's certificate may only be renewed.
    #[error("the certificate of {principal} has expired and can only be renewed")]
    Expired {
        /// Whose.
        principal: Principal,
    },
}

impl PeerIdentity {
    pub(crate) fn new(
        address: SocketAddr,
        certificate: Option<(LeafCertificate, Validity)>,
        binding: ChannelBinding,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                address,
                certificate,
                binding,
                hung_up: watch::Sender::new(false),
            }),
        }
    }

    /// The peer's principal, if its certificate is valid: what every call but the renewal must ask.
    ///
    /// # Errors
    /// When the peer presented no certificate, or one that can only be renewed.
    pub fn principal(&self) -> Result<&Principal, PeerError> {
        match &self.inner.certificate {
            None => Err(PeerError::Anonymous),
            Some((leaf, Validity::Valid)) => Ok(&leaf.principal),
            Some((leaf, Validity::ExpiredInGrace)) => Err(PeerError::Expired {
                principal: leaf.principal.clone(),
            }),
        }
    }

    /// The certificate that the peer presented, valid or within its grace. Only the renewal may act on it without asking
    /// [`Self::validity`].
    pub fn presented(&self) -> Option<&LeafCertificate> {
        self.inner.certificate.as_ref().map(|(leaf, _)| leaf)
    }

    /// How the presented certificate stands to the time of the handshake; none without a certificate.
    pub fn validity(&self) -> Option<Validity> {
        self.inner.certificate.as_ref().map(|(_, validity)| *validity)
    }

    /// Where the connection comes from. A hint for logs: it proves nothing.
    pub fn address(&self) -> SocketAddr {
        self.inner.address
    }

    /// The channel binding of this connection.
    pub fn channel_binding(&self) -> ChannelBinding {
        self.inner.binding
    }

    /// Ends the connection, with whatever is open on it: for a peer that answers pings and takes nothing, to which no stream can
    /// say why it ends.
    pub fn hang_up(&self) {
        self.inner.hung_up.send_replace(true);
    }

    /// Ends when somebody hangs up.
    pub(crate) async fn hung_up(&self) {
        let mut hung_up = self.inner.hung_up.subscribe();
        // The sender lives as long as `self`, so this only ends by hanging up.
        let _ = hung_up.wait_for(|hung_up| *hung_up).await;
    }

    /// The connection as one looks at it who does not keep it.
    pub(crate) fn seen(&self) -> SeenPeer {
        SeenPeer(Arc::downgrade(&self.inner))
    }
}

/// A connection that may be over.
#[derive(Clone, Debug)]
pub(crate) struct SeenPeer(Weak<Inner>);

impl SeenPeer {
    /// The peer, unless its connection is over.
    pub(crate) fn connected(&self) -> Option<PeerIdentity> {
        self.0.upgrade().map(|inner| PeerIdentity { inner })
    }
}
