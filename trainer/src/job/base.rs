//! The release that a job trains on top of: its manifest, the weights in use, and the adapter it may bring.

use fieldfare_proto::v1::FederatedWork;
use fieldfare_release::manifest::{Artifact, Variant};
use fieldfare_release::{ReleaseManifest, Sha256Digest, TargetName};

use crate::download::Downloaded;
use crate::failure::WorkError;
use crate::import::digest;
use crate::work::Workshop;

/// The base release.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub(super) target: TargetName,
    pub(super) sha256: Sha256Digest,
    pub(super) manifest: ReleaseManifest,
    /// Bytes of its adapter, where it has one.
    pub(super) adapter: Option<Vec<u8>>,
}

/// The weights of one variant in use.
#[derive(Clone, Debug)]
pub(super) struct WeightsFile {
    pub(super) variant: String,
    /// Bytes per token: the more, the more precise.
    pub(super) weight_bytes: u64,
    pub(super) file: Downloaded,
}

/// Fetches what a job needs of its base release: the manifest as the controller named it, the weights of the variants in use
/// (of all, where none is named), the most precise first.
pub(super) async fn fetch(
    workshop: &Workshop,
    job: &str,
    work: &FederatedWork,
) -> Result<(Base, Vec<WeightsFile>), WorkError> {
    let target: TargetName = work
        .base_manifest_target
        .parse()
        .map_err(WorkError::impossible("field `base_manifest_target`"))?;
    let sha256 = digest("base_manifest", &work.base_manifest_sha256)?;
    let bytes = workshop
        .artifacts
        .read(sha256, fieldfare_release::limits::MAX_MANIFEST_BYTES as u64)
        .await?;
    let manifest = ReleaseManifest::decode(&target, &bytes).map_err(WorkError::impossible("the base release"))?;
    let folder = workshop
        .folder
        .job(job)
        .map_err(WorkError::interrupted("making the job's folder"))?;
    let mut files = Vec::new();
    for variant in in_use(&manifest, &work.variants_in_use)? {
        let weights = variant.weights().ok_or_else(|| missing(variant.name.as_str()))?;
        let path = folder.join(format!("{}.gguf", weights.sha256));
        let file = workshop
            .artifacts
            .fetch(weights.sha256, weights.length, &path, |_, _| {})
            .await?;
        files.push(WeightsFile {
            variant: variant.name.to_string(),
            weight_bytes: variant.figures.weight_bytes,
            file,
        });
    }
    files.sort_by_key(|file| std::cmp::Reverse(file.weight_bytes));
    let adapter = match one_adapter(&manifest)? {
        Some(artifact) => Some(workshop.artifacts.read(artifact.sha256, artifact.length).await?),
        None => None,
    };
    Ok((
        Base {
            target,
            sha256,
            manifest,
            adapter,
        },
        files,
    ))
}

fn missing(variant: &str) -> WorkError {
    WorkError::Impossible(format!(
        "field `variants_in_use`: the base release has no variant {variant:?}"
    ))
}

fn in_use<'a>(manifest: &'a ReleaseManifest, names: &[String]) -> Result<Vec<&'a Variant>, WorkError> {
    if names.is_empty() {
        return Ok(manifest.variants.iter().collect());
    }
    let find = |name: &String| {
        let found = manifest.variants.iter().find(|variant| variant.name.as_str() == name);
        found.ok_or_else(|| missing(name))
    };
    names.iter().map(find).collect()
}

/// The adapter that all variants share; a base whose variants have unlike ones cannot be continued.
fn one_adapter(manifest: &ReleaseManifest) -> Result<Option<&Artifact>, WorkError> {
    let mut adapters = manifest.variants.iter().map(Variant::adapter);
    let first = adapters.next().flatten();
    if adapters.all(|other| other.map(|a| a.sha256) == first.map(|a| a.sha256)) {
        Ok(first)
    } else {
        Err(WorkError::Impossible(
            "the variants of the base release have different adapters".to_owned(),
        ))
    }
}
