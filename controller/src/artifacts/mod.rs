//! The artifact server: blobs by digest, and the release repository's metadata and targets. Plain HTTPS with ranges, so that
//! anything can resume and cache it.

mod range;
mod respond;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use fieldfare_fleet::limits::MAX_CONTRIBUTION_BYTES;
use fieldfare_proto::v1::audit_record::Event;
use fieldfare_proto::v1::{AuditCall, AuditOutcome};
use fieldfare_release::{Sha256Digest, TargetName};
use futures_util::{StreamExt, TryStreamExt};
use tonic::{Code, Extensions};

use crate::access::{Caller, is_enrolled, peer};
use crate::blobs::BlobError;
use crate::limits::UPLOAD_SILENCE;
use crate::plane::ControlPlane;
use crate::refusal::{Refusal, chain};
use respond::{Kind, answer_with};

// A state of a federated job is as large as a contribution; blobs hold both.
const _: () = assert!(crate::limits::BLOB_BYTES_MAX > MAX_CONTRIBUTION_BYTES);

/// Why a request for an artifact is answered with an error.
#[derive(Debug)]
struct Failed(StatusCode, String);

type Answer = Result<Response<Body>, Failed>;

impl IntoResponse for Failed {
    fn into_response(self) -> Response<Body> {
        let Self(status, text) = self;
        (
            status,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            text + "\n",
        )
            .into_response()
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::Anonymous(_) => StatusCode::UNAUTHORIZED,
            Refusal::Forbidden(_) => StatusCode::FORBIDDEN,
            Refusal::Missing { .. } => StatusCode::NOT_FOUND,
            Refusal::Invalid { .. } => StatusCode::BAD_REQUEST,
            Refusal::Store(_) | Refusal::Unrecorded(_) | Refusal::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status.is_server_error() {
            tracing::error!(error = chain(&refusal), "a request for an artifact failed");
        }
        Self(status, refusal.to_string())
    }
}

impl From<BlobError> for Failed {
    fn from(error: BlobError) -> Self {
        let status = match &error {
            BlobError::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            BlobError::Mismatch(_) => StatusCode::UNPROCESSABLE_ENTITY,
            BlobError::BrokenOff { .. } => StatusCode::BAD_REQUEST,
            BlobError::Objects(_) | BlobError::Folder(_) => {
                tracing::error!(error = chain(&error), "the object store failed");
                return Self(StatusCode::INTERNAL_SERVER_ERROR, "the object store failed".to_owned());
            }
        };
        Self(status, chain(&error))
    }
}

/// The routes. Each checks the caller itself, by the identity of the connection.
pub fn router(plane: Arc<ControlPlane>) -> Router {
    Router::new()
        .route("/blobs/sha256/{digest}", get(get_blob).put(put_blob))
        .route("/targets/{name}", get(get_target))
        .route("/metadata/{name}", get(get_metadata))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(plane)
}

fn digest(text: &str) -> Result<Sha256Digest, Failed> {
    text.parse()
        .map_err(|error| Failed(StatusCode::BAD_REQUEST, format!("{error}")))
}

/// Raw blobs are for those who make releases: an artifact that is not released is nobody else's business.
fn maker(plane: &ControlPlane, extensions: &Extensions) -> Result<(), Failed> {
    match plane.access.caller(extensions)? {
        Caller::Operator(_) | Caller::Trainer(_) => Ok(()),
        Caller::Device(_) => Err(Failed(
            StatusCode::FORBIDDEN,
            "blobs are for operators and trainers".to_owned(),
        )),
    }
}

async fn anyone_enrolled(plane: &ControlPlane, extensions: &Extensions) -> Result<(), Failed> {
    let Caller::Device(id) = plane.access.caller(extensions)? else {
        return Ok(());
    };
    if is_enrolled(id, &plane.mirror).is_err() {
        plane.catch_up().await?;
        is_enrolled(id, &plane.mirror)?;
    }
    Ok(())
}

async fn put_blob(State(plane): State<Arc<ControlPlane>>, Path(name): Path<String>, request: Request<Body>) -> Answer {
    maker(&plane, request.extensions())?;
    let sha256 = digest(&name)?;
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let length =
        length.ok_or_else(|| Failed(StatusCode::LENGTH_REQUIRED, "a blob needs a Content-Length".to_owned()))?;
    let principal = peer(request.extensions())?.principal();
    let call = AuditCall {
        spiffe_id: principal
            .map_err(|error| Refusal::Anonymous(error.to_string()))?
            .to_string(),
        method: format!("PUT /blobs/sha256/{sha256}"),
        request_sha256: sha256.as_bytes().to_vec(),
        request_bytes: length,
        ..AuditCall::default()
    };
    // A task of its own: an uploader that goes away is in the log, too.
    let stored = plane
        .calls
        .spawn(store_blob(Arc::clone(&plane), call, sha256, request.into_body()));
    let failed = |_| Failed(StatusCode::INTERNAL_SERVER_ERROR, "the upload failed".to_owned());
    stored.await.map_err(failed)?
}

/// Stores a blob; the audit log says so before, and what came of it.
async fn store_blob(plane: Arc<ControlPlane>, call: AuditCall, sha256: Sha256Digest, body: Body) -> Answer {
    let length = call.request_bytes;
    let of_record = plane.audit.record(Event::Call(call)).await?;
    let chunks = body.into_data_stream().map_err(std::io::Error::other);
    let chunks = tokio_stream::StreamExt::timeout(chunks, UPLOAD_SILENCE).map(|chunk| {
        chunk.unwrap_or_else(|_| {
            Err(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                "no bytes came for too long",
            ))
        })
    });
    let stored = plane.releases.blobs().put_stream(sha256, length, chunks).await;
    let mut outcome = AuditOutcome {
        of_record,
        ..AuditOutcome::default()
    };
    if let Err(error) = &stored {
        (outcome.code, outcome.detail) = (Code::Aborted as u32, chain(error));
    }
    plane.audit.record(Event::Outcome(outcome)).await?;
    stored?;
    plane.metrics.blob_received(length);
    Ok(StatusCode::CREATED.into_response())
}

async fn get_blob(State(plane): State<Arc<ControlPlane>>, Path(name): Path<String>, request: Request<Body>) -> Answer {
    maker(&plane, request.extensions())?;
    answer_with(&plane, request.headers(), digest(&name)?, Kind::Immutable).await
}

/// `<sha256>.<target name>`, as consistent snapshots name targets. The metadata that lists it is what makes it trusted.
async fn get_target(
    State(plane): State<Arc<ControlPlane>>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Answer {
    anyone_enrolled(&plane, request.extensions()).await?;
    let missing = || Failed(StatusCode::NOT_FOUND, format!("{name} is no listed target"));
    let (sha256, target) = name.split_once('.').ok_or_else(missing)?;
    let sha256 = sha256.parse().map_err(|_| missing())?;
    let target: TargetName = target.parse().map_err(|_| missing())?;
    if !plane.releases.is_listed(&target, &sha256).await? {
        return Err(missing());
    }
    answer_with(&plane, request.headers(), sha256, Kind::Immutable).await
}

async fn get_metadata(
    State(plane): State<Arc<ControlPlane>>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Answer {
    anyone_enrolled(&plane, request.extensions()).await?;
    let sha256 = plane.releases.file(&name).await?;
    let sha256 = sha256.ok_or_else(|| Failed(StatusCode::NOT_FOUND, format!("{name} is no current metadata")))?;
    let kind = if name == "timestamp.json" {
        Kind::Changing
    } else {
        Kind::Immutable
    };
    let headers: &HeaderMap = request.headers();
    answer_with(&plane, headers, sha256, kind).await
}
