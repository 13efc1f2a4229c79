//! `hf://` against a local server: redirects, tokens, connections that break, and lies.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use fieldfare_release::Sha256Digest;
use fieldfare_trainer::download::{Download, DownloadError, Downloaded, Expected, internet_client};
use fieldfare_trainer::import::hub::HubFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const TOKEN: &str = "hf_test";

fn file() -> Vec<u8> {
    (0..200_000_u32)
        .flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 7).to_le_bytes())
        .collect()
}

async fn download(base: &str, path: &Path, token: Option<&str>) -> Result<Downloaded, DownloadError> {
    let hub: HubFile = "hf://owner/repo/model.gguf".parse().unwrap();
    let client = internet_client().unwrap();
    let url = hub.url(base).unwrap();
    let download = Download {
        client: &client,
        url,
        bearer: token,
        path,
        expected: Expected::Anything,
    };
    download.run(|_, _| {}).await
}

/// A hub like the real one: a gated repository whose files a redirect leads to.
async fn hub() -> (String, Arc<AtomicU32>) {
    let ranged = Arc::new(AtomicU32::new(0));
    async fn resolve(headers: HeaderMap) -> Response {
        match headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) {
            Some(value) if value == format!("Bearer {TOKEN}") => Redirect::temporary("/cdn/blob").into_response(),
            _ => StatusCode::UNAUTHORIZED.into_response(),
        }
    }
    async fn blob(State(ranged): State<Arc<AtomicU32>>, headers: HeaderMap) -> Response {
        let bytes = file();
        let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
        let first = range.and_then(|text| text.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let Some(first) = first else {
            return bytes.into_response();
        };
        ranged.fetch_add(1, Ordering::SeqCst);
        let content_range = format!("bytes {first}-{}/{}", bytes.len() - 1, bytes.len());
        (
            StatusCode::PARTIAL_CONTENT,
            [(header::CONTENT_RANGE, content_range)],
            bytes[first..].to_vec(),
        )
            .into_response()
    }
    let router = Router::new()
        .route("/owner/repo/resolve/main/model.gguf", get(resolve))
        .route("/cdn/blob", get(blob))
        .with_state(Arc::clone(&ranged));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
    (base, ranged)
}

#[tokio::test]
async fn a_gated_file_is_fetched_through_its_redirect_with_the_token_and_taken_up_again_from_disk() {
    let (base, ranged) = hub().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("source.gguf");
    let refused = download(&base, &path, None).await.unwrap_err();
    assert!(
        refused.to_string().contains("401") && refused.to_string().contains("HF_TOKEN"),
        "{refused}"
    );
    // What an earlier process had fetched before it died.
    std::fs::write(folder.path().join("source.gguf.part"), &file()[..300_000]).unwrap();
    let done = download(&base, &path, Some(TOKEN)).await.unwrap();
    assert_eq!(done.sha256, Sha256Digest::of(&file()));
    assert_eq!(ranged.load(Ordering::SeqCst), 1, "only the missing part was asked for");
    assert!(std::fs::read(&path).unwrap() == file());
    let missing = download(&format!("{base}/elsewhere"), &folder.path().join("other"), None)
        .await
        .unwrap_err();
    assert!(
        matches!(
            missing,
            DownloadError::Refused {
                status: StatusCode::NOT_FOUND,
                ..
            }
        ),
        "{missing}"
    );
}

/// A server that speaks HTTP by hand: `answer` makes the bytes for the n-th request, and whether it asks for a range, and then
/// the connection ends.
async fn raw(answer: impl Fn(u32, Option<usize>) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for request in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let head = String::from_utf8_lossy(&head).to_lowercase();
            let range = head
                .lines()
                .find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok());
            let _ = stream.write_all(&answer(request, range)).await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

fn head(status: &str, headers: &[(&str, String)]) -> Vec<u8> {
    let lines: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    format!("HTTP/1.1 {status}\r\n{lines}connection: close\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn a_connection_that_breaks_halfway_is_taken_up_again_from_the_last_byte() {
    let address = raw(|_, range| {
        let (bytes, first) = (file(), range.unwrap_or(0));
        let end = bytes.len().min(first + 250_000);
        let mut answer = match range {
            None => head(
                "200 OK",
                &[
                    ("content-length", bytes.len().to_string()),
                    ("etag", "\"v1\"".to_owned()),
                ],
            ),
            Some(_) => head(
                "206 Partial Content",
                &[
                    ("content-length", (bytes.len() - first).to_string()),
                    (
                        "content-range",
                        format!("bytes {first}-{}/{}", bytes.len() - 1, bytes.len()),
                    ),
                ],
            ),
        };
        answer.extend(&bytes[first..end]);
        answer
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let done = download(&format!("http://{address}"), &folder.path().join("source.gguf"), None)
        .await
        .unwrap();
    assert_eq!((done.sha256, done.length), (Sha256Digest::of(&file()), 800_000));
}

/// What a server answers to its n-th request, which may ask for a range.
type Lie = Box<dyn Fn(u32, Option<usize>) -> Vec<u8> + Send>;

#[tokio::test]
async fn a_server_that_lies_about_the_length_is_refused() {
    let cases: [(&str, Lie, &str); 4] = [
        (
            "another length the second time",
            Box::new(|request, range| match range {
                None => [head("200 OK", &[("content-length", "1000".to_owned())]), vec![1; 500]].concat(),
                Some(first) => {
                    let total = 2000 + request;
                    let range = format!("bytes {first}-{}/{total}", total - 1);
                    [
                        head(
                            "206 Partial Content",
                            &[("content-length", "500".to_owned()), ("content-range", range)],
                        ),
                        vec![1; 500],
                    ]
                    .concat()
                }
            }),
            "were expected",
        ),
        (
            "a range that was not asked for",
            Box::new(|_, range| match range {
                None => [head("200 OK", &[("content-length", "1000".to_owned())]), vec![1; 500]].concat(),
                Some(_) => {
                    let range = "bytes 0-999/1000".to_owned();
                    [
                        head(
                            "206 Partial Content",
                            &[("content-length", "1000".to_owned()), ("content-range", range)],
                        ),
                        vec![1; 1000],
                    ]
                    .concat()
                }
            }),
            "asked for bytes from 500",
        ),
        (
            "no length at all",
            Box::new(|_, _| [head("200 OK", &[]), vec![1; 500]].concat()),
            "Content-Length",
        ),
        (
            "more than any model",
            Box::new(|_, _| {
                [
                    head("200 OK", &[("content-length", (1_u64 << 50).to_string())]),
                    vec![1; 500],
                ]
                .concat()
            }),
            "more than the limit",
        ),
    ];
    for (what, answer, reason) in cases {
        let address = raw(answer).await;
        let folder = tempfile::tempdir().unwrap();
        let error = download(&format!("http://{address}"), &folder.path().join("source.gguf"), None)
            .await
            .expect_err(what);
        assert!(error.to_string().contains(reason), "{what}: {error}");
    }
}
