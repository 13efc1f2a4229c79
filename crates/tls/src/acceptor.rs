//! The accepting side: handshakes that cannot hold each other up, under any server.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::config;
use crate::connection::Connection;
use crate::deny::DenyList;
use crate::identity::IdentityHandle;
use crate::limits::{
    ACCEPT_PAUSE, HANDSHAKE_TIMEOUT, MAX_CONNECTIONS, MAX_HANDSHAKES, PARTING_BYTES, PARTING_TIMEOUT, READY_QUEUE,
    RENEWAL_GRACE, STRANGER_LIFETIME, STRANGERS_MAX,
};
use crate::peer::{ChannelBinding, PeerIdentity};
use crate::strangers::{Strangers, StrangersMax};
use crate::time::TimeSource;
use crate::trust::PeerRefused;
use crate::verify::ClientPolicy;

/// Whether clients must present a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They may come without one, as those who enrol do.
    Optional,
    /// The handshake fails without one.
    Required,
}

/// How an [`Acceptor`] behaves.
#[derive(Clone, Debug)]
pub struct AcceptorSettings {
    /// Who the server is, and whose clients it trusts.
    pub identity: IdentityHandle,
    /// Who is refused and cut off.
    pub deny: DenyList,
    /// The clock that certificates are judged by.
    pub time: TimeSource,
    /// Whether clients must present a certificate.
    pub clients: ClientCertificates,
    /// How long after its end a certificate may still be renewed.
    pub grace: Duration,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// Handshakes in progress at once, at least 1; beyond it the oldest is dropped.
    pub max_handshakes: usize,
    /// Open connections, at least 1; beyond it new ones are closed at once.
    pub max_connections: usize,
    /// Open connections of peers without a certificate; beyond it the oldest is dropped.
    pub max_strangers: StrangersMax,
    /// How long a peer without a certificate may stay connected.
    pub stranger_lifetime: Duration,
}

impl AcceptorSettings {
    /// The settings of a controller: clients may come without a certificate, expired ones may renew, and the bounds are
    /// those of [`crate::limits`].
    pub fn new(identity: IdentityHandle, deny: DenyList, time: TimeSource) -> Self {
        Self {
            identity,
            deny,
            time,
            clients: ClientCertificates::Optional,
            grace: RENEWAL_GRACE,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            max_handshakes: MAX_HANDSHAKES,
            max_connections: MAX_CONNECTIONS,
            max_strangers: STRANGERS_MAX,
            stranger_lifetime: STRANGER_LIFETIME,
        }
    }

    /// Settings for peers that must be enrolled and unexpired, as for a trainer's data plane.
    pub fn enrolled_only(identity: IdentityHandle, deny: DenyList, time: TimeSource) -> Self {
        let clients = ClientCertificates::Required;
        Self {
            clients,
            grace: Duration::ZERO,
            ..Self::new(identity, deny, time)
        }
    }
}

/// Why an acceptor could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AcceptorError {
    /// The listener has no address.
    #[error("the listener has no local address")]
    Address(#[source] io::Error),
    /// The TLS library refuses the settings.
    #[error("the TLS library refuses the settings")]
    Tls(#[source] rustls::Error),
}

/// What became of the connections of an [`Acceptor`] since its start.
#[derive(Debug, Default)]
pub struct HandshakeCounters {
    completed: AtomicU64,
    refused: AtomicU64,
    timed_out: AtomicU64,
    displaced: AtomicU64,
    over_capacity: AtomicU64,
}

impl HandshakeCounters {
    /// Handshakes that led to a connection.
    pub fn completed(&self) -> u64 {
        self.completed.load(Ordering::Relaxed)
    }

    /// Handshakes that failed: refused certificates, plain text, closed connections.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Handshakes that took too long.
    pub fn timed_out(&self) -> u64 {
        self.timed_out.load(Ordering::Relaxed)
    }

    /// Handshakes, and connections without a certificate, dropped as the oldest of too many.
    pub fn displaced(&self) -> u64 {
        self.displaced.load(Ordering::Relaxed)
    }

    /// Connections closed at once because too many are open.
    pub fn over_capacity(&self) -> u64 {
        self.over_capacity.load(Ordering::Relaxed)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A listener that does the handshakes, each in a task of its own, and hands over finished connections: a stream for
/// tonic's `serve_with_incoming_shutdown`, and what [`crate::serve_http`] takes. Dropping it stops accepting and drops the
/// handshakes in progress; connections handed over live on.
#[derive(Debug)]
pub struct Acceptor {
    ready: mpsc::Receiver<Connection>,
    address: SocketAddr,
    counters: Arc<HandshakeCounters>,
    task: JoinHandle<()>,
}

impl Acceptor {
    /// Begins to accept on a bound listener. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the listener has no address or the TLS library refuses the settings.
    pub fn new(listener: TcpListener, settings: AcceptorSettings) -> Result<Self, AcceptorError> {
        let address = listener.local_addr().map_err(AcceptorError::Address)?;
        let policy = Arc::new(ClientPolicy {
            identity: settings.identity.clone(),
            deny: settings.deny.clone(),
            grace: settings.grace,
            time: settings.time.clone(),
            required: settings.clients == ClientCertificates::Required,
        });
        let tls = config::server(&settings.identity, &policy, &settings.time).map_err(AcceptorError::Tls)?;
        let (sender, ready) = mpsc::channel(READY_QUEUE);
        let counters = Arc::new(HandshakeCounters::default());
        let door = Door {
            tls: TlsAcceptor::from(Arc::new(tls)),
            policy,
            timeout: settings.handshake_timeout,
            strangers: Strangers::new(settings.max_strangers),
            stranger_lifetime: settings.stranger_lifetime,
            counters: Arc::clone(&counters),
            ready: sender,
        };
        let room = Arc::new(Semaphore::new(
            settings.max_connections.clamp(1, Semaphore::MAX_PERMITS),
        ));
        let task = tokio::spawn(run(listener, Arc::new(door), room, settings.max_handshakes.max(1)));
        Ok(Self {
            ready,
            address,
            counters,
            task,
        })
    }

    /// The next connection. Cancel-safe.
    pub async fn accept(&mut self) -> Option<Connection> {
        self.ready.recv().await
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What became of the connections so far; stays readable after the acceptor is given away.
    pub fn counters(&self) -> Arc<HandshakeCounters> {
        Arc::clone(&self.counters)
    }
}

impl Stream for Acceptor {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Door {
    tls: TlsAcceptor,
    policy: Arc<ClientPolicy>,
    timeout: Duration,
    strangers: Strangers,
    stranger_lifetime: Duration,
    counters: Arc<HandshakeCounters>,
    ready: mpsc::Sender<Connection>,
}

/// Accepts for ever. The handshakes belong to this task and end with it.
async fn run(listener: TcpListener, door: Arc<Door>, room: Arc<Semaphore>, max_handshakes: usize) {
    let mut handshakes = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = handshakes.join_next() => {
                while by_age.front().is_some_and(AbortHandle::is_finished) {
                    by_age.pop_front();
                }
                continue;
            }
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            count(&door.counters.over_capacity);
            continue;
        };
        if handshakes.len() >= max_handshakes {
            by_age.retain(|handshake| !handshake.is_finished());
            if let Some(oldest) = by_age.pop_front() {
                oldest.abort();
                count(&door.counters.displaced);
            }
        }
        by_age.push_back(handshakes.spawn(Arc::clone(&door).admit(stream, address, permit)));
    }
}

/// An error of one connection is passed over at once; one of the process, such as running out of descriptors, lasts.
pub(crate) async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::warn!(%error, "cannot accept connections at the moment");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// Closes a refused connection so that the alert arrives: closing while unread bytes lie here would reset the connection,
/// and the client could lose what was sent before.
async fn part(mut stream: TcpStream) {
    let farewell = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(PARTING_BYTES), &mut tokio::io::sink()).await
    };
    // Whether it worked changes nothing for a connection that is refused.
    let _ = tokio::time::timeout(PARTING_TIMEOUT, farewell).await;
}

/// Why a handshake led to no connection.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the handshake took longer than {0:?}")]
    TimedOut(Duration),
    #[error("the handshake failed: {0}")]
    Handshake(#[from] io::Error),
    #[error(transparent)]
    Peer(#[from] PeerRefused),
    #[error("the connection gives no channel binding: {0}")]
    Binding(#[from] rustls::Error),
}

impl Door {
    async fn admit(self: Arc<Self>, stream: TcpStream, address: SocketAddr, permit: OwnedSemaphorePermit) {
        match self.handshake(stream, address, permit).await {
            Ok(connection) => {
                count(&self.counters.completed);
                // An error means that the acceptor is gone, and the connection with it.
                let _ = self.ready.send(connection).await;
            }
            Err(refusal) => {
                let timed_out = matches!(refusal, Refusal::TimedOut(_));
                count(if timed_out {
                    &self.counters.timed_out
                } else {
                    &self.counters.refused
                });
                tracing::debug!(%address, %refusal, "connection refused");
            }
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> Result<Connection, Refusal> {
        crate::tcp::prepare(&stream)?;
        let handshake = tokio::time::timeout(self.timeout, self.tls.accept(stream).into_fallible());
        let stream = match handshake.await.map_err(|_| Refusal::TimedOut(self.timeout))? {
            Ok(stream) => stream,
            Err((error, stream)) => {
                part(stream).await;
                return Err(Refusal::Handshake(error));
            }
        };
        let session = stream.get_ref().1;
        // Judged again, since the verifier has no way to hand over what it found.
        let certificate = session
            .peer_certificates()
            .map(|chain| self.policy.judge(chain))
            .transpose()?;
        let peer = PeerIdentity::new(address, certificate, ChannelBinding::of(session)?);
        if peer.presented().is_none() && self.strangers.admit(&peer) {
            count(&self.counters.displaced);
        }
        Ok(Connection::new(
            stream,
            peer,
            &self.policy.deny,
            self.stranger_lifetime,
            permit,
        ))
    }
}
