//! HTTP servers for axum routers and other tower services: over an [`Acceptor`], and without TLS for one machine.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tower::{Service, ServiceExt};

use crate::acceptor::{Acceptor, pause_after};
use crate::connection::Connection;
use crate::limits::{
    HTTP2_WINDOW, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, MAX_STREAMS, REQUEST_DRAIN_TIMEOUT, REQUEST_HEAD_TIMEOUT,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Serves HTTP/1.1 and HTTP/2 with a tower service, such as an axum router, until `shutdown` ends; then lets running
/// requests finish for a while and returns. Each request has the [`crate::PeerIdentity`] in its extensions.
pub async fn serve_http<S, B>(mut acceptor: Acceptor, service: S, shutdown: impl Future<Output = ()>)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Failure>,
{
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(connection) = acceptor.accept() => {
                connections.spawn(serve_connection(connection, service.clone(), stopped.clone()));
            }
            Some(_) = connections.join_next() => {}
            else => break,
        }
    }
    drop(acceptor);
    stop.send_replace(true);
    // What is not done by then is cut off as the set is dropped.
    let _ = tokio::time::timeout(REQUEST_DRAIN_TIMEOUT, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
}

async fn serve_connection<S, B>(connection: Connection, service: S, mut stopped: watch::Receiver<bool>)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Failure>,
{
    let peer = connection.peer().clone();
    let service = service.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(HTTP2_WINDOW)
        .initial_connection_window_size(HTTP2_WINDOW)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(connection), TowerToHyperService::new(service)));
    let mut told_to_stop = pin!(async { drop(stopped.wait_for(|stopped| *stopped).await) });
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = &mut told_to_stop => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "HTTP connection ended");
    }
}

/// How [`serve_plain`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainSettings {
    /// Open connections, at least 1. Beyond it the oldest without a request in progress makes room; where each has one, the newcomer
    /// is closed.
    pub connections_max: usize,
    /// How long a client may take to send the head of a request, and to send another one.
    pub head_timeout: Duration,
    /// How long running requests may go on after it was told to stop.
    pub drain_timeout: Duration,
}

/// Serves HTTP/1.1 without TLS until `shutdown` ends; then lets running requests finish for a while and returns.
pub async fn serve_plain<S, B>(
    listener: TcpListener,
    settings: PlainSettings,
    service: S,
    shutdown: impl Future<Output = ()>,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Failure>,
{
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut open: VecDeque<(AbortHandle, Arc<AtomicUsize>)> = VecDeque::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        open.retain(|(connection, _)| !connection.is_finished());
        if open.len() >= settings.connections_max.max(1) {
            let idle = open
                .iter()
                .position(|(_, working)| working.load(Ordering::Relaxed) == 0);
            let Some((oldest, _)) = idle.and_then(|idle| open.remove(idle)) else {
                continue;
            };
            oldest.abort();
        }
        let working = Arc::new(AtomicUsize::new(0));
        let head = settings.head_timeout;
        let connection = serve_plain_connection(stream, head, service.clone(), Arc::clone(&working), stopped.clone());
        open.push_back((connections.spawn(connection), working));
    }
    drop(listener);
    stop.send_replace(true);
    // What is not done by then is cut off as the set is dropped.
    let _ = tokio::time::timeout(settings.drain_timeout, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
}

/// A request in progress, to the end of its answer.
struct Working(Arc<AtomicUsize>);

impl Working {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve_plain_connection<S, B>(
    stream: TcpStream,
    head_timeout: Duration,
    service: S,
    count: Arc<AtomicUsize>,
    mut stopped: watch::Receiver<bool>,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Failure>,
{
    // An answer that streams is a few bytes at a time; without it they come late, and nothing else.
    let _ = stream.set_nodelay(true);
    let service = tower::service_fn(move |request| {
        let (working, service) = (Working::begin(&count), service.clone());
        async move {
            let response = service.oneshot(request).await?;
            Ok::<_, Infallible>(response.map(|body| {
                body.map_frame(move |frame| {
                    let _until_the_end = &working;
                    frame
                })
            }))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head_timeout);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)));
    let mut told_to_stop = pin!(async { drop(stopped.wait_for(|stopped| *stopped).await) });
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = &mut told_to_stop => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "HTTP connection ended");
    }
}
