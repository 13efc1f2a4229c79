//! `fieldfare devices explain`: why a device is, or is not, on its target.

use anyhow::Result;
use fieldfare_proto::v1;
use serde::Serialize;

use super::super::Session;
use crate::output::{bytes, rate, show, table};

#[derive(Serialize)]
struct Explanation {
    device: String,
    connected: bool,
    deployments: Vec<DeploymentExplanation>,
}

#[derive(Serialize)]
struct DeploymentExplanation {
    deployment: String,
    code: String,
    summary: String,
    target_manifest: String,
    target_variant: String,
    speed: SpeedView,
    variants: Vec<VariantView>,
}

/// What the predicted speeds of a placement were multiplied with.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SpeedView {
    /// What devices of the class really reach, as a part of the roofline; 1 where nothing is known.
    pub correction: f64,
    /// Devices whose reports taught that.
    pub learned_from_devices: u32,
}

impl SpeedView {
    /// The view of a report.
    pub fn of(report: &v1::PlacementReport) -> Self {
        Self {
            correction: report.speed_correction,
            learned_from_devices: report.speed_correction_devices,
        }
    }

    /// In words; nothing where nothing was learned.
    fn words(self) -> Option<String> {
        let who = match self.learned_from_devices {
            0 => return None,
            1 => "one device of its class reaches".to_owned(),
            several => format!("{several} devices of its class reach"),
        };
        Some(format!(
            "{who} {:.2} times the roofline's speed, and so it is expected here",
            self.correction
        ))
    }
}

/// One variant in a placement report.
#[derive(Clone, Debug, Serialize)]
pub struct VariantView {
    /// Its name.
    pub variant: String,
    /// `chosen`, `eligible` or `refused`.
    pub verdict: &'static str,
    /// Why it is not chosen; empty when it is.
    pub why: Vec<String>,
    /// Predicted.
    pub tokens_per_second: f64,
    /// Weights, cache and working memory.
    pub memory_bytes: u64,
    /// Held-out loss, where it was measured.
    pub loss_nats_per_token: Option<f64>,
}

impl VariantView {
    /// The view of one entry.
    pub fn of(placement: v1::VariantPlacement) -> Self {
        use v1::variant_placement::Verdict;
        let (verdict, why) = match placement.verdict {
            Some(Verdict::Chosen(_)) => ("chosen", Vec::new()),
            Some(Verdict::Eligible(eligible)) => ("eligible", vec![format!("{} is better", eligible.better)]),
            Some(Verdict::Refused(refused)) => (
                "refused",
                refused.reasons.into_iter().map(|reason| reason.detail).collect(),
            ),
            None => ("unknown", Vec::new()),
        };
        Self {
            variant: placement.variant,
            verdict,
            why,
            tokens_per_second: placement.predicted_tokens_per_second,
            memory_bytes: placement.memory_bytes,
            loss_nats_per_token: placement.loss_nats_per_token,
        }
    }
}

impl DeploymentExplanation {
    fn of(deployment: v1::DeploymentExplanation) -> Self {
        let report = deployment.placement.unwrap_or_default();
        Self {
            deployment: deployment.deployment,
            code: deployment.code,
            summary: deployment.summary,
            target_manifest: deployment.target_manifest,
            target_variant: deployment.target_variant,
            speed: SpeedView::of(&report),
            variants: report.variants.into_iter().map(VariantView::of).collect(),
        }
    }
}

pub(super) async fn explain(session: &Session, device: String) -> Result<()> {
    let request = v1::ExplainDeviceRequest { device };
    let answer = session
        .client
        .call(
            request,
            |mut api, request| async move { api.explain_device(request).await },
        )
        .await?;
    let device = answer.device.unwrap_or_default();
    let view = Explanation {
        device: device.name,
        connected: device.connected,
        deployments: answer.deployments.into_iter().map(DeploymentExplanation::of).collect(),
    };
    show(session.format, &view, |view| {
        if view.deployments.is_empty() {
            return format!("{}: no deployment selects it", view.device);
        }
        view.deployments.iter().map(explained).collect::<Vec<_>>().join("\n\n")
    })
}

fn explained(deployment: &DeploymentExplanation) -> String {
    let variants = table(
        ["variant", "verdict", "tokens/s", "memory", "why"],
        deployment.variants.iter().map(|variant| {
            [
                variant.variant.clone(),
                variant.verdict.to_owned(),
                rate(variant.tokens_per_second),
                bytes(variant.memory_bytes),
                variant.why.join("; "),
            ]
        }),
    );
    let target = match (deployment.target_manifest.as_str(), deployment.target_variant.as_str()) {
        // The device is not in the deployment, or its first rollout went back.
        ("", _) => return format!("{}: {}", deployment.deployment, deployment.summary),
        (manifest, "") => format!("{manifest}, of which no variant fits"),
        (manifest, variant) => format!("{manifest} {variant}"),
    };
    let mut text = format!(
        "{}: {}\ntarget: {target}\n{variants}",
        deployment.deployment, deployment.summary
    );
    if let Some(speed) = deployment.speed.words() {
        text = format!("{text}\n{speed}");
    }
    text
}
