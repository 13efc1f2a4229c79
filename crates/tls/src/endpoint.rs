//! Where a server listens: a host and a port.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use rustls_pki_types::ServerName;

use crate::limits::MAX_HOST_BYTES;

/// Where a server listens. Its text form is `https://host:port`; an IPv6 address stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    host: String,
    port: u16,
}

/// Why a text is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not of the form `https://host:port`.
    #[error("{text:?} is no endpoint: expected https://host:port")]
    Form {
        /// The text.
        text: String,
    },
    /// The host is neither a DNS name nor an IP address.
    #[error("{host:?} is neither a DNS name nor an IP address")]
    Host {
        /// The text in the place of the host.
        host: String,
    },
    /// The port is not between 1 and 65535.
    #[error("{port:?} is no port: expected 1 to 65535")]
    Port {
        /// The text in the place of the port.
        port: String,
    },
}

impl Endpoint {
    /// An endpoint at a host (a DNS name or an IP address, without brackets) and a port.
    ///
    /// # Errors
    /// When the host is neither, or the port is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, EndpointError> {
        if host.len() > MAX_HOST_BYTES || ServerName::try_from(host).is_err() {
            return Err(EndpointError::Host { host: host.to_owned() });
        }
        if port == 0 {
            return Err(EndpointError::Port { port: "0".to_owned() });
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }

    /// The host: a DNS name or an IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, an IPv6 address in brackets.
    pub fn authority(&self) -> String {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("[{address}]:{}", self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }

    /// The name for the TLS handshake, which the verifier does not ask about.
    pub(crate) fn server_name(&self) -> ServerName<'static> {
        ServerName::try_from(self.host.clone()).unwrap_or(ServerName::IpAddress(Ipv4Addr::LOCALHOST.into()))
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let form = || EndpointError::Form { text: text.to_owned() };
        let authority = text.strip_prefix("https://").ok_or_else(form)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let (host, port) = authority.rsplit_once(':').ok_or_else(form)?;
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        if bracketed.is_none() && host.contains(':') {
            return Err(form());
        }
        let number = port
            .parse()
            .map_err(|_| EndpointError::Port { port: port.to_owned() })?;
        Self::new(bracketed.unwrap_or(host), number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_round_trip_and_the_rest_is_refused() {
        for text in [
            "https://controller.example:8443",
            "https://127.0.0.1:1",
            "https://[::1]:65535",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "controller:8443",
            "http://controller:8443",
            "https://controller",
            "https://controller:0",
            "https://controller:65536",
            "https://::1:443",
            "https://user@host:1",
            "https://host/path:1",
            "https://:1",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
