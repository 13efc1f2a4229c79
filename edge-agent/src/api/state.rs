//! `/fieldfare/v1/status`: what the device is doing, for its owner.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use fieldfare_fleet::{Obstacle, Provenance};
use fieldfare_proto::v1;
use serde_json::{Value, json};

use super::ApiState;
use crate::openai::provenance;
use crate::process;
use crate::session::Connection;

/// `GET`.
pub(super) async fn status(State(state): State<Arc<ApiState>>) -> Json<Value> {
    let connection = match &*state.connection.borrow() {
        Connection::Connecting => json!({ "state": "connecting" }),
        Connection::Up(gateway) => json!({ "state": "connected", "gateway": gateway }),
        Connection::Down(reason) => json!({ "state": "disconnected", "reason": reason }),
    };
    let serving = state.serving.borrow().as_deref().map(provenance);
    let installation: Vec<Value> = state.observed.borrow().models.iter().map(model).collect();
    let settings = state.settings.current();
    let profile = &state.config.profile;
    let (recorded, missing) = state.audit.counts();
    Json(json!({
        "name": state.config.name,
        "spiffe_id": state.spiffe_id,
        "agent_version": env!("CARGO_PKG_VERSION"),
        "profile": {
            "device_model": profile.device_model,
            "emulated": matches!(profile.provenance, Provenance::Emulated { .. }),
        },
        "controller": connection,
        "serving": serving,
        "installation": installation,
        "training": training(&state),
        "settings": settings,
        // Since the agent started.
        "audit": { "recorded": recorded, "missing": missing },
    }))
}

fn model(observed: &v1::ObservedModel) -> Value {
    let progress = match observed.progress.as_ref().and_then(|progress| progress.kind.as_ref()) {
        Some(v1::progress::Kind::Working(stage)) => {
            let stage = v1::InstallStage::try_from(*stage).map_or("", |stage| stage.as_str_name());
            json!({ "state": "working", "stage": stage.trim_start_matches("INSTALL_STAGE_").to_lowercase() })
        }
        Some(v1::progress::Kind::Converged(_)) => json!({ "state": "converged" }),
        Some(v1::progress::Kind::CannotConverge(obstacle)) => {
            let reason = Obstacle::try_from(obstacle.clone()).map_or_else(|e| e.to_string(), |o| o.to_string());
            json!({ "state": "cannot_converge", "reason": reason })
        }
        None => Value::Null,
    };
    json!({
        "deployment": observed.deployment,
        "target": observed.target_release,
        "progress": progress,
        "fetched_bytes": observed.fetched_bytes,
        "total_bytes": observed.total_bytes,
    })
}

fn training(state: &ApiState) -> Value {
    let rounds = state.rounds.borrow().clone();
    let delta = state.settings.current().budget.delta();
    let spending = match state.private.spending(delta) {
        Ok(spending) => json!({
            "epsilon": spending.epsilon.get(),
            "delta": spending.delta.get(),
            "accountant": spending.accountant.to_string(),
            "contributions": spending.charges,
        }),
        Err(error) => json!({ "error": process::chain(&error) }),
    };
    json!({
        "examples": state.private.count().ok(),
        "spent": spending,
        "busy": rounds.busy,
        "last": rounds.last,
    })
}
