//! The artifact server: uploads are verified, downloads resume.

use bytes::Bytes;
use fieldfare_controller_peers::Fleet;
use fieldfare_proto::v1::TokenRole;
use fieldfare_release::Sha256Digest;
use http::{Method, Request, StatusCode, header};

fn request(method: Method, path: &str, headers: &[(header::HeaderName, &str)], body: &[u8]) -> Request<Bytes> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    request.body(Bytes::copy_from_slice(body)).unwrap()
}

#[tokio::test]
async fn a_blob_is_what_its_name_says_and_downloads_in_parts() {
    let fleet = Fleet::start().await;
    let who = fleet.operator.clone();
    let bytes = b"0123456789";
    let path = format!("/blobs/sha256/{}", Sha256Digest::of(bytes));
    let put = |body: &'static [u8]| request(Method::PUT, &path, &[], body);
    assert_eq!(
        fleet.http(&who, put(b"0123456780")).await.status(),
        StatusCode::UNPROCESSABLE_ENTITY
    );
    assert_eq!(
        fleet.http(&who, request(Method::GET, &path, &[], b"")).await.status(),
        StatusCode::NOT_FOUND
    );
    assert_eq!(fleet.http(&who, put(bytes)).await.status(), StatusCode::CREATED);
    assert_eq!(fleet.http(&who, put(bytes)).await.status(), StatusCode::CREATED);

    let whole = fleet.http(&who, request(Method::GET, &path, &[], b"")).await;
    assert_eq!(
        (whole.status(), whole.body().as_ref()),
        (StatusCode::OK, bytes.as_slice())
    );
    let etag = whole.headers()[header::ETAG].to_str().unwrap().to_owned();
    let head = fleet.http(&who, request(Method::HEAD, &path, &[], b"")).await;
    assert_eq!(
        (
            head.headers()[header::CONTENT_LENGTH].to_str().unwrap(),
            head.body().len()
        ),
        ("10", 0)
    );

    let cases = [
        (
            vec![(header::RANGE, "bytes=4-")],
            StatusCode::PARTIAL_CONTENT,
            "456789",
            Some("bytes 4-9/10"),
        ),
        (
            vec![(header::RANGE, "bytes=-3")],
            StatusCode::PARTIAL_CONTENT,
            "789",
            Some("bytes 7-9/10"),
        ),
        (
            vec![(header::RANGE, "bytes=10-")],
            StatusCode::RANGE_NOT_SATISFIABLE,
            "",
            Some("bytes */10"),
        ),
        (
            vec![(header::RANGE, "bytes=4-"), (header::IF_RANGE, etag.as_str())],
            StatusCode::PARTIAL_CONTENT,
            "456789",
            Some("bytes 4-9/10"),
        ),
        (
            vec![(header::RANGE, "bytes=4-"), (header::IF_RANGE, "\"other\"")],
            StatusCode::OK,
            "0123456789",
            None,
        ),
        (
            vec![(header::IF_NONE_MATCH, etag.as_str())],
            StatusCode::NOT_MODIFIED,
            "",
            None,
        ),
    ];
    for (headers, status, body, range) in cases {
        let answer = fleet.http(&who, request(Method::GET, &path, &headers, b"")).await;
        let found = answer
            .headers()
            .get(header::CONTENT_RANGE)
            .map(|value| value.to_str().unwrap());
        assert_eq!(
            (answer.status(), answer.body().as_ref(), found),
            (status, body.as_bytes(), range),
            "{headers:?}"
        );
    }
    fleet.stop().await;
}

#[tokio::test]
async fn a_device_reads_no_blob_and_writes_none() {
    let fleet = Fleet::start().await;
    let device = fleet.join(TokenRole::Device, "north").await;
    let path = format!("/blobs/sha256/{}", Sha256Digest::of(b"x"));
    for method in [Method::GET, Method::PUT] {
        assert_eq!(
            fleet.http(&device, request(method, &path, &[], b"x")).await.status(),
            StatusCode::FORBIDDEN
        );
    }
    for path in [
        "/metadata/timestamp.json",
        "/metadata/..%2Ffleet.json",
        "/targets/farm.r1.q8-0.gguf",
    ] {
        assert_eq!(
            fleet.http(&device, request(Method::GET, path, &[], b"")).await.status(),
            StatusCode::NOT_FOUND
        );
    }
    let bad = fleet
        .http(&fleet.operator, request(Method::GET, "/blobs/sha256/zz", &[], b""))
        .await;
    assert_eq!(bad.status(), StatusCode::BAD_REQUEST);
    fleet.stop().await;
}
