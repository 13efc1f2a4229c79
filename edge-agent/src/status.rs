//! `fieldfare-agent status`: asks the agent of a folder through its local API.

use anyhow::Context;
use serde_json::Value;

use crate::args::Output;
use crate::folder::Folder;
use fieldfare_member::files;

/// What the agent of a folder says of itself, as text.
///
/// # Errors
/// No agent runs in the folder, or it does not answer.
pub async fn status(folder: &Folder, output: Output) -> anyhow::Result<String> {
    let endpoints: Option<Value> = files::read_json(&folder.endpoints())?;
    let api = endpoints.as_ref().and_then(|endpoints| endpoints.get("api")?.as_str());
    let api = api.with_context(|| format!("no agent runs in {}", folder.path().display()))?;
    let token = files::read(&folder.api_token())?.context("the agent has no api-token file")?;
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_backend_preconfigured(no_tls()?)
        .build()?;
    let asked = client
        .get(format!("{api}/fieldfare/v1/status"))
        .bearer_auth(String::from_utf8_lossy(&token).trim())
        .send();
    let answer: Value = asked
        .await
        .context("the agent does not answer")?
        .error_for_status()?
        .json()
        .await?;
    match output {
        Output::Json => Ok(serde_json::to_string_pretty(&answer)?),
        Output::Text => Ok(text(&answer)),
    }
}

/// The local API speaks plain HTTP on loopback; this configuration trusts nobody.
fn no_tls() -> anyhow::Result<rustls::ClientConfig> {
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
