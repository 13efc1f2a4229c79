//! A plain HTTP server over an [`Acceptor`], for axum routers and other tower services.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::{Service, ServiceExt};

use crate::acceptor::Acceptor;
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
