//! The adapter release: factors in PEFT's form, a manifest that says how they were made, and the trainer's signature.

use fieldfare_lm::adapter::{LoraAdapter, peft};
use fieldfare_proto::v1::{FederatedCheckpoint, PublishReleaseRequest, VariantEvaluation as WireEvaluation};
use fieldfare_release::limits::{MAX_LINE_BYTES, MAX_MANIFEST_BYTES};
use fieldfare_release::manifest::{
    Accountant, AggregationRule, Artifact, ArtifactRole, BaseRelease, Evaluation, Mechanism, PrivacyStatement,
    PrivacyUnit, Probe, Provenance, ReleaseManifest, Variant, VariantEvaluation,
};
use fieldfare_release::tuf::{Signed, Target, Targets};
use fieldfare_release::{Sha256Digest, TargetKind, TargetName, UnixSeconds};
use ring::rand::SystemRandom;

use super::Job;
use super::privacy::{Privacy, opened};
use crate::clock::unix_seconds;
use crate::evaluation::Measured;
use crate::failure::{WorkError, chain};
use crate::limits::DELEGATION_SECONDS;
use crate::work::Workshop;

/// Builds, signs and publishes; the target name of the manifest. A publication that was under way when a trainer died is found
/// in the metadata and sent again as it is.
pub(super) async fn publish(
    job: &Job<'_>,
    checkpoint: &FederatedCheckpoint,
    state: &[f32],
    measured: &[(String, Measured)],
    evaluations: &[WireEvaluation],
) -> Result<String, WorkError> {
    let model = &job.plan.base.manifest.model;
    let target = TargetName::new(model.clone(), job.plan.release, TargetKind::AdapterRelease);
    let delegation = job.gateway.delegation(model.to_string()).await?;
    let listed = read_targets(&delegation.delegated_targets)?;
    if let Some(known) = listed.as_ref().and_then(|listed| listed.targets.get(target.as_str())) {
        return repeat(job, &target, known, delegation.delegated_targets).await;
    }
    let adapter = job.bench.adapter(state);
    let base_name = job.plan.base.target.as_str();
    let files = peft::write(&adapter, job.bench.config(), base_name).map_err(WorkError::impossible("the adapter"))?;
    let length = files.model.len() as u64;
    let sha256 = job.workshop.artifacts.store(files.model).await?;
    let factors = TargetName::new(model.clone(), job.plan.release, TargetKind::AdapterFactors);
    let artifact = Artifact {
        target: factors,
        sha256,
        length,
    };
    let made = Made {
        adapter: &adapter,
        artifact,
        evaluations,
        tokens: tokens(measured),
    };
    let manifest = manifest(job, checkpoint, &made, probes(job, state).await?);
    let manifest = manifest
        .encode()
        .map_err(WorkError::impossible("the release's manifest"))?;
    job.workshop.artifacts.store(manifest.clone()).await?;
    let now = unix_seconds(job.workshop.time.now());
    let delegated_targets = sign(job.workshop, listed, now, &[(&target, &manifest)], &made.artifact)?;
    fieldfare_crash::point("trainer.release.signed");
    let manifest_target = target.to_string();
    let request = PublishReleaseRequest {
        fence: None,
        manifest_target: manifest_target.clone(),
        manifest,
        delegated_targets,
    };
    job.gateway.publish_release(request).await?;
    fieldfare_crash::point("trainer.release.published");
    tracing::info!(%target, "published");
    Ok(manifest_target)
}

/// Sends a publication again that was listed before the trainer that sent it could see the answer.
async fn repeat(
    job: &Job<'_>,
    target: &TargetName,
    known: &Target,
    delegated_targets: Vec<u8>,
) -> Result<String, WorkError> {
    let sha256 = known
        .hashes
        .sha256
        .ok_or_else(|| WorkError::Impossible(format!("{target} is listed without a digest")))?;
    let manifest = job.workshop.artifacts.read(sha256, MAX_MANIFEST_BYTES as u64).await?;
    let manifest_target = target.to_string();
    let request = PublishReleaseRequest {
        fence: None,
        manifest_target: manifest_target.clone(),
        manifest,
        delegated_targets,
    };
    job.gateway.publish_release(request).await?;
    Ok(manifest_target)
}

/// The result of a job, as its manifest tells it.
struct Made<'a> {
    adapter: &'a LoraAdapter,
    artifact: Artifact,
    evaluations: &'a [WireEvaluation],
    tokens: u64,
}

fn tokens(measured: &[(String, Measured)]) -> u64 {
    measured.first().map_or(0, |(_, measured)| measured.loss.tokens)
}

fn read_targets(bytes: &[u8]) -> Result<Option<Targets>, WorkError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let signed = Signed::<Targets>::read(bytes).map_err(WorkError::impossible("the delegated metadata"))?;
    Ok(Some(signed.into_payload()))
}

/// The next metadata of the delegated role: what was listed, the manifest and the adapter.
fn sign(
    workshop: &Workshop,
    listed: Option<Targets>,
    now: UnixSeconds,
    documents: &[(&TargetName, &Vec<u8>)],
    artifact: &Artifact,
) -> Result<Vec<u8>, WorkError> {
    let expires = now.plus(DELEGATION_SECONDS);
    let mut targets = listed.map_or_else(|| Targets::first(expires), |listed| listed.next(expires));
    for (name, bytes) in documents {
        targets.list(name, Target::new(bytes.len() as u64, Sha256Digest::of(bytes)));
    }
    targets.list(&artifact.target, Target::new(artifact.length, artifact.sha256));
    let signed = Signed::sign(targets, &[&*workshop.delegation], &SystemRandom::new());
    Ok(signed
        .map_err(WorkError::interrupted("signing the release"))?
        .bytes()
        .to_vec())
}

/// The base release's probes with what the new release answers to them: a device compares its own engine with ours.
async fn probes(job: &Job<'_>, state: &[f32]) -> Result<Vec<Probe>, WorkError> {
    let (bench, state) = (std::sync::Arc::clone(&job.bench), state.to_vec());
    let asked = job.plan.base.manifest.probes.clone();
    let answered = job.workshop.compute.run(move |stop| {
        let mut probes = Vec::with_capacity(asked.len());
        for probe in asked {
            stop.check().map_err(|error| chain(&error))?;
            let expected = bench.answer(&state, &probe.prompt, probe.max_tokens)?;
            // Any answer would pass a probe that expects nothing.
            if !expected.is_empty() {
                probes.push(Probe { expected, ..probe });
            }
        }
        Ok(probes)
    });
    let answered: Result<_, String> = answered.await.map_err(WorkError::computing("answering the probes"))?;
    answered.map_err(|problem| WorkError::Impossible(format!("the probes: {problem}")))
}

/// A variant of the base with the adapter beside its weights.
fn with_adapter(base: &Variant, made: &Made<'_>) -> Variant {
    let mut variant = base.clone();
    let replaced = variant.artifacts.insert(ArtifactRole::Adapter, made.artifact.clone());
    // An adapter in place of another one of the same form costs what that one did.
    if replaced.is_none() {
        let parameters = made.adapter.parameters() as u64;
        variant.figures.weight_bytes += 4 * parameters;
        variant.figures.parameters += parameters;
        variant.figures.flops_per_token += 2 * parameters;
        variant.requirements.memory_bytes += 4 * parameters;
    }
    variant
}

fn title(base: &str, job: &str) -> String {
    let suffix = format!(", adapted by {job}");
    let end = MAX_LINE_BYTES.saturating_sub(suffix.len());
    let end = (0..=end.min(base.len()))
        .rev()
        .find(|end| base.is_char_boundary(*end))
        .unwrap_or(0);
    format!("{}{suffix}", &base[..end])
}

/// What the release cost: an upper bound for every device that took part, since it counts each attempt that was opened and not
/// only those that were committed, as far as a device's ledger pays for them within the job's budget.
fn statement(privacy: &Privacy, attempts: u32) -> PrivacyStatement {
    let mechanism = privacy.mechanism(privacy.payable(attempts));
    PrivacyStatement {
        unit: PrivacyUnit::Example,
        epsilon: privacy.spent(attempts),
        delta: privacy.delta.get(),
        accountant: Accountant::Rdp,
        mechanism: Mechanism {
            sampling_rate: mechanism.sampling_rate.get(),
            noise_multiplier: mechanism.noise_multiplier.get(),
            steps: u32::try_from(mechanism.steps).unwrap_or(u32::MAX),
            clip_norm: privacy.round.clip_norm().get(),
        },
    }
}

fn evaluation(wire: &WireEvaluation, asks: bool) -> Option<VariantEvaluation> {
    let side = |loss, exact| Evaluation {
        loss,
        exact_match: asks.then_some(exact),
    };
    Some(VariantEvaluation {
        variant: wire.variant.parse().ok()?,
        before: side(wire.loss_before, wire.exact_match_before),
        after: side(wire.loss_after, wire.exact_match_after),
    })
}

fn manifest(job: &Job<'_>, checkpoint: &FederatedCheckpoint, made: &Made<'_>, probes: Vec<Probe>) -> ReleaseManifest {
    let base = &job.plan.base;
    let asks = job.evaluation.questions() > 0;
    ReleaseManifest {
        release: job.plan.release,
        title: title(&base.manifest.title, job.plan.job.as_str()),
        created: unix_seconds(job.workshop.time.now()),
        base: Some(BaseRelease {
            manifest: base.target.clone(),
            sha256: base.sha256,
        }),
        variants: base
            .manifest
            .variants
            .iter()
            .map(|variant| with_adapter(variant, made))
            .collect(),
        probes,
        provenance: Provenance::Federated {
            job: job.plan.job.to_string(),
            cohorts: checkpoint.rounds.iter().map(|round| round.accepted).collect(),
            aggregation: AggregationRule::Mean,
            privacy: Some(statement(
                &job.plan.privacy,
                opened(&checkpoint.rounds, checkpoint.attempt),
            )),
            evaluation_tokens: made.tokens,
            evaluation: made
                .evaluations
                .iter()
                .filter_map(|wire| evaluation(wire, asks))
                .collect(),
        },
        ..base.manifest.clone()
    }
}
