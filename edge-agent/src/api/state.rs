//! `/fieldfare/v1/status`: what the device is doing, for its owner.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use fieldfare_fleet::{Obstacle, Provenance, Timestamp};
use fieldfare_proto::v1;
use fieldfare_tls::Identity;
use fieldfare_tls::limits::RENEWAL_GRACE;
use serde_json::{Value, json};

use super::ApiState;
use crate::openai::provenance;
use crate::session::Connection;
use crate::{clock, clock_proof, process};

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
    let identity = state.identity.current();
    let now = clock::now();
    Json(json!({
        "name": state.config.name,
        "spiffe_id": identity.principal().to_string(),
        "agent_version": env!("CARGO_PKG_VERSION"),
        "profile": {
            "device_model": profile.device_model,
            "emulated": matches!(profile.provenance, Provenance::Emulated { .. }),
        },
        "clock": clock_state(&state, &identity, now),
        "certificate": certificate(&identity, now),
        "controller": connection,
        "serving": serving,
        "installation": installation,
        "training": training(&state),
        "settings": settings,
        // Since the agent started.
        "audit": { "recorded": recorded, "missing": missing },
    }))
}

fn clock_state(state: &ApiState, identity: &Identity, now: Timestamp) -> Value {
    let metadata = clock_proof::metadata_signed(&state.folder);
    match clock_proof::behind(now, identity.certificate().validity, metadata) {
        None => json!({ "state": "plausible", "now": now.to_string() }),
        Some(behind) => json!({ "state": "behind", "now": now.to_string(), "reason": behind.to_string() }),
    }
}

fn certificate(identity: &Identity, now: Timestamp) -> Value {
    let not_after = identity.certificate().validity.not_after();
    let renewable_until = not_after.saturating_add(RENEWAL_GRACE);
    let (state, reason) = match () {
        () if !identity.is_expired(now) => ("valid", Value::Null),
        () if now <= renewable_until => (
            "renewable",
            "it is renewed as soon as a controller can be reached".into(),
        ),
        () => (
            "expired",
            "no controller renews it any more: enrol this device anew in another folder".into(),
        ),
    };
    json!({
        "state": state,
        "reason": reason,
        "not_after": not_after.to_string(),
        "renewable_until": renewable_until.to_string(),
    })
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
        // Of the serving process, since the release that serves was switched to.
        "crashes": observed.evidence.as_ref().map(|evidence| evidence.crashes),
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
