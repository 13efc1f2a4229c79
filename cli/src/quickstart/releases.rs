//! Releases of a run: imported, signed, verified, placed, rolled out.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fieldfare_fleet::rollout::{Bound, Gate, Metric, WaveSize};
use fieldfare_fleet::{CapabilityProfile, DeploymentName};
use fieldfare_release::{ReleaseManifest, TargetName};

use super::Quickstart;
use super::data::{self, RunData};
use super::narrator::Stage;
use super::report::{Placement, Refusal, Rollout};
use super::text::{Model, probes};
use crate::commands::deploy;
use crate::commands::devices::{VariantView, described};
use crate::commands::plan::{self, Needs};
use crate::commands::{Session, job, release, rollout};
use crate::output::{bytes, rate, table};

/// Name of the one deployment.
pub(super) const DEPLOYMENT: &str = "quickstart";

/// Tokens of context that the deployment asks for, where the model has as many.
const CONTEXT_TOKENS: u32 = 256;

/// Slowest speed that will do: a person reads about five words in a second.
const MIN_TOKENS_PER_SECOND: f64 = 5.0;

/// Probe answers without which no gate passes.
const MIN_PROBES: u32 = 2;

/// Least rate at which the shipped model's variants write just what its F16 variant wrote to a probe. In runs they agree on five
/// of eight and more.
const MIN_PROBE_EXACT_MATCH: f64 = 0.1;

/// How long a wave is watched after its devices converged: long enough to see the path, too short for a real fleet.
const OBSERVATION: Duration = Duration::from_secs(1);

/// After this long a wave that has not passed is given up: a demonstration does not wait for an operator.
const WAVE_DEADLINE: Duration = Duration::from_secs(180);

/// Silence after which a device is not waited for.
const OFFLINE_AFTER: Duration = Duration::from_secs(60);

/// A published release.
#[derive(Clone, Debug)]
pub(super) struct Published {
    /// Target name of its manifest.
    pub(super) name: TargetName,
    /// What it is.
    pub(super) manifest: ReleaseManifest,
}

/// The context that the deployment asks of every variant.
pub(super) fn context_tokens(manifest: &ReleaseManifest) -> u32 {
    plan::context(manifest).min(CONTEXT_TOKENS)
}

/// What each wave must show. How often a variant writes just what the trainer's most precise one wrote depends on the model: of
/// the shipped one it is known.
fn gates(shipped: bool) -> Vec<Gate> {
    let gate = |metric, bound| Gate { metric, bound };
    let mut gates = vec![
        gate(Metric::CrashingDevices, Bound::AtMost(0.0)),
        gate(Metric::CannotConverge, Bound::AtMost(0.0)),
        gate(Metric::ErrorRate, Bound::AtMost(0.0)),
        gate(Metric::TokensPerSecond, Bound::AtLeast(MIN_TOKENS_PER_SECOND)),
    ];
    if shipped {
        gates.push(gate(Metric::ProbeExactMatch, Bound::AtLeast(MIN_PROBE_EXACT_MATCH)));
    }
    gates
}

fn needs(context_tokens: u32) -> Needs {
    Needs {
        min_tokens_per_second: MIN_TOKENS_PER_SECOND,
        context_tokens: Some(context_tokens),
        max_memory: None,
    }
}

impl Quickstart {
    /// Has the trainer build and evaluate the variants, and signs what it proposes.
    pub(super) async fn import(&mut self, session: &Session, model: &Model, data: &RunData) -> Result<Published> {
        self.narrator.begin(
            Stage::Import,
            &format!("{} becomes a signed release of {}", model.file.display(), model.name),
        );
        self.narrator.say(&data.statement);
        let folder = self.folder.text();
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text)
                .with_context(|| format!("writing {}", path.display()))
                .map(|()| path)
        };
        let import = release::Import {
            source: model.file.to_string_lossy().into_owned(),
            model: model.name.to_string(),
            evaluation: write("evaluation.jsonl", data::to_lines(&data.evaluation))?,
            probes: Some(write("probes.jsonl", probes(&data.evaluation))?),
            variants: Vec::new(),
            job: Some("import".to_owned()),
            detach: true,
        };
        let started = release::import(session, &import).await?;
        let ended = job::follow_with(session, &started.name, |line| self.narrator.say(line)).await?;
        let target = job::succeeded(ended)?.manifest_target;
        let proposed = release::get(session, &target).await?;
        let (name, manifest) = release::manifest(&proposed)?;
        release::publish(session, &proposed).await?;
        let verified = release::verify(session, &name).await?;
        let sizes = table(
            ["variant", "size", "held-out loss", "memory"],
            manifest.variants.iter().map(|variant| {
                let figures = &variant.figures;
                let loss = format!("{:.4} nats/token", figures.held_out_loss);
                [
                    variant.name.to_string(),
                    bytes(figures.weight_bytes),
                    loss,
                    bytes(variant.requirements.memory_bytes),
                ]
            }),
        );
        self.narrator.say(&sizes);
        let (role, files) = (&verified.role, verified.files);
        self.narrator.say(&format!(
            "{name} signed and published; verified as a device does: signed by {role}, {files} files"
        ));
        Ok(Published { name, manifest })
    }

    /// Shows which variant each device will run, and why no other.
    pub(super) async fn placement(&mut self, session: &Session, release: &Published, data: &RunData) -> Result<()> {
        self.narrator.begin(
            Stage::Placement,
            "the variant with the lowest held-out loss among those that fit each device",
        );
        let context = context_tokens(&release.manifest);
        let requirements = needs(context).requirements(context)?;
        let mut rows = Vec::new();
        for placement in plan::placements(session, release.name.as_str(), "", &requirements).await? {
            let profile = placement
                .profile
                .and_then(|profile| CapabilityProfile::try_from(profile).ok());
            let variants = placement
                .report
                .unwrap_or_default()
                .variants
                .into_iter()
                .map(VariantView::of)
                .collect();
            rows.push((placed(placement.name, profile.as_ref(), variants), profile));
        }
        rows.sort_by_key(|(row, _)| data.devices.iter().position(|device| device.name == row.device));
        self.narrator.say(&table(
            [
                "device",
                "profile",
                "model may use",
                "runs",
                "predicted tokens/s",
                "memory",
                "refused",
            ],
            rows.iter().map(|(row, profile)| {
                [
                    row.device.clone(),
                    profile.as_ref().map(described).unwrap_or_default(),
                    profile
                        .as_ref()
                        .map(|profile| bytes(profile.model_memory.get()))
                        .unwrap_or_default(),
                    row.variant.clone().unwrap_or_else(|| "nothing".to_owned()),
                    row.tokens_per_second.map(rate).unwrap_or_default(),
                    row.memory_bytes.map(bytes).unwrap_or_default(),
                    row.refused
                        .iter()
                        .map(|r| format!("{}: {}", r.variant, r.reasons.join("; ")))
                        .collect::<Vec<_>>()
                        .join("\n"),
                ]
            }),
        ));
        self.report.placement = rows.into_iter().map(|(row, _)| row).collect();
        let winners: std::collections::BTreeSet<&str> = self
            .report
            .placement
            .iter()
            .filter_map(|row| row.variant.as_deref())
            .collect();
        self.narrator.say(&format!("{} variants are in use", winners.len()));
        Ok(())
    }

    /// Deploys a release to every device and follows its rollout.
    pub(super) async fn rollout(&mut self, session: &Session, name: &TargetName) -> Result<()> {
        let (_, manifest) = release::manifest(&release::get(session, name.as_str()).await?)?;
        let arguments = deploy::Arguments {
            name: DeploymentName::new(DEPLOYMENT)?,
            release: name.to_string(),
            selector: String::new(),
            waves: vec![WaveSize::Count(1), WaveSize::Percent(50), WaveSize::Percent(100)],
            gates: gates(self.arguments.data.is_none() && self.arguments.model.is_none()),
            max_unavailable: 100,
            min_probes: MIN_PROBES,
            observe: OBSERVATION,
            wave_deadline: WAVE_DEADLINE,
            roll_back_when_overdue: true,
            offline_after: OFFLINE_AFTER,
            needs: needs(context_tokens(&manifest)),
            detach: true,
        };
        deploy::apply(session, &arguments).await?;
        let ended = rollout::follow(session, DEPLOYMENT).await?;
        self.report.rollouts.push(Rollout {
            release: name.to_string(),
            phase: rollout::phase(ended.phase()),
        });
        rollout::judged(&ended)?;
        self.narrator.say(&format!(
            "every wave passed its gates: {name} runs on {} devices",
            ended.devices.len()
        ));
        Ok(())
    }
}

fn placed(device: String, profile: Option<&CapabilityProfile>, variants: Vec<VariantView>) -> Placement {
    let emulated = match profile.map(|profile| &profile.provenance) {
        Some(fieldfare_fleet::Provenance::Emulated { of }) => of.clone(),
        _ => String::new(),
    };
    let chosen = variants.iter().find(|variant| variant.verdict == "chosen");
    Placement {
        device,
        emulated,
        variant: chosen.map(|variant| variant.variant.clone()),
        tokens_per_second: chosen.map(|variant| variant.tokens_per_second),
        memory_bytes: chosen.map(|variant| variant.memory_bytes),
        refused: variants
            .iter()
            .filter(|variant| variant.verdict == "refused")
            .map(|variant| Refusal {
                variant: variant.variant.clone(),
                reasons: variant.why.clone(),
            })
            .collect(),
    }
}
