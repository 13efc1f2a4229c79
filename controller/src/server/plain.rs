//! Metrics and health checks, without TLS, for whatever scrapes and restarts the process.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::limits::READY_TIMEOUT;
use crate::plane::ControlPlane;

/// `/metrics`, `/healthz` (the process lives) and `/readyz` (it serves, and its store answers).
pub(super) fn router(plane: Arc<ControlPlane>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(plane)
}

async fn metrics(State(plane): State<Arc<ControlPlane>>) -> impl IntoResponse {
    let devices = plane.mirror.read().devices.len();
    match plane.metrics.page(plane.presence.connected(), devices) {
        Ok(page) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, kind)], page).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(plane): State<Arc<ControlPlane>>) -> impl IntoResponse {
    if plane.shutdown.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    match tokio::time::timeout(READY_TIMEOUT, plane.records.store().revision()).await {
        Ok(Ok(_)) => (StatusCode::OK, "ready\n"),
        Ok(Err(_)) | Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n"),
    }
}
