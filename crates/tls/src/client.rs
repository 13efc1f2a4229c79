//! The connecting side: tonic channels, and the configuration of plain HTTPS clients.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, ClientConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Channel;

use crate::config;
use crate::endpoint::Endpoint;
use crate::identity::IdentityHandle;
use crate::limits::{CONNECT_TIMEOUT, HTTP2_WINDOW, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT};
use crate::peer::ChannelBinding;
use crate::time::TimeSource;
use crate::trust::PeerRefused;
use crate::verify::{ServerIdentity, ServerTrust};

/// Why a connection to a server did not come about.
///
/// A server that refuses *our* certificate says so later: see [`Link::alert`].
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name does not resolve, or nobody listens there.
    #[error("cannot reach {endpoint}")]
    Tcp {
        /// Where.
        endpoint: Endpoint,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The other end did not answer in time.
    #[error("{endpoint} did not complete a connection within {CONNECT_TIMEOUT:?}")]
    Timeout {
        /// Where.
        endpoint: Endpoint,
    },
    /// The server is not whom we trust.
    #[error("the server at {endpoint} is not trusted")]
    Server {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        #[source]
        source: PeerRefused,
    },
    /// The handshake failed otherwise; a server that speaks no TLS also ends here.
    #[error("the TLS handshake with {endpoint} failed")]
    Tls {
        /// Where.
        endpoint: Endpoint,
        /// What the TLS library says.
        #[source]
        source: io::Error,
    },
    /// The TLS library refuses the settings.
    #[error("the TLS library refuses the settings")]
    Settings(#[source] rustls::Error),
    /// The HTTP/2 connection did not come about.
    #[error("the HTTP/2 connection to {endpoint} failed")]
    Http2 {
        /// Where.
        endpoint: Endpoint,
        /// What tonic says.
        #[source]
        source: tonic::transport::Error,
    },
}

/// What is known of the server of the latest connection of a [`Link`].
#[derive(Clone, Debug)]
pub struct ServerFacts {
    /// Who it is, and the authorities by which it was found genuine: with a pinned authority, the one learnt.
    pub server: ServerIdentity,
    /// The channel binding, equal to [`crate::PeerIdentity::channel_binding`] at the server.
    pub binding: ChannelBinding,
}

/// A connection to a server that comes back by itself when it breaks, judging the server anew each time.
#[derive(Clone, Debug)]
pub struct Link {
    channel: Channel,
    facts: watch::Receiver<ServerFacts>,
    alert: AlertSlot,
}

impl Link {
    /// The channel for generated clients.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The server of the latest connection.
    pub fn server(&self) -> ServerFacts {
        self.facts.borrow().clone()
    }

    /// The TLS alert with which the server ended the latest connection, if it did.
    ///
    /// A server refuses our certificate by `CertificateExpired`, `CertificateRevoked` (denied), `UnknownCA` or
    /// `CertificateUnknown` (not of our form), and asks for a missing one by `CertificateRequired`. It does so after our
    /// part of the handshake (TLS 1.3), so that the first call fails and not [`connect`].
    pub fn alert(&self) -> Option<AlertDescription> {
        self.alert.get()
    }
}

/// Connects to a server: TCP, TLS and HTTP/2 within [`CONNECT_TIMEOUT`] each, then pings that notice a dead path.
///
/// With an identity the server sees its current certificate, also after a renewal replaced it and the link came back.
///
/// # Errors
/// When the server cannot be reached or is not the one that `trust` describes.
pub async fn connect(
    endpoint: &Endpoint,
    identity: Option<&IdentityHandle>,
    trust: &ServerTrust,
    time: &TimeSource,
) -> Result<Link, ConnectError> {
    let tls = config::client(identity, trust, time, config::HTTP2).map_err(ConnectError::Settings)?;
    let dialler = Dialler {
        endpoint: endpoint.clone(),
        tls: TlsConnector::from(Arc::new(tls)),
        trust: trust.clone(),
        time: time.clone(),
    };
    // The first connection is made here, where its error still has its type.
    let (first, facts) = dialler.dial().await?;
    let (sender, facts) = watch::channel(facts);
    let alert = AlertSlot::default();
    let connector = Connector {
        dialler: Arc::new(dialler),
        first: Arc::new(Mutex::new(Some(first))),
        facts: sender,
        alert: alert.clone(),
    };
    let http2 = |source| ConnectError::Http2 {
        endpoint: endpoint.clone(),
        source,
    };
    // Without tonic's own TLS the scheme of the dialled address must be `http`; requests say `https`.
    let origin = endpoint.to_string().parse().ok();
    let mut settings = tonic::transport::Endpoint::from_shared(format!("http://{}", endpoint.authority()))
        .map_err(http2)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(HTTP2_WINDOW)
        .initial_connection_window_size(HTTP2_WINDOW);
    if let Some(origin) = origin {
        settings = settings.origin(origin);
    }
    let channel = settings.connect_with_connector(connector).await.map_err(http2)?;
    Ok(Link { channel, facts, alert })
}

/// The TLS configuration for HTTP/1.1 clients of artifacts, such as reqwest's `tls_backend_preconfigured`.
///
/// # Errors
/// When the TLS library refuses the settings.
pub fn https_config(
    identity: Option<&IdentityHandle>,
    trust: &ServerTrust,
    time: &TimeSource,
) -> Result<ClientConfig, ConnectError> {
    config::client(identity, trust, time, config::HTTP1).map_err(ConnectError::Settings)
}

/// The TLS alert with which a peer ended a connection, if one stands among the causes of this error, as it does with
/// reqwest. HTTP/2 keeps no causes: ask [`Link::alert`] there.
pub fn alert_in(error: &(dyn std::error::Error + 'static)) -> Option<AlertDescription> {
    match rustls_error_in(error)? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// Searches the causes of an error. An `io::Error` is looked into, since its own `source` skips what it wraps.
fn rustls_error_in<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref::<rustls::Error>() {
        return Some(found);
    }
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    match inner {
        Some(inner) => rustls_error_in(inner),
        None => error.source().and_then(rustls_error_in),
    }
}

struct Dialler {
    endpoint: Endpoint,
    tls: TlsConnector,
    trust: ServerTrust,
    time: TimeSource,
}

impl Dialler {
    async fn dial(&self) -> Result<(TlsStream<TcpStream>, ServerFacts), ConnectError> {
        let timeout = |_| ConnectError::Timeout {
            endpoint: self.endpoint.clone(),
        };
        tokio::time::timeout(CONNECT_TIMEOUT, self.handshake())
            .await
            .map_err(timeout)?
    }

    async fn handshake(&self) -> Result<(TlsStream<TcpStream>, ServerFacts), ConnectError> {
        let tcp = |source| ConnectError::Tcp {
            endpoint: self.endpoint.clone(),
            source,
        };
        let stream = TcpStream::connect((self.endpoint.host(), self.endpoint.port()))
            .await
            .map_err(tcp)?;
        crate::tcp::prepare(&stream).map_err(tcp)?;
        let stream = self
            .tls
            .connect(self.endpoint.server_name(), stream)
            .await
            .map_err(|e| self.tls_error(e))?;
        let session = stream.get_ref().1;
        let binding = ChannelBinding::of(session).map_err(|e| self.tls_error(io::Error::other(e)))?;
        let chain = session.peer_certificates().unwrap_or_default();
        let server = self.trust.judge(chain, self.time.now());
        let server = server.map_err(|source| ConnectError::Server {
            endpoint: self.endpoint.clone(),
            source,
        })?;
        Ok((stream, ServerFacts { server, binding }))
    }

    fn tls_error(&self, source: io::Error) -> ConnectError {
        let endpoint = self.endpoint.clone();
        let refused = match rustls_error_in(&source) {
            Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))) => {
                other.0.downcast_ref::<PeerRefused>().cloned()
            }
            _ => None,
        };
        match refused {
            Some(source) => ConnectError::Server { endpoint, source },
            None => ConnectError::Tls { endpoint, source },
        }
    }
}

/// What tonic calls for each connection: the first was made already, later ones are dialled.
#[derive(Clone)]
struct Connector {
    dialler: Arc<Dialler>,
    first: Arc<Mutex<Option<TlsStream<TcpStream>>>>,
    facts: watch::Sender<ServerFacts>,
    alert: AlertSlot,
}

impl tower::Service<http::Uri> for Connector {
    type Response = TokioIo<ClientStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let first = connector.first.lock().unwrap_or_else(PoisonError::into_inner).take();
            let stream = match first {
                Some(first) => first,
                None => {
                    let (stream, facts) = connector.dialler.dial().await?;
                    connector.facts.send_replace(facts);
                    stream
                }
            };
            connector.alert.set(None);
            Ok(TokioIo::new(ClientStream {
                stream,
                alert: connector.alert,
            }))
        })
    }
}

/// Where the alert of the latest connection is kept.
#[derive(Clone, Debug, Default)]
struct AlertSlot(Arc<Mutex<Option<AlertDescription>>>);

impl AlertSlot {
    fn get(&self) -> Option<AlertDescription> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, alert: Option<AlertDescription>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = alert;
    }
}

/// The bytes of a connection; it remembers the alert that ended it, which HTTP/2 forgets.
struct ClientStream {
    stream: TlsStream<TcpStream>,
    alert: AlertSlot,
}

impl ClientStream {
    fn note<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &result
            && let Some(alert) = alert_in(error)
        {
            self.alert.set(Some(alert));
        }
        result
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.note(result)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.note(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.note(result)
    }
}
