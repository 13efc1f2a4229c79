//! `fieldfare devices`: enrolled machines, what they run, and why.

mod explain;

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Subcommand;
use fieldfare_fleet::CapabilityProfile;
use fieldfare_proto::v1;
use serde::Serialize;

pub use explain::{SpeedView, VariantView};

use super::Session;
use crate::clock;
use crate::limits::PAGE_SIZE;
use crate::output::{note, show, since, table};

/// What to do with devices.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Lists the devices.
    List {
        /// Only those with these labels, for example `site=north,kind in (gateway,shelf)`.
        #[arg(long, short = 'l', default_value = "")]
        selector: String,
    },
    /// Shows one device.
    Show {
        /// Its id or name.
        device: String,
    },
    /// Says why a device is, or is not, on its target.
    Explain {
        /// Its id or name.
        device: String,
    },
    /// Lets a pending device in, after comparing the digest of its key.
    Approve {
        /// Its id or name.
        device: String,
    },
    /// Shuts a device out for good, and cuts its session.
    Revoke {
        /// Its id or name.
        device: String,
        /// Why, for the record.
        #[arg(long, default_value = "")]
        reason: String,
    },
}

#[derive(Serialize)]
struct View {
    id: String,
    name: String,
    standing: &'static str,
    trust_tier: &'static str,
    connected: bool,
    last_heard_unix_ms: i64,
    agent_version: String,
    key_digest: String,
    labels: BTreeMap<String, String>,
    profile: Option<CapabilityProfile>,
    running: Vec<Running>,
    refused: Option<RefusedView>,
}

/// For what the controller refused a session of the device.
#[derive(Serialize)]
struct RefusedView {
    reason: String,
    refused_unix_ms: i64,
    times: u32,
}

#[derive(Serialize)]
struct Running {
    deployment: String,
    manifest_target: String,
    variant: String,
    weights_sha256: String,
    adapter_sha256: String,
    outcome: &'static str,
    stage: &'static str,
    obstacle: String,
    tokens_per_second: Option<f64>,
    confidence: Option<f64>,
}

impl View {
    fn of(device: v1::Device) -> Self {
        Self {
            standing: match device.standing() {
                v1::DeviceStanding::Pending => "pending",
                v1::DeviceStanding::Enrolled => "enrolled",
                v1::DeviceStanding::Revoked => "revoked",
                v1::DeviceStanding::Unspecified => "unknown",
            },
            trust_tier: match device.trust_tier() {
                v1::TrustTier::Attested => "attested",
                v1::TrustTier::Unattested | v1::TrustTier::Unspecified => "unattested",
            },
            id: device.id,
            name: device.name,
            connected: device.connected,
            last_heard_unix_ms: device.last_heard_unix_ms,
            agent_version: device.agent_version,
            key_digest: hex::encode(device.key_digest),
            labels: device.labels,
            profile: device.profile.and_then(|profile| profile.try_into().ok()),
            running: device.running.into_iter().map(Running::of).collect(),
            refused: device.refused.map(|refused| RefusedView {
                reason: refused.reason,
                refused_unix_ms: refused.refused_unix_ms,
                times: refused.times,
            }),
        }
    }
}

impl Running {
    fn of(model: v1::ObservedModelSummary) -> Self {
        Self {
            outcome: outcome(model.outcome()),
            stage: stage(model.stage()),
            deployment: model.deployment,
            manifest_target: model.manifest_target,
            variant: model.variant,
            weights_sha256: hex::encode(model.weights_sha256),
            adapter_sha256: hex::encode(model.adapter_sha256),
            obstacle: model.obstacle,
            tokens_per_second: model.evidence.and_then(|evidence| evidence.tokens_per_second),
            confidence: model.evidence.and_then(|evidence| evidence.confidence),
        }
    }
}

/// A device's outcome in words.
pub fn outcome(outcome: v1::DeviceOutcome) -> &'static str {
    match outcome {
        v1::DeviceOutcome::Converged => "converged",
        v1::DeviceOutcome::CannotConverge => "cannot converge",
        v1::DeviceOutcome::NotHeardFrom => "not heard from",
        v1::DeviceOutcome::Working => "working",
        v1::DeviceOutcome::Unspecified => "unknown",
    }
}

/// An installation's stage in words.
pub fn stage(stage: v1::InstallStage) -> &'static str {
    match stage {
        v1::InstallStage::Fetch => "fetching",
        v1::InstallStage::Verify => "verifying",
        v1::InstallStage::Stage => "staging",
        v1::InstallStage::WarmUp => "warming up",
        v1::InstallStage::Probe => "probing",
        v1::InstallStage::Switch => "switching",
        v1::InstallStage::Confirm => "confirming",
        v1::InstallStage::Unspecified => "",
    }
}

/// All devices that a selector matches, page by page.
///
/// # Errors
/// The selector is wrong, or what else the controller says.
pub async fn list(session: &Session, selector: &str) -> Result<Vec<v1::Device>> {
    let mut devices = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListDevicesRequest {
            selector: selector.to_owned(),
            page_size: PAGE_SIZE,
            page_token,
        };
        let page = session
            .client
            .call(
                request,
                |mut api, request| async move { api.list_devices(request).await },
            )
            .await?;
        devices.extend(page.devices);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(devices);
        }
    }
}

/// Does it.
///
/// # Errors
/// What the controller says.
pub async fn run(session: &Session, action: Action) -> Result<()> {
    let (format, client) = (session.format, &session.client);
    match action {
        Action::List { selector } => {
            let views: Vec<View> = list(session, &selector).await?.into_iter().map(View::of).collect();
            show(format, &views, |views| overview(views))
        }
        Action::Show { device } => {
            let request = v1::GetDeviceRequest { device };
            let device = client
                .call(request, |mut api, request| async move { api.get_device(request).await })
                .await?;
            show(format, &View::of(device), details)
        }
        Action::Explain { device } => explain::explain(session, device).await,
        Action::Approve { device } => {
            let request = v1::ApproveDeviceRequest { device };
            let device = client
                .call(
                    request,
                    |mut api, request| async move { api.approve_device(request).await },
                )
                .await?;
            show(format, &View::of(device), |view| format!("{} is enrolled", view.name))
        }
        Action::Revoke { device, reason } => {
            let request = v1::RevokeDeviceRequest { device, reason };
            let device = client
                .call(
                    request,
                    |mut api, request| async move { api.revoke_device(request).await },
                )
                .await?;
            note("its certificate is refused from now on, and its session is cut");
            show(format, &View::of(device), |view| format!("{} is revoked", view.name))
        }
    }
}

fn overview(views: &[View]) -> String {
    let now = clock::now();
    table(
        [
            "name",
            "device",
            "standing",
            "heard from",
            "release",
            "variant",
            "outcome",
        ],
        views.iter().map(|view| {
            let running = view.running.first();
            let heard = if view.connected {
                "connected".to_owned()
            } else {
                since(now, view.last_heard_unix_ms)
            };
            [
                view.name.clone(),
                view.profile.as_ref().map(described).unwrap_or_default(),
                view.standing.to_owned(),
                heard,
                running
                    .map(|running| running.manifest_target.clone())
                    .unwrap_or_default(),
                running.map(|running| running.variant.clone()).unwrap_or_default(),
                running.map(|running| running.outcome.to_owned()).unwrap_or_default(),
            ]
        }),
    )
}

/// The kind of device; an emulated profile is called that wherever it is shown.
pub fn described(profile: &CapabilityProfile) -> String {
    match &profile.provenance {
        fieldfare_fleet::Provenance::Measured => profile.device_model.clone(),
        fieldfare_fleet::Provenance::Emulated { of } => format!("{of} (emulated)"),
    }
}

fn details(view: &View) -> String {
    let mut rows = vec![
        ("id", view.id.clone()),
        ("name", view.name.clone()),
        ("standing", format!("{}, {}", view.standing, view.trust_tier)),
        ("key", view.key_digest.clone()),
        ("agent", view.agent_version.clone()),
        (
            "labels",
            view.labels
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect::<Vec<_>>()
                .join(","),
        ),
    ];
    if let Some(profile) = &view.profile {
        rows.push(("device", described(profile)));
        rows.push((
            "memory",
            format!("{}, of which models may use {}", profile.memory, profile.model_memory),
        ));
        rows.push(("bandwidth", profile.memory_bandwidth.to_string()));
    }
    for running in &view.running {
        rows.push((
            "runs",
            format!("{} {} ({})", running.manifest_target, running.variant, running.outcome),
        ));
        rows.push(("weights", running.weights_sha256.clone()));
        if !running.adapter_sha256.is_empty() {
            rows.push(("adapter", running.adapter_sha256.clone()));
        }
        if !running.obstacle.is_empty() {
            rows.push(("obstacle", running.obstacle.clone()));
        }
    }
    if let Some(refused) = &view.refused {
        let last = since(clock::now(), refused.refused_unix_ms);
        rows.push((
            "refused",
            format!("{} times, last {last}: {}", refused.times, refused.reason),
        ));
    }
    rows.iter()
        .map(|(name, value)| format!("{name:<10} {value}"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_shown_with_what_it_was_refused_for() {
        let device = |refused| v1::Device {
            refused,
            ..v1::Device::default()
        };
        let refused = v1::DeviceRefusal {
            reason: "profile.cores: is 0".to_owned(),
            refused_unix_ms: 0,
            times: 2,
        };
        let text = details(&View::of(device(Some(refused))));
        let line = text.lines().find(|line| line.starts_with("refused"));
        assert_eq!(
            line,
            Some("refused    2 times, last never: profile.cores: is 0"),
            "{text}"
        );
        assert!(!details(&View::of(device(None))).contains("refused"));
    }
}
