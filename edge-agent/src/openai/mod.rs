//! The OpenAI-compatible endpoints.

mod answer;
mod error;
mod recorded;
mod request;

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

pub use error::{ApiError, Code};
use recorded::Recorded;
pub use request::Kind;

use crate::api::ApiState;
use crate::clock;
use crate::serving::Served;

/// What serves now.
pub(crate) fn served(state: &ApiState) -> Result<Arc<Served>, ApiError> {
    state.serving.borrow().clone().ok_or_else(ApiError::nothing_serves)
}

/// `GET /v1/models`.
pub(crate) async fn models(State(state): State<Arc<ApiState>>) -> Response {
    let listed: Vec<Value> = state.serving.borrow().iter().map(|served| model(served)).collect();
    Json(json!({ "object": "list", "data": listed })).into_response()
}

/// `GET /v1/models/{model}`.
pub(crate) async fn one_model(State(state): State<Arc<ApiState>>, Path(asked): Path<String>) -> Response {
    let found = served(&state).and_then(|served| request::is_served(&asked, &served).map(|()| served));
    match found {
        Ok(served) => Json(model(&served)).into_response(),
        Err(error) => error.into_response(),
    }
}

fn model(served: &Served) -> Value {
    json!({
        "id": served.manifest.model.as_str(),
        "object": "model",
        "created": served.manifest.created.get(),
        "owned_by": "fieldfare",
        "fieldfare": provenance(served),
    })
}

/// Which bytes answer.
pub(crate) fn provenance(served: &Served) -> Value {
    json!({
        "release": served.installed.release.to_string(),
        "variant": served.installed.variant.as_str(),
        "manifest": served.manifest_target.as_str(),
        "manifest_sha256": served.installed.manifest.to_string(),
        "weights_sha256": served.weights.to_string(),
        "adapter_sha256": served.adapter.map(|sha256| sha256.to_string()),
    })
}

/// `POST /v1/completions`.
pub(crate) async fn completions(
    State(state): State<Arc<ApiState>>,
    body: Result<String, axum::extract::rejection::StringRejection>,
) -> Response {
    respond(&state, body, Kind::Completion)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

/// `POST /v1/chat/completions`.
pub(crate) async fn chat_completions(
    State(state): State<Arc<ApiState>>,
    body: Result<String, axum::extract::rejection::StringRejection>,
) -> Response {
    respond(&state, body, Kind::Chat)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

async fn respond(
    state: &ApiState,
    body: Result<String, axum::extract::rejection::StringRejection>,
    kind: Kind,
) -> Result<Response, ApiError> {
    let began = Instant::now();
    let body = body.map_err(|rejection| ApiError::body(&rejection))?;
    let served = served(state)?;
    let seed = clock::random_bytes::<8>()
        .map(u64::from_le_bytes)
        .map_err(|_| ApiError::nothing_serves())?;
    let request = request::parse(&body, kind, seed)?;
    request.check_model(&served)?;
    let running = served
        .engine
        .generate(request.prompt.clone(), request.options.clone())?;
    let running = Recorded::new(running, kind, &served, state.audit.clone(), began);
    let head = answer::Head::new(kind, &served)?;
    let answered = if request.stream {
        answer::stream(head, running, request.include_usage).await
    } else {
        answer::whole(head, running).await
    };
    answered.map_err(|mut error| {
        if error.code == Code::ContextLength {
            error.param = Some(kind.input().to_owned());
        }
        error
    })
}
