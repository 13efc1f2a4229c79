//! New jobs: specifications are checked as a whole before anything is written.

use fieldfare_fleet::limits::{
    MAX_ATTEMPTS, MAX_COHORT, MAX_JOB_EPSILON, MAX_ROUND_STEPS, MAX_ROUNDS, MAX_TRAINING_SEQUENCE,
};
use fieldfare_fleet::{DeploymentName, JobName};
use fieldfare_proto::OptionExt;
use fieldfare_proto::v1::{
    FederatedJobSpec, ImportSpec, Job, JobRecord, JobStage, JobStatusRecord, ModelRecord, ReleaseRecord,
    ReleaseStanding, UploadedArtifact, import_spec, job_record,
};
use fieldfare_release::{Sha256Digest, VariantName};

use super::{publish, view};
use crate::limits::{FREE_TEXT_BYTES_MAX, LORA_RANK_MAX, ROUND_DEADLINE_MAX};
use crate::mirror::Records;
use crate::placement::release_record;
use crate::plane::ControlPlane;
use crate::records::attempt;
use crate::refusal::Refusal;
use crate::repository::manifests::release_id;

fn number<T: PartialOrd + std::fmt::Display>(field: &str, value: T, least: T, most: T) -> Result<(), Refusal> {
    if value >= least && value <= most {
        return Ok(());
    }
    Err(Refusal::invalid(
        format!("spec.{field}"),
        format!("is {value}; expected {least} to {most}"),
    ))
}

/// A number above a bound, or from it on, and finite.
fn real(field: &str, value: f64, holds: bool, expected: &str) -> Result<(), Refusal> {
    if value.is_finite() && holds {
        return Ok(());
    }
    Err(Refusal::invalid(
        format!("spec.{field}"),
        format!("is {value}; expected {expected}"),
    ))
}

async fn uploaded(plane: &ControlPlane, field: &str, artifact: &UploadedArtifact) -> Result<(), Refusal> {
    let field = format!("spec.{field}");
    let sha256 = <[u8; 32]>::try_from(artifact.sha256.as_slice()).map(Sha256Digest::from_bytes);
    let sha256 = sha256.map_err(|_| Refusal::invalid(format!("{field}.sha256"), "expected the 32 bytes of SHA-256"))?;
    if artifact.file_name.len() > FREE_TEXT_BYTES_MAX {
        return Err(Refusal::invalid(
            format!("{field}.file_name"),
            format!("expected at most {FREE_TEXT_BYTES_MAX} bytes"),
        ));
    }
    match plane.releases.blobs().hold(&sha256).await? {
        Some(length) if length == artifact.length_bytes => Ok(()),
        Some(length) => Err(Refusal::invalid(
            format!("{field}.length_bytes"),
            format!("the upload has {length} bytes"),
        )),
        None => Err(Refusal::invalid(
            field,
            format!("{sha256} is not uploaded; put it to /blobs/sha256/{sha256} first"),
        )),
    }
}

/// Whether the text has the form `hf://OWNER/REPOSITORY/FILE.gguf`; the trainer, which fetches the file, is stricter.
fn names_hub_file(uri: &str) -> bool {
    let Some(path) = uri.strip_prefix("hf://") else {
        return false;
    };
    let parts: Vec<&str> = path.split('/').collect();
    parts.len() >= 3 && path.to_lowercase().ends_with(".gguf") && parts.iter().all(|part| !part.is_empty())
}

/// Starts the import of a model.
pub(crate) async fn start_import(plane: &ControlPlane, spec: ImportSpec) -> Result<Job, Refusal> {
    let name = super::name("spec.job", &spec.job)?;
    let model: fieldfare_release::ModelName = spec
        .model
        .parse()
        .map_err(|error| Refusal::invalid("spec.model", error))?;
    match spec.source.as_ref().required("spec.source")? {
        import_spec::Source::Uploaded(artifact) => uploaded(plane, "source.uploaded", artifact).await?,
        import_spec::Source::HubUri(uri) => {
            if !names_hub_file(uri) || uri.len() > FREE_TEXT_BYTES_MAX {
                return Err(Refusal::invalid(
                    "spec.source.hub_uri",
                    format!("{uri:?} is no hf://OWNER/REPOSITORY/FILE.gguf"),
                ));
            }
        }
    }
    for variant in &spec.variants {
        variant
            .parse::<VariantName>()
            .map_err(|error| Refusal::invalid("spec.variants", error))?;
    }
    uploaded(
        plane,
        "evaluation",
        spec.evaluation.as_ref().required("spec.evaluation")?,
    )
    .await?;
    if let Some(probes) = &spec.probes {
        uploaded(plane, "probes", probes).await?;
    }
    let model = model
        .as_str()
        .parse()
        .map_err(|error| Refusal::invalid("spec.model", error))?;
    start(plane, &name, &model, job_record::Work::Import(spec), None).await
}

/// Starts a federated job on the release that its deployment runs.
pub(crate) async fn start_federated(plane: &ControlPlane, spec: FederatedJobSpec) -> Result<Job, Refusal> {
    let name = super::name("spec.job", &spec.job)?;
    check(&spec)?;
    uploaded(
        plane,
        "evaluation",
        spec.evaluation.as_ref().required("spec.evaluation")?,
    )
    .await?;
    let deployment =
        DeploymentName::new(spec.deployment.as_str()).map_err(|error| Refusal::invalid("spec.deployment", error))?;
    let base = base(&plane.mirror.read(), &deployment)?;
    let model = release_id(&base.manifest_target)?.model;
    // Devices pay for the first round; without the right to sign there would be nothing to show for it.
    publish::delegation(plane, model.as_str()).await?;
    let base = (base.manifest_target, base.manifest_sha256);
    start(plane, &name, &model, job_record::Work::Federated(spec), Some(base)).await
}

/// The release that all devices of a deployment have.
fn base(records: &Records, deployment: &DeploymentName) -> Result<ReleaseRecord, Refusal> {
    if !records.deployments.contains_key(deployment) {
        return Err(Refusal::missing("deployment", deployment));
    }
    let status = records.deployment_status.get(deployment);
    let current = status
        .map(|status| status.current_manifest.as_str())
        .unwrap_or_default();
    if current.is_empty() {
        return Err(Refusal::Unready(format!(
            "{deployment} runs no release yet: wait for its rollout to complete"
        )));
    }
    let rollout = records.rollouts.get(deployment).map(|rollout| &rollout.state);
    if let Some(moving) = rollout.filter(|state| !state.phase.is_over()) {
        let (release, phase) = (&moving.release, moving.phase.name());
        return Err(Refusal::Unready(format!(
            "the rollout of {release} to {deployment} is {phase}, and a job trains what all devices have: wait for its end"
        )));
    }
    let base = release_record(records, current)?;
    match base.standing() {
        ReleaseStanding::Published => Ok(base),
        _ => Err(Refusal::Unready(format!(
            "{current}, which {deployment} runs, was withdrawn: deploy a release that is published first"
        ))),
    }
}

fn check(spec: &FederatedJobSpec) -> Result<(), Refusal> {
    if spec.epsilon == 0.0 && spec.delta == 0.0 {
        return Err(Refusal::invalid(
            "spec.epsilon",
            "a federated job needs a privacy budget: epsilon above 0 and delta in (0, 1)",
        ));
    }
    real(
        "epsilon",
        spec.epsilon,
        spec.epsilon > 0.0 && spec.epsilon <= MAX_JOB_EPSILON,
        "a number above 0, and at most 10000",
    )?;
    real(
        "delta",
        spec.delta,
        spec.delta > 0.0 && spec.delta < 1.0,
        "a number above 0 and below 1",
    )?;
    number("rounds", spec.rounds, 1, MAX_ROUNDS)?;
    number("rank", spec.rank, 1, LORA_RANK_MAX)?;
    real(
        "alpha",
        f64::from(spec.alpha),
        spec.alpha > 0.0,
        "a finite number above 0",
    )?;
    number("steps_per_round", spec.steps_per_round, 1, MAX_ROUND_STEPS)?;
    real(
        "sampling_rate",
        spec.sampling_rate,
        spec.sampling_rate > 0.0 && spec.sampling_rate <= 1.0,
        "a rate in (0, 1]",
    )?;
    real(
        "clip_norm",
        spec.clip_norm,
        spec.clip_norm > 0.0,
        "a finite number above 0",
    )?;
    real(
        "noise_multiplier",
        spec.noise_multiplier,
        spec.noise_multiplier >= 0.0,
        "0, or a finite number above it",
    )?;
    number("examples_per_device", spec.examples_per_device, 1, u32::MAX)?;
    real(
        "learning_rate",
        spec.learning_rate,
        spec.learning_rate >= 0.0,
        "a finite number of at least 0",
    )?;
    number(
        "max_sequence_tokens",
        spec.max_sequence_tokens,
        1,
        MAX_TRAINING_SEQUENCE,
    )?;
    number("cohort", spec.cohort, 1, MAX_COHORT)?;
    number("quorum", spec.quorum, 1, spec.cohort)?;
    number("attempts_per_round", spec.attempts_per_round, 1, MAX_ATTEMPTS)?;
    let longest = u64::try_from(ROUND_DEADLINE_MAX.as_millis()).unwrap_or(u64::MAX);
    number("round_deadline_ms", spec.round_deadline_ms, 1, longest)?;
    let gate = spec.gate.required("spec.gate")?;
    real("gate.min_loss_gain", gate.min_loss_gain, true, "a finite number")?;
    real(
        "gate.min_exact_match_gain",
        gate.min_exact_match_gain,
        true,
        "a finite number",
    )
}

/// Writes the job and reserves the number of the release that it will become.
async fn start(
    plane: &ControlPlane,
    name: &JobName,
    model: &fieldfare_fleet::ModelName,
    work: job_record::Work,
    base: Option<(String, Vec<u8>)>,
) -> Result<Job, Refusal> {
    let now = plane.unix_ms();
    let (record, status) = attempt!("the job", plane.records, change, {
        let held: Option<JobRecord> = change.read(&plane.keys.job(name)).await?;
        match held {
            // Said again by a caller that lost the answer.
            Some(held) if held.work.as_ref() == Some(&work) => {
                let status: Option<JobStatusRecord> = change.read(&plane.keys.job_status(name)).await?;
                return Ok(view::job(name, &held, &status.unwrap_or_default()));
            }
            Some(_) => {
                return Err(Refusal::Exists {
                    what: "job",
                    name: name.to_string(),
                });
            }
            None => {}
        }
        let mut numbers: ModelRecord = change.read(&plane.keys.model(model)).await?.unwrap_or_default();
        numbers.last_release += 1;
        change.put(plane.keys.model(model), &mut numbers);
        let (base_manifest_target, base_manifest_sha256) = base.clone().unwrap_or_default();
        let mut record = JobRecord {
            generation: None,
            created_unix_ms: now,
            work: Some(work.clone()),
            release_number: numbers.last_release,
            cancelled: false,
            base_manifest_target,
            base_manifest_sha256,
        };
        change.put(plane.keys.job(name), &mut record);
        let mut status = JobStatusRecord {
            updated_unix_ms: now,
            ..JobStatusRecord::default()
        };
        status.set_stage(JobStage::Waiting);
        change.put(plane.keys.job_status(name), &mut status);
        (record, status)
    });
    tracing::info!(job = %name, "a job waits for a trainer");
    Ok(view::job(name, &record, &status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fieldfare_proto::v1::EvaluationGate;

    fn valid() -> FederatedJobSpec {
        FederatedJobSpec {
            job: "night".into(),
            deployment: "soil".into(),
            rounds: 5,
            rank: 4,
            alpha: 8.0,
            steps_per_round: 8,
            sampling_rate: 0.16,
            clip_norm: 0.5,
            examples_per_device: 200,
            epsilon: 8.0,
            delta: 1e-5,
            learning_rate: 0.01,
            max_sequence_tokens: 128,
            cohort: 5,
            quorum: 3,
            round_deadline_ms: 60_000,
            attempts_per_round: 3,
            gate: Some(EvaluationGate::default()),
            ..FederatedJobSpec::default()
        }
    }

    #[test]
    fn a_file_of_a_hub_has_an_owner_and_a_repository() {
        assert!(names_hub_file("hf://TheBloke/TinyLlama-1.1B/gguf/model.Q4_0.GGUF"));
        for uri in [
            "hf://a/b",
            "hf://a/c.gguf",
            "hf:///b/c.gguf",
            "hf://a/b/c.bin",
            "hf://a/b/",
            "s3://a/b/c.gguf",
            "",
        ] {
            assert!(!names_hub_file(uri), "{uri}");
        }
    }

    #[test]
    fn a_job_that_cannot_work_is_refused_with_its_field() {
        assert!(check(&valid()).is_ok());
        assert!(
            check(&FederatedJobSpec {
                learning_rate: 0.0,
                noise_multiplier: 50.0,
                ..valid()
            })
            .is_ok()
        );
        let cases: [(&str, FederatedJobSpec); 11] = [
            (
                "spec.epsilon",
                FederatedJobSpec {
                    epsilon: 0.0,
                    delta: 0.0,
                    ..valid()
                },
            ),
            (
                "spec.epsilon",
                FederatedJobSpec {
                    epsilon: f64::NAN,
                    ..valid()
                },
            ),
            (
                "spec.epsilon",
                FederatedJobSpec {
                    epsilon: f64::INFINITY,
                    ..valid()
                },
            ),
            ("spec.delta", FederatedJobSpec { delta: 1.0, ..valid() }),
            ("spec.rounds", FederatedJobSpec { rounds: 0, ..valid() }),
            (
                "spec.sampling_rate",
                FederatedJobSpec {
                    sampling_rate: 1.1,
                    ..valid()
                },
            ),
            (
                "spec.clip_norm",
                FederatedJobSpec {
                    clip_norm: 0.0,
                    ..valid()
                },
            ),
            ("spec.quorum", FederatedJobSpec { quorum: 6, ..valid() }),
            (
                "spec.cohort",
                FederatedJobSpec {
                    cohort: MAX_COHORT + 1,
                    ..valid()
                },
            ),
            (
                "spec.round_deadline_ms",
                FederatedJobSpec {
                    round_deadline_ms: 0,
                    ..valid()
                },
            ),
            ("spec.gate", FederatedJobSpec { gate: None, ..valid() }),
        ];
        for (field, spec) in cases {
            let refusal = check(&spec).unwrap_err();
            assert!(
                matches!(&refusal, Refusal::Invalid { field: found, .. } if found == field),
                "{field}: {refusal}"
            );
        }
    }
}
