//! `fieldfare-agent status`: asks the agent of a folder through its local API.

use fieldfare_files::{self as files, FileError};
use serde_json::Value;

use crate::args::Output;
use crate::folder::Folder;
use crate::limits::LOCAL_API_TIMEOUT;

/// Why the agent of a folder says nothing.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// None runs there.
    #[error("no agent runs in {path}")]
    NotRunning {
        /// In which folder.
        path: String,
    },
    /// A file of the folder cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no token.
    #[error("the agent has no api-token file")]
    NoToken,
    /// The TLS library refuses the settings.
    #[error("the TLS library refuses the settings")]
    Tls(#[from] rustls::Error),
    /// It does not answer, or not as it should.
    #[error("the agent does not answer")]
    Request(#[from] reqwest::Error),
}

/// Asks the agent of a folder what it is doing.
///
/// # Errors
/// [`AskError`].
pub async fn ask(folder: &Folder) -> Result<Value, AskError> {
    let endpoints: Option<Value> = files::read_json(&folder.endpoints())?;
    let api = endpoints.as_ref().and_then(|endpoints| endpoints.get("api")?.as_str());
    let api = api.ok_or_else(|| AskError::NotRunning {
        path: folder.path().display().to_string(),
    })?;
    let token = files::read(&folder.api_token())?.ok_or(AskError::NoToken)?;
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_backend_preconfigured(no_tls()?)
        .timeout(LOCAL_API_TIMEOUT)
        .build()?;
    let asked = client
        .get(format!("{api}/fieldfare/v1/status"))
        .bearer_auth(String::from_utf8_lossy(&token).trim())
        .send();
    Ok(asked.await?.error_for_status()?.json().await?)
}

/// What the agent of a folder says of itself, as text.
///
/// # Errors
/// No agent runs in the folder, or it does not answer.
pub async fn status(folder: &Folder, output: Output) -> anyhow::Result<String> {
    let answer = ask(folder).await?;
    match output {
        Output::Json => Ok(serde_json::to_string_pretty(&answer)?),
        Output::Text => Ok(text(&answer)),
    }
}

/// The local API speaks plain HTTP on loopback; this configuration trusts nobody.
fn no_tls() -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth())
}

fn text(status: &Value) -> String {
    let at = |pointer: &str| match status.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    let emulated = if at("/profile/emulated") == "true" {
        " (emulated)"
    } else {
        ""
    };
    let clock = match at("/clock/state").as_str() {
        "behind" => at("/clock/reason"),
        _ => at("/clock/now"),
    };
    let rows = [
        ("device", format!("{} {}", at("/name"), at("/spiffe_id"))),
        ("profile", format!("{}{emulated}", at("/profile/device_model"))),
        ("clock", clock),
        (
            "certificate",
            format!("{}, until {}", at("/certificate/state"), at("/certificate/not_after")),
        ),
        (
            "controller",
            format!("{} {}", at("/controller/state"), at("/controller/gateway")),
        ),
        (
            "serving",
            format!("{} {}", at("/serving/release"), at("/serving/variant")),
        ),
        (
            "target",
            format!(
                "{} {}",
                at("/installation/0/target"),
                at("/installation/0/progress/state")
            ),
        ),
        ("reason", at("/installation/0/progress/reason")),
        ("examples", at("/training/examples")),
        (
            "spent",
            format!(
                "epsilon {} at delta {}",
                at("/training/spent/epsilon"),
                at("/training/spent/delta")
            ),
        ),
        ("consent", at("/settings/consent")),
        (
            "audit",
            format!("{} recorded, {} missing", at("/audit/recorded"), at("/audit/missing")),
        ),
    ];
    rows.iter()
        .map(|(name, value)| format!("{name:<12}{}\n", value.trim_end()))
        .collect()
}
