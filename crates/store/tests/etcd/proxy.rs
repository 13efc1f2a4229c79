//! A network of one's own between the store and etcd, which loses what it is told to lose.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

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

/// What is lost next: the connection, at the first bytes this way after so many that pass.
type Loss = Arc<Mutex<Option<(Way, u32)>>>;

/// Forwards every connection to one server. Ends when it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    loss: Loss,
    severed: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(server: &str) -> Proxy {
        let server = server.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let loss = Loss::default();
        let severed = watch::Sender::new(false);
        let serving = tokio::spawn(serve(listener, server, Arc::clone(&loss), severed.subscribe()));
        Proxy {
            address,
            loss,
            severed,
            serving,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cuts one connection, and loses the bytes that were on their way.
    pub(crate) fn lose(&self, way: Way, after: u32) {
        *self.loss.lock().unwrap() = Some((way, after));
    }

    /// Closes every connection, and all that are made until [`Proxy::mend`].
    pub(crate) fn sever(&self) {
        self.severed.send_replace(true);
    }

    pub(crate) fn mend(&self) {
        self.severed.send_replace(false);
    }

    /// Whether what was to be lost is.
    pub(crate) fn has_lost(&self) -> bool {
        self.loss.lock().unwrap().is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, server: String, loss: Loss, severed: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let (server, loss, mut severed) = (server.clone(), Arc::clone(&loss), severed.clone());
        connections.spawn(async move {
            let Ok(upstream) = TcpStream::connect(server).await else {
                return;
            };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = upstream.into_split();
            // The first to end drops the other: both connections are closed at once.
            tokio::select! {
                biased;
                _ = severed.wait_for(|severed| *severed) => {}
                () = forward(from_client, to_server, Way::ToServer, &loss) => {}
                () = forward(from_server, to_client, Way::ToClient, &loss) => {}
            }
        });
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Way, loss: &Loss) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if is_lost(way, loss) || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
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
