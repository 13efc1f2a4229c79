//! What a job brings forth: a proposed release for an operator to sign, or one signed by the trainer's delegated key.

use fieldfare_fleet::{ModelName, ReleaseNumber};
use fieldfare_proto::v1::{GetDelegationResponse, JobRecord, ReleaseRecord, ReleaseStanding};
use fieldfare_release::tuf::adapter_role;
use fieldfare_release::{ReleaseManifest, Sha256Digest, TargetName};

use super::claims::HeldClaim;
use crate::plane::ControlPlane;
use crate::records::attempt;
use crate::refusal::{Refusal, chain};
use crate::repository::manifests::{release_id, variant_specs};

/// The manifest's name and content, if they are those of the job's release.
fn manifest(job: &JobRecord, target: &str, bytes: &[u8]) -> Result<(TargetName, ModelName, ReleaseManifest), Refusal> {
    let id = release_id(target)?;
    if id.number != ReleaseNumber(job.release_number) {
        let expected = format!("is release {}, the job's is r{}", id.number, job.release_number);
        return Err(Refusal::invalid("manifest_target", expected));
    }
    let name: TargetName = target
        .parse()
        .map_err(|error| Refusal::invalid("manifest_target", error))?;
    let manifest =
        ReleaseManifest::decode(&name, bytes).map_err(|error| Refusal::invalid("manifest", chain(&error)))?;
    variant_specs(&manifest)?;
    Ok((name, id.model, manifest))
}

/// Enters a release that waits for a signature. Repeating it replaces the manifest of the same proposal.
pub(super) async fn propose(held: &HeldClaim, plane: &ControlPlane, target: &str, bytes: &[u8]) -> Result<(), Refusal> {
    let sha256 = Sha256Digest::of(bytes);
    attempt!("the release", plane.records, change, {
        let (job, mut status) = held.job(&mut change).await?;
        let (name, model, manifest) = manifest(&job, target, bytes)?;
        for (artifact_name, artifact) in manifest.artifacts() {
            if plane.releases.blobs().hold(&artifact.sha256).await? != Some(artifact.length) {
                let expected = format!("its artifact {artifact_name} ({}) is not uploaded", artifact.sha256);
                return Err(Refusal::invalid("manifest", expected));
            }
        }
        plane.releases.blobs().put(bytes.to_vec()).await?;
        let key = plane.keys.release(&model, job.release_number);
        let before: Option<ReleaseRecord> = change.read(&key).await?;
        let mut record = before.unwrap_or_else(|| ReleaseRecord {
            created_unix_ms: plane.unix_ms(),
            ..ReleaseRecord::default()
        });
        if !matches!(
            record.standing(),
            ReleaseStanding::Unspecified | ReleaseStanding::Proposed
        ) {
            return Err(Refusal::Exists {
                what: "release",
                name: name.to_string(),
            });
        }
        record.manifest_target = name.to_string();
        record.manifest_sha256 = sha256.as_bytes().to_vec();
        record.manifest_length_bytes = bytes.len() as u64;
        record.job = held.job.to_string();
        record.set_standing(ReleaseStanding::Proposed);
        change.put(key, &mut record);
        status.manifest_target = name.to_string();
        held.put_status(&mut change, &mut status);
    });
    tracing::info!(job = %held.job, target, "a release is proposed");
    Ok(())
}

/// The metadata that a delegated publication of a model builds on.
pub(super) async fn delegation(plane: &ControlPlane, model: &str) -> Result<GetDelegationResponse, Refusal> {
    let model: fieldfare_release::ModelName = model.parse().map_err(|error| Refusal::invalid("model", error))?;
    let role = adapter_role(&model);
    let repository = plane.releases.current().await?;
    let targets = repository.as_ref().and_then(|repository| repository.targets());
    if targets
        .and_then(|targets| targets.payload().delegation(&role))
        .is_none()
    {
        return Err(Refusal::Unready(format!(
            "the targets delegate nothing to {role}: an operator signs that with `fieldfare release delegate {model} --trainer NAME`"
        )));
    }
    let delegated = repository.as_ref().and_then(|repository| repository.delegated(&role));
    Ok(GetDelegationResponse {
        delegated_targets: delegated.map(|file| file.bytes().to_vec()).unwrap_or_default(),
        role,
    })
}

/// Publishes the job's release under the trainer's delegated role, if the claim is still the current one.
pub(super) async fn publish(
    held: &HeldClaim,
    plane: &ControlPlane,
    target: &str,
    bytes: &[u8],
    metadata: &[u8],
) -> Result<(), Refusal> {
    let job: Option<JobRecord> = plane.records.get(&plane.keys.job(&held.job)).await?;
    let job = job.ok_or_else(|| Refusal::missing("job", &held.job))?;
    let (name, ..) = manifest(&job, target, bytes)?;
    plane.releases.publish_delegated(&name, bytes, metadata, held).await?;
    attempt!("the job", plane.records, change, {
        let (_, mut status) = held.job(&mut change).await?;
        status.manifest_target = name.to_string();
        held.put_status(&mut change, &mut status);
    });
    tracing::info!(job = %held.job, target, "a delegated release is published");
    Ok(())
}
