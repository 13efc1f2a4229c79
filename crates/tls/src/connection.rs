//! An accepted connection: bytes, who sends them, and an end as soon as that peer is denied.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

use crate::deny::DenyList;
use crate::limits::FIRST_BYTES_TIMEOUT;
use crate::peer::PeerIdentity;

/// A connection that an [`crate::Acceptor`] hands over. Once its peer is denied, every read and write fails and whoever
/// waits on it is woken, so that servers need not ask.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: PeerIdentity,
    /// Ends when the peer is denied; none once it has, or for a peer without certificate.
    denied: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    cut: bool,
    /// Ends when the peer has said nothing for too long; none once it has said something.
    unheard: Option<Pin<Box<Sleep>>>,
    _room: OwnedSemaphorePermit,
}

impl Connection {
    pub(crate) fn new(
        stream: TlsStream<TcpStream>,
        peer: PeerIdentity,
        deny: &DenyList,
        room: OwnedSemaphorePermit,
    ) -> Self {
        let denied = peer.presented().cloned().map(|certificate| {
            let deny = deny.clone();
            let denied: Pin<Box<dyn Future<Output = ()> + Send>> =
                Box::pin(async move { deny.denied(&certificate).await });
            denied
        });
        Self {
            stream,
            peer,
            denied,
            cut: false,
            unheard: Some(Box::pin(tokio::time::sleep(FIRST_BYTES_TIMEOUT))),
            _room: room,
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self
            .denied
            .as_mut()
            .is_some_and(|denied| denied.as_mut().poll(cx).is_ready())
        {
            self.denied = None;
            self.cut = true;
        }
        if self.cut {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the peer was denied"));
        }
        Ok(())
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.unheard = None;
        }
        let is_late = self
            .unheard
            .as_mut()
            .is_some_and(|unheard| unheard.as_mut().poll(cx).is_ready());
        if read.is_pending() && is_late {
            let what = format!("the client said nothing within {FIRST_BYTES_TIMEOUT:?}");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, what)));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl tonic::transport::server::Connected for Connection {
    type ConnectInfo = PeerIdentity;

    fn connect_info(&self) -> PeerIdentity {
        self.peer.clone()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .field("cut", &self.cut)
            .finish_non_exhaustive()
    }
}
