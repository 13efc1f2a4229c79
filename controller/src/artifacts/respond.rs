//! The answer to a request for a blob: whole, part, or not modified.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use fieldfare_release::Sha256Digest;

use super::range::{Asked, asked};
use super::{Answer, Failed};
use crate::plane::ControlPlane;

/// Whether the bytes behind a name may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The name contains its digest or its version.
    Immutable,
    /// `timestamp.json`.
    Changing,
}

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether the client has this very representation.
fn has_it(headers: &HeaderMap, etag: &str) -> bool {
    text(headers, &header::IF_NONE_MATCH)
        .is_some_and(|tags| tags.split(',').any(|tag| tag.trim() == etag || tag.trim() == "*"))
}

/// Sends a blob. A `HEAD` request comes here too: axum drops the body.
pub(super) async fn answer_with(plane: &ControlPlane, headers: &HeaderMap, sha256: Sha256Digest, kind: Kind) -> Answer {
    let missing = || Failed(StatusCode::NOT_FOUND, format!("{sha256} is not here"));
    let length = plane.releases.blobs().length(&sha256).await?.ok_or_else(missing)?;
    let etag = format!("\"{sha256}\"");
    let mut answer = Response::builder()
        .header(header::ETAG, &etag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(
            header::CACHE_CONTROL,
            if kind == Kind::Immutable {
                "private, max-age=31536000, immutable"
            } else {
                "no-cache"
            },
        );
    if has_it(headers, &etag) {
        return built(answer.status(StatusCode::NOT_MODIFIED).body(Body::empty()));
    }
    // A range of something else than what the client has a part of would be useless to it.
    let same = text(headers, &header::IF_RANGE).is_none_or(|tag| tag == etag);
    let part = match asked(text(headers, &header::RANGE).filter(|_| same), length) {
        Asked::Whole => 0..length,
        Asked::Part(part) => {
            let content_range = format!("bytes {}-{}/{length}", part.start, part.end - 1);
            answer = answer
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_RANGE, content_range);
            part
        }
        Asked::Unsatisfiable => {
            let content_range = format!("bytes */{length}");
            let answer = answer
                .status(StatusCode::RANGE_NOT_SATISFIABLE)
                .header(header::CONTENT_RANGE, content_range);
            return built(answer.body(Body::empty()));
        }
    };
    let sent = part.end - part.start;
    plane.metrics.blob_sent(sent);
    let bytes = plane.releases.blobs().stream(&sha256, part).await?;
    let mut response = built(answer.body(Body::from_stream(bytes)))?;
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(sent));
    Ok(response)
}

fn built(response: Result<Response<Body>, http::Error>) -> Answer {
    response.map_err(|error| Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}
