//! Metrics and health, as a scraper and a supervisor see them.

use std::collections::BTreeMap;

use bytes::Bytes;
use fieldfare_controller_peers::device::{Session, hello, obedient};
use fieldfare_controller_peers::release::{Signer, release};
use fieldfare_controller_peers::{Fleet, refusal};
use fieldfare_proto::v1::TokenRole;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::rollouts::{apply, outcome, spec};

pub(crate) async fn get(fleet: &Fleet, path: &str) -> http::Response<String> {
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
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    http::Response::from_parts(head, String::from_utf8(body).unwrap())
}

/// The samples of a page in the OpenMetrics text format, which must keep its rules: each family is described before its samples,
/// counters end in `_total`, and the page ends with `# EOF`.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let body = page.strip_suffix("# EOF\n").expect("the page ends with # EOF");
    let (mut types, mut helps) = (BTreeMap::new(), BTreeMap::new());
    let mut samples = BTreeMap::new();
    for line in body.lines() {
        if let Some(described) = line.strip_prefix("# TYPE ") {
            let (family, kind) = described.split_once(' ').unwrap();
            assert!(types.insert(family, kind).is_none(), "{family} is described twice");
        } else if let Some(described) = line.strip_prefix("# HELP ") {
            let (family, help) = described.split_once(' ').unwrap();
            assert!(help.ends_with('.'), "{line}");
            helps.insert(family, help);
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
            let name = sample.split('{').next().unwrap();
            let (kind, family) = match name.strip_suffix("_total") {
                Some(family) => ("counter", family),
                None => ("gauge", name),
            };
            assert_eq!(types.get(family), Some(&kind), "{line}");
            assert!(helps.contains_key(family) && family.starts_with("fieldfare_"), "{line}");
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line:?}"));
            assert!(samples.insert(sample.to_owned(), value).is_none(), "{line} comes twice");
        }
    }
    samples
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let fleet = Fleet::start().await;
    let before = samples(get(&fleet, "/metrics").await.body());
    assert_eq!(
        (before["fieldfare_enrolments_total"], before["fieldfare_devices"]),
        (0.0, 0.0)
    );
    let device = fleet.join(TokenRole::Device, "north").await;
    let first = Session::open(&fleet, &device, hello("north")).await.unwrap();
    let _second = Session::open(&fleet, &device, hello("north")).await.unwrap();
    refusal(first.end().await);
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    signer.publish(&fleet, &release(1)).await.unwrap();
    obedient(&fleet, "south", 0).await;
    let mut to_south = spec(1);
    to_south.selector = "site=south".to_owned();
    apply(&fleet, to_south).await.unwrap();
    outcome(&fleet).await;

    let page = get(&fleet, "/metrics").await;
    let kind = page.headers()[http::header::CONTENT_TYPE].to_str().unwrap();
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let after = samples(page.body());
    let stored = release(1).artifacts.iter().map(Vec::len).sum::<usize>() as f64;
    for (name, value) in [
        ("fieldfare_enrolments_total", 2.0),
        ("fieldfare_enrolments_refused_total", 0.0),
        ("fieldfare_sessions_opened_total", 3.0),
        ("fieldfare_sessions_fenced_total", 1.0),
        ("fieldfare_sessions", 2.0),
        ("fieldfare_devices", 2.0),
        ("fieldfare_blob_bytes_received_total", stored),
        ("fieldfare_blob_bytes_sent_total", 0.0),
        ("fieldfare_rollout_milestones_total{milestone=\"wave_passed\"}", 2.0),
        ("fieldfare_rollout_milestones_total{milestone=\"completed\"}", 1.0),
    ] {
        assert_eq!(after.get(name), Some(&value), "{name} in\n{}", page.body());
    }
    fleet.stop().await;
}

#[tokio::test]
async fn a_supervisor_is_told_that_the_process_lives_and_is_ready() {
    let fleet = Fleet::start().await;
    let health = get(&fleet, "/healthz").await;
    assert_eq!((health.status().as_u16(), health.body().as_str()), (200, "ok\n"));
    let ready = get(&fleet, "/readyz").await;
    assert_eq!((ready.status().as_u16(), ready.body().as_str()), (200, "ready\n"));
    assert_eq!(get(&fleet, "/nothing").await.status().as_u16(), 404);
    fleet.stop().await;
}
