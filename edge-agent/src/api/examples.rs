//! `/fieldfare/v1/examples` and `/fieldfare/v1/evaluate`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection, StringRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use fieldfare_lm::example::Example;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiState;
use crate::limits::{MAX_EXAMPLE_BYTES, MAX_EXAMPLES, MAX_EXAMPLES_PER_REQUEST, MAX_PAGE};
use crate::openai::{self, ApiError, Code};
use crate::private::{PrivateStore, StoreError};
use crate::process;

type Answer = Result<Response, ApiError>;
type Body = Result<String, StringRejection>;
type Id = Result<Path<u64>, PathRejection>;

fn failed(error: &StoreError) -> ApiError {
    tracing::error!(error = process::chain(error), "the private store failed");
    ApiError::new(Code::Model, process::chain(error))
}

/// Runs a call of the store, which blocks.
async fn on_store<T: Send + 'static>(
    state: &ApiState,
    call: impl FnOnce(&PrivateStore) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, ApiError> {
    let private = Arc::clone(&state.private);
    let done = tokio::task::spawn_blocking(move || call(&private)).await;
    done.map_err(|error| ApiError::new(Code::Model, error.to_string()))?
        .map_err(|error| failed(&error))
}

fn examples(body: Body) -> Result<Vec<Example>, ApiError> {
    let body = body.map_err(|rejection| ApiError::body(&rejection))?;
    let examples = Example::from_body(&body, MAX_EXAMPLE_BYTES)
        .map_err(|error| ApiError::new(Code::InvalidRequest, process::chain(&error)))?;
    match examples.len() {
        0 => Err(ApiError::new(Code::InvalidRequest, "the body has no example")),
        found if found > MAX_EXAMPLES_PER_REQUEST => {
            let message = format!("the body has {found} examples, and the limit is {MAX_EXAMPLES_PER_REQUEST}");
            Err(ApiError::new(Code::TooLarge, message))
        }
        _ => Ok(examples),
    }
}

fn id(id: Id) -> Result<u64, ApiError> {
    id.map(|Path(id)| id)
        .map_err(|rejection| ApiError::field("id", rejection.body_text()))
}

fn no_such(id: u64) -> ApiError {
    ApiError::new(Code::NotFound, format!("there is no example {id}"))
}

/// `POST`: adds one or many, all or none.
pub(super) async fn add(State(state): State<Arc<ApiState>>, body: Body) -> Answer {
    let examples = examples(body)?;
    let ids = on_store(&state, move |store| store.add(&examples)).await?;
    let full = || {
        ApiError::new(
            Code::TooLarge,
            format!("the device keeps at most {MAX_EXAMPLES} examples"),
        )
    };
    let ids = ids.ok_or_else(full)?;
    Ok((StatusCode::CREATED, Json(json!({ "added": ids.len(), "ids": ids }))).into_response())
}

/// Where a page begins, and how long it is.
#[derive(Debug, Deserialize)]
pub(super) struct Paging {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

/// `GET`: a page of examples.
pub(super) async fn list(State(state): State<Arc<ApiState>>, paging: Result<Query<Paging>, QueryRejection>) -> Answer {
    let Query(paging) = paging.map_err(|rejection| ApiError::new(Code::InvalidRequest, rejection.body_text()))?;
    let limit = paging.limit.unwrap_or(100).clamp(1, MAX_PAGE);
    let page = on_store(&state, move |store| store.page(paging.after, limit)).await?;
    Ok(Json(page).into_response())
}

/// `PUT` of one: corrects it.
pub(super) async fn correct(State(state): State<Arc<ApiState>>, path: Id, body: Body) -> Answer {
    let id = id(path)?;
    let mut examples = examples(body)?;
    let (Some(example), true) = (examples.pop(), examples.is_empty()) else {
        return Err(ApiError::new(Code::InvalidRequest, "expected exactly one example"));
    };
    let found = on_store(&state, move |store| store.correct(id, &example)).await?;
    if found {
        Ok(Json(json!({ "corrected": id })).into_response())
    } else {
        Err(no_such(id))
    }
}

/// `DELETE` of one.
pub(super) async fn erase(State(state): State<Arc<ApiState>>, path: Id) -> Answer {
    let id = id(path)?;
    let found = on_store(&state, move |store| store.erase(id)).await?;
    if found {
        Ok(Json(json!({ "erased": 1 })).into_response())
    } else {
        Err(no_such(id))
    }
}

/// `DELETE` of all.
pub(super) async fn erase_all(State(state): State<Arc<ApiState>>) -> Answer {
    let erased = on_store(&state, PrivateStore::erase_all).await?;
    Ok(Json(json!({ "erased": erased })).into_response())
}

/// `POST /fieldfare/v1/evaluate`: measures what serves on the examples of the body, which are not kept.
pub(super) async fn evaluate(State(state): State<Arc<ApiState>>, body: Body) -> Answer {
    let examples = examples(body)?;
    let served = openai::served(&state)?;
    let measured = served.engine.evaluate(examples).await?;
    let mut answer: Value = openai::provenance(&served);
    answer["examples"] = json!(measured.examples);
    answer["tokens"] = json!(measured.tokens);
    answer["loss_nats_per_token"] = json!(measured.loss());
    answer["completions"] = json!(measured.completions);
    answer["exact"] = json!(measured.exact);
    answer["exact_match"] = json!(measured.exact_match());
    Ok(Json(answer).into_response())
}
