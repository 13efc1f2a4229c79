//! An accepted connection: bytes, who sends them, and an end as soon as that peer is denied.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;

use crate::deny::DenyList;
use crate::limits::FIRST_BYTES_TIMEOUT;
use crate::peer::PeerIdentity;

/// A connection that an [`crate::Acceptor`] hands over. Once its peer is denied or hung up on, every read and
/// write fails and whoever waits on it is woken, so that servers need not ask.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: PeerIdentity,
    ends: Pin<Box<dyn Future<Output = Cut> + Send>>,
    cut: Option<Cut>,
    /// Ends when the peer has said nothing for too long; none once it has said something.
    unheard: Option<Pin<Box<Sleep>>>,
    _room: OwnedSemaphorePermit,
}

/// Why a connection is cut off.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Cut {
    #[error("the peer was denied")]
    Denied,
    #[error("the connection was hung up")]
    HungUp,
    #[error("nobody without a certificate stays for longer than {0:?}")]
    Overstayed(Duration),
}

/// Ends when the connection of this peer must.
async fn end_of(peer: PeerIdentity, deny: DenyList, stranger: Duration) -> Cut {
    let theirs = async {
        match peer.presented() {
            Some(certificate) => {
                deny.denied(certificate).await;
                Cut::Denied
            }
            None => {
                sleep(stranger).await;
                Cut::Overstayed(stranger)
            }
        }
    };
    tokio::select! {
        () = peer.hung_up() => Cut::HungUp,
        cut = theirs => cut,
    }
}

impl Connection {
    pub(crate) fn new(
        stream: TlsStream<TcpStream>,
        peer: PeerIdentity,
        deny: &DenyList,
        stranger: Duration,
        room: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            stream,
            ends: Box::pin(end_of(peer.clone(), deny.clone(), stranger)),
            peer,
            cut: None,
            unheard: Some(Box::pin(sleep(FIRST_BYTES_TIMEOUT))),
            _room: room,
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.cut.is_none()
            && let Poll::Ready(cut) = self.ends.as_mut().poll(cx)
        {
            tracing::debug!(address = %self.peer.address(), %cut, "a connection is cut off");
            self.cut = Some(cut);
        }
        if let Some(cut) = self.cut {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, cut.to_string()));
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
