//! Metrics and health, as a scraper and a supervisor see them.

use bytes::Bytes;
use fieldfare_proto::v1::TokenRole;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::fixture::Fleet;
use crate::sessions::{Session, hello};

async fn get(fleet: &Fleet, path: &str) -> (u16, String) {
    let authority = fleet.endpoints.metrics.strip_prefix("http://").unwrap();
    let stream = TcpStream::connect(authority).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::builder()
        .uri(path)
        .header(http::header::HOST, authority)
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    (
        status,
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap(),
    )
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let fleet = Fleet::start().await;
    let device = fleet.join(TokenRole::Device, "north").await;
    let _session = Session::open(&fleet, &device, hello("north")).await.unwrap();
    let (status, page) = get(&fleet, "/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "fieldfare_enrolments_total 1",
        "fieldfare_sessions 1",
        "fieldfare_devices 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    assert_eq!(get(&fleet, "/healthz").await.0, 200);
    assert_eq!(get(&fleet, "/readyz").await, (200, "ready\n".to_owned()));
    fleet.stop().await;
}
