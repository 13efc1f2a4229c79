//! The server without TLS: half requests, crowds, and answers that last.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use crate::serve::{PlainSettings, serve_plain};

const LONG: Duration = Duration::from_secs(30);

struct Running {
    address: std::net::SocketAddr,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
    /// What the answer to `/stream` is made of; one body for each request.
    pieces: mpsc::Sender<mpsc::Receiver<Result<&'static str, Infallible>>>,
}

async fn running(connections_max: usize, head_timeout: Duration) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (pieces, bodies) = mpsc::channel::<mpsc::Receiver<Result<&'static str, Infallible>>>(8);
    let bodies = std::sync::Arc::new(tokio::sync::Mutex::new(bodies));
    let stream = get(move || {
        let bodies = std::sync::Arc::clone(&bodies);
        async move {
            let mut body = bodies.lock().await.recv().await.unwrap();
            let pieces = futures_util::stream::poll_fn(move |cx| body.poll_recv(cx));
            Response::new(Body::from_stream(pieces))
        }
    });
    let router = Router::new()
        .route("/", get(|| async { "here" }))
        .route("/stream", stream);
    let settings = PlainSettings {
        connections_max,
        head_timeout,
        drain_timeout: LONG,
    };
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(serve_plain(listener, settings, router, async { drop(stopped.await) }));
    Running {
        address,
        stop,
        task,
        pieces,
    }
}

async fn open(running: &Running, says: &str) -> TcpStream {
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(says.as_bytes()).await.unwrap();
    stream
}

/// Everything until the server closes; a reset is also an end.
async fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    let read = tokio::time::timeout(LONG, stream.read_to_end(&mut text)).await;
    let _ = read.expect("the server should close");
    String::from_utf8(text).unwrap()
}

async fn is_served(running: &Running) {
    let asked = open(running, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let answer = rest(asked).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("here"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_crowd_of_half_requests_keeps_nobody_out_and_makes_room() {
    let running = running(4, LONG).await;
    let mut crowd = Vec::new();
    for _ in 0..40 {
        crowd.push(open(&running, "GET / HTTP/1.1\r\n").await);
    }
    is_served(&running).await;
    for half in crowd.drain(..36) {
        assert_eq!(rest(half).await, "");
    }
}

#[tokio::test]
async fn half_a_request_and_an_idle_connection_end_in_time() {
    let running = running(4, Duration::from_millis(300)).await;
    rest(open(&running, "GET / HTTP/1.1\r\n").await).await;
    rest(open(&running, "").await).await;
    let kept = open(&running, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(rest(kept).await.ends_with("here"));
    is_served(&running).await;
}

#[tokio::test]
async fn an_answer_in_progress_gives_no_room_and_is_finished_after_the_stop() {
    let running = running(1, Duration::from_millis(300)).await;
    let (piece, body) = mpsc::channel(1);
    running.pieces.send(body).await.unwrap();
    piece.send(Ok("one ")).await.unwrap();
    let mut lasting = open(&running, "GET /stream HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut head = [0; 12];
    lasting.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    assert_eq!(
        rest(open(&running, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await).await,
        ""
    );
    let Running { stop, task, .. } = running;
    stop.send(()).unwrap();
    piece.send(Ok("two")).await.unwrap();
    drop(piece);
    let text = rest(lasting).await;
    assert!(text.contains("one ") && text.contains("two"), "{text}");
    tokio::time::timeout(LONG, task).await.unwrap().unwrap();
}
