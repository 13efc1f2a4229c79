//! `/fieldfare/v1/settings`: what the owner may change while the agent runs.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::StringRejection;
use fieldfare_files::{self as files, FileError, Secrecy};
use fieldfare_fleet::ByteSize;
use serde_json::Value;
use tokio::sync::watch;

use super::ApiState;
use crate::config::Settings;
use crate::folder::Folder;
use crate::openai::{ApiError, Code};
use crate::process;

/// Owns the settings: they are on the disk before anybody sees them.
#[derive(Debug)]
pub struct SettingsOwner {
    folder: Folder,
    current: watch::Sender<Settings>,
    /// Most memory that the profile allows.
    most_memory: ByteSize,
}

impl SettingsOwner {
    /// The settings of a folder.
    pub fn new(folder: Folder, settings: Settings, most_memory: ByteSize) -> Self {
        Self {
            folder,
            current: watch::Sender::new(settings),
            most_memory,
        }
    }

    /// The settings as they change.
    pub fn subscribe(&self) -> watch::Receiver<Settings> {
        self.current.subscribe()
    }

    /// The settings now.
    pub fn current(&self) -> Settings {
        self.current.borrow().clone()
    }

    fn replace(&self, settings: Settings) -> Result<(), FileError> {
        files::replace_json(&self.folder.settings(), &settings, Secrecy::Secret)?;
        self.current.send_replace(settings);
        Ok(())
    }

    /// The settings with some fields replaced.
    fn merged(&self, changes: &Value) -> Result<Settings, String> {
        let changes = changes.as_object().ok_or("the body is not a JSON object")?;
        let mut merged = serde_json::to_value(self.current()).map_err(|error| error.to_string())?;
        for (name, value) in changes {
            let known = merged
                .get_mut(name)
                .ok_or_else(|| format!("there is no setting `{name}`"))?;
            *known = value.clone();
        }
        let settings: Settings = serde_json::from_value(merged).map_err(|error| error.to_string())?;
        settings.validate()?;
        if settings.model_memory == ByteSize::ZERO {
            return Err("`model_memory` is 0, with which no model runs: stop the agent instead".to_owned());
        }
        if settings.model_memory > self.most_memory {
            return Err(format!(
                "`model_memory` is {}, and the profile allows {}",
                settings.model_memory, self.most_memory
            ));
        }
        Ok(settings)
    }
}

/// `GET`.
pub(super) async fn show(State(state): State<Arc<ApiState>>) -> Json<Settings> {
    Json(state.settings.current())
}

/// `PATCH` and `PUT`: replaces the fields that the body names.
pub(super) async fn change(
    State(state): State<Arc<ApiState>>,
    body: Result<String, StringRejection>,
) -> Result<Json<Settings>, ApiError> {
    let body = body.map_err(|rejection| ApiError::body(&rejection))?;
    let invalid = |message: String| ApiError::new(Code::InvalidRequest, message);
    let changes: Value =
        serde_json::from_str(&body).map_err(|error| invalid(format!("the body is not JSON: {error}")))?;
    let settings = state.settings.merged(&changes).map_err(invalid)?;
    state
        .settings
        .replace(settings)
        .map_err(|error| ApiError::new(Code::Model, process::chain(&error)))?;
    Ok(Json(state.settings.current()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Consent;

    #[test]
    fn settings_are_changed_field_by_field_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Folder::new(folder.path());
        folder.create().unwrap();
        let most = ByteSize::from_mib(64);
        let owner = SettingsOwner::new(folder.clone(), Settings::new(Consent::Withheld, most), most);
        let change = json!({ "consent": "given", "idle": { "when": { "max_load_per_core": 0.5 } } });
        owner.replace(owner.merged(&change).unwrap()).unwrap();
        assert_eq!(owner.current().consent, Consent::Given);
        assert_eq!(Settings::load(&folder).unwrap(), owner.current());
        for (wrong, expected) in [
            (json!([]), "not a JSON object"),
            (json!({ "colour": 1 }), "no setting `colour`"),
            (json!({ "consent": "maybe" }), "maybe"),
            (json!({ "model_memory": 1u64 << 40 }), "`model_memory`"),
            (json!({ "model_memory": 0 }), "`model_memory` is 0"),
            (json!({ "budget": { "epsilon": -1.0, "delta": 1e-5 } }), "epsilon"),
            (json!({ "api_listen": "0.0.0.0:1" }), "`api_listen`"),
        ] {
            let error = owner.merged(&wrong).unwrap_err();
            assert!(error.contains(expected), "{error}: no {expected:?}");
        }
    }
}
