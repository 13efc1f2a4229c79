//! A network of one's own between the store and etcd, which loses what it is told to lose.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToClient,
}

/// What happens to connections.
#[derive(Clone)]
struct Lines {
    loss: Loss,
    severed: watch::Sender<bool>,
    stop: watch::Sender<Stop>,
    /// Bytes that came from the server.
    answered: watch::Sender<u64>,
}

/// What is lost next: the connection, at the first bytes this way after so many that pass.
type Loss = Arc<Mutex<Option<(Way, u32)>>>;

/// Requests that are stopped on their way. What a client says later, that it has given up among it, is never heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Bytes pass.
    None,
    /// The next bytes to the server are caught, and nothing after them passes.
    Catching,
    /// Some are caught.
    Caught,
    /// What was caught goes on to the server.
    Released,
}

/// How long bytes belong to a request whose first ones are caught: shorter than any call takes to be given up.
const CATCH: Duration = Duration::from_millis(300);

/// Forwards every connection to one server. Ends when it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    lines: Lines,
    serving: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(server: &str) -> Proxy {
        let server = server.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lines = Lines {
            loss: Loss::default(),
            severed: watch::Sender::new(false),
            stop: watch::Sender::new(Stop::None),
            answered: watch::Sender::new(0),
        };
        let serving = tokio::spawn(serve(listener, server, lines.clone()));
        Proxy {
            address,
            lines,
            serving,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cuts one connection, and loses the bytes that were on their way.
    pub(crate) fn lose(&self, way: Way, after: u32) {
        *self.lines.loss.lock().unwrap() = Some((way, after));
    }

    /// Closes every connection, and all that are made until [`Proxy::mend`].
    pub(crate) fn sever(&self) {
        self.lines.severed.send_replace(true);
    }

    pub(crate) fn mend(&self) {
        self.lines.severed.send_replace(false);
    }

    /// Catches the next request.
    pub(crate) fn catch(&self) {
        self.lines.stop.send_replace(Stop::Catching);
    }

    /// Waits until one is caught.
    pub(crate) async fn caught(&self) {
        let mut stop = self.lines.stop.subscribe();
        stop.wait_for(|stop| *stop == Stop::Caught).await.unwrap();
    }

    /// Lets the caught request go on to the server, and waits for the answer, which nobody gets.
    pub(crate) async fn release(&self) {
        let before = *self.lines.answered.borrow();
        self.lines.stop.send_replace(Stop::Released);
        let mut answered = self.lines.answered.subscribe();
        answered.wait_for(|answered| *answered > before).await.unwrap();
    }

    /// Whether what was to be lost is.
    pub(crate) fn has_lost(&self) -> bool {
        self.lines.loss.lock().unwrap().is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, server: String, lines: Lines) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let (server, lines) = (server.clone(), lines.clone());
        connections.spawn(async move {
            let mut severed = lines.severed.subscribe();
            let Ok(upstream) = TcpStream::connect(server).await else {
                return;
            };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = upstream.into_split();
            // The first to end drops the other: both connections are closed at once.
            tokio::select! {
                biased;
                _ = severed.wait_for(|severed| *severed) => {}
                () = forward(from_client, to_server, Way::ToServer, &lines) => {}
                () = forward(from_server, to_client, Way::ToClient, &lines) => {}
            }
        });
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Way, lines: &Lines) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if is_lost(way, &lines.loss) {
            return;
        }
        if way == Way::ToClient {
            lines.answered.send_modify(|answered| *answered += count as u64);
        }
        if way == Way::ToServer && *lines.stop.borrow() != Stop::None {
            return stop(bytes[..count].to_vec(), from, to, lines).await;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// Holds a request, and lets it go when it is released. Without end: the connection lasts as long as its other direction.
async fn stop(mut held: Vec<u8>, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, lines: &Lines) {
    let rest = async { while let Ok(1..) = from.read_buf(&mut held).await {} };
    let _ = tokio::time::timeout(CATCH, rest).await;
    let mut stop = lines.stop.subscribe();
    lines.stop.send_if_modified(|stop| {
        let first = *stop == Stop::Catching;
        if first {
            *stop = Stop::Caught;
        }
        first
    });
    let _ = stop.wait_for(|stop| *stop == Stop::Released).await;
    let _ = to.write_all(&held).await;
    std::future::pending().await
}

fn is_lost(way: Way, loss: &Loss) -> bool {
    let mut loss = loss.lock().unwrap();
    match &mut *loss {
        Some((lost, 0)) if *lost == way => {
            *loss = None;
            true
        }
        Some((lost, after)) if *lost == way => {
            *after -= 1;
            false
        }
        _ => false,
    }
}
