//! Mutual TLS with SPIFFE identities: authority, acceptor, verifiers, client channels, join tokens.
//!
//! One authority vouches for a trust domain. Every process has an [`Identity`] whose certificate names a [`Principal`];
//! peers are judged by that name and by the authority, never by host name. TLS 1.3 and P-256 alone are spoken, with ring.
//!
//! Servers put an [`Acceptor`] under tonic's `serve_with_incoming` or under [`serve_http`] and find a [`PeerIdentity`] in the
//! extensions of each request. Clients [`connect`]. Nothing here reads a clock: a [`TimeSource`] is given.

pub mod limits;

mod acceptor;
mod authority;
mod certificate;
mod client;
mod config;
mod connection;
mod deny;
mod endpoint;

mod identity;
mod key;
mod peer;
mod pem;
mod principal;
mod serve;
mod storage;
mod strangers;
mod tcp;
mod time;
mod token;
mod trust;
mod verify;

#[cfg(test)]
mod test_fleet;
#[cfg(test)]
mod tests;

pub use acceptor::{Acceptor, AcceptorError, AcceptorSettings, ClientCertificates, HandshakeCounters};
pub use authority::{AuthorityError, CertificateAuthority, HostName, HostNameError, IssueError};
pub use certificate::{
    AuthorityCertificate, CertificateError, ImpossibleWindow, LeafCertificate, SerialNumber, ValidityWindow,
};
pub use client::{ConnectError, Link, ServerFacts, alert_in, connect, https_config};
pub use connection::Connection;
pub use deny::{Denial, DeniedSet, DenyList};
pub use endpoint::{Endpoint, EndpointError};
pub use identity::{Identity, IdentityError, IdentityHandle};
pub use key::{CertificateRequest, KeyError, PrivateKey, RequestError};
pub use peer::{ChannelBinding, PeerError, PeerIdentity, Validity};
pub use pem::PemError;
pub use principal::{ControllerName, OperatorName, Principal, PrincipalError, Role, TrustDomain};
pub use serve::{PlainSettings, serve_http, serve_plain};
pub use storage::StorageError;
pub use strangers::StrangersMax;
pub use time::TimeSource;
pub use token::{JoinRole, JoinSecret, JoinToken, RootPin, TokenError};
pub use trust::{BundleError, PeerRefused, TrustBundle};
pub use verify::{ExpectedServer, ServerIdentity, ServerTrust};
