//! The rustls configurations of both sides: TLS 1.3 with ring, without resumption.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring::default_provider;
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, ServerConfig};

use crate::identity::IdentityHandle;
use crate::time::TimeSource;
use crate::verify::{ClientPolicy, ServerTrust, ServerVerifier};

pub(crate) const HTTP2: &[u8] = b"h2";
pub(crate) const HTTP1: &[u8] = b"http/1.1";

/// A server of HTTP/2 and HTTP/1.1. Sessions are not resumed: each handshake judges the client anew.
pub(crate) fn server(
    identity: &IdentityHandle,
    policy: &Arc<ClientPolicy>,
    time: &TimeSource,
) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_details(Arc::new(default_provider()), Arc::new(time.clone()))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::<ClientPolicy>::clone(policy))
        .with_cert_resolver(Arc::new(identity.clone()));
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// A client that speaks this one protocol.
pub(crate) fn client(
    identity: Option<&IdentityHandle>,
    trust: &ServerTrust,
    time: &TimeSource,
    protocol: &[u8],
) -> Result<ClientConfig, Error> {
    let verifier = ServerVerifier {
        trust: trust.clone(),
        time: time.clone(),
    };
    let builder = ClientConfig::builder_with_details(Arc::new(default_provider()), Arc::new(time.clone()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(identity.clone())),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}
