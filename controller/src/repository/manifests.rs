//! Release manifests in memory, and what placement sees of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use fieldfare_fleet::placement::{Loss, VariantSpec};
use fieldfare_fleet::{Arithmetic, ByteSize, NatsPerToken, ReleaseId, ReleaseNumber, Runtime, TrustTier, VariantName};
use fieldfare_proto::v1::ReleaseRecord;
use fieldfare_release::limits::MAX_MANIFEST_BYTES;
use fieldfare_release::manifest::{self, Figures};
use fieldfare_release::{ReleaseManifest, Sha256Digest, TargetKind, TargetName};

use crate::blobs::Blobs;
use crate::limits::MANIFEST_CACHE_MAX;
use crate::refusal::Refusal;

/// Manifests by content. A digest never means another manifest, so nothing here grows old.
#[derive(Debug)]
pub struct Manifests {
    blobs: Blobs,
    cache: Mutex<BTreeMap<Sha256Digest, Arc<ReleaseManifest>>>,
}

impl Manifests {
    /// Manifests that lie among these blobs.
    pub fn new(blobs: Blobs) -> Self {
        Self {
            blobs,
            cache: Mutex::default(),
        }
    }

    /// The bytes of a release's manifest.
    pub async fn bytes(&self, record: &ReleaseRecord) -> Result<Vec<u8>, Refusal> {
        let lost = || Refusal::broken("reading a manifest", format!("{} is lost", record.manifest_target));
        let sha256 = <[u8; 32]>::try_from(record.manifest_sha256.as_slice()).map_err(|_| lost())?;
        let sha256 = Sha256Digest::from_bytes(sha256);
        let bytes = self
            .blobs
            .read(&sha256, MAX_MANIFEST_BYTES as u64)
            .await?
            .ok_or_else(lost)?;
        Ok(bytes.to_vec())
    }

    /// The manifest of a release.
    pub async fn get(&self, record: &ReleaseRecord) -> Result<Arc<ReleaseManifest>, Refusal> {
        let digest = <[u8; 32]>::try_from(record.manifest_sha256.as_slice()).map(Sha256Digest::from_bytes);
        let held = digest.ok().and_then(|digest| self.lock().get(&digest).cloned());
        if let Some(manifest) = held {
            return Ok(manifest);
        }
        let bytes = self.bytes(record).await?;
        let unreadable = |error: String| Refusal::broken("reading a manifest", error);
        let name: TargetName = record
            .manifest_target
            .parse()
            .map_err(|error| unreadable(format!("{error}")))?;
        let manifest =
            ReleaseManifest::decode(&name, &bytes).map_err(|error| unreadable(crate::refusal::chain(&error)))?;
        let manifest = Arc::new(manifest);
        let mut cache = self.lock();
        if cache.len() >= MANIFEST_CACHE_MAX {
            cache.pop_first();
        }
        cache.insert(Sha256Digest::of(&bytes), Arc::clone(&manifest));
        Ok(manifest)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Sha256Digest, Arc<ReleaseManifest>>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The release that a manifest target names, as the fleet calls it.
pub fn release_id(target: &str) -> Result<ReleaseId, Refusal> {
    let name: TargetName = target
        .parse()
        .map_err(|error| Refusal::invalid("manifest_target", error))?;
    if !matches!(name.kind(), TargetKind::Release | TargetKind::AdapterRelease) {
        return Err(Refusal::invalid(
            "manifest_target",
            format!("{name} is no release manifest"),
        ));
    }
    let model = name
        .model()
        .as_str()
        .parse()
        .map_err(|error| Refusal::invalid("manifest_target", error))?;
    Ok(ReleaseId {
        model,
        number: ReleaseNumber(u64::from(name.release().get())),
    })
}

/// The variants of a release as placement sees them, in the manifest's order.
pub fn variant_specs(manifest: &ReleaseManifest) -> Result<Vec<VariantSpec>, Refusal> {
    let specs: Vec<VariantSpec> = manifest.variants.iter().map(variant_spec).collect::<Result<_, _>>()?;
    for (index, spec) in specs.iter().enumerate() {
        if specs[..index].iter().any(|earlier| earlier.name == spec.name) {
            return Err(Refusal::invalid(
                "variants",
                format!("two variants are both {} to the fleet", spec.name),
            ));
        }
    }
    Ok(specs)
}

fn variant_spec(variant: &manifest::Variant) -> Result<VariantSpec, Refusal> {
    let impossible = |what: String| Refusal::invalid(format!("variants.{}", variant.name), what);
    let figures = &variant.figures;
    let artifacts: u64 = variant.artifacts.values().map(|artifact| artifact.length).sum();
    let cache = figures
        .kv_bytes_per_token
        .saturating_mul(u64::from(figures.context_tokens));
    let resident = artifacts.saturating_add(cache);
    let loss = NatsPerToken::new(figures.held_out_loss).map_err(|error| impossible(error.to_string()))?;
    Ok(VariantSpec {
        name: VariantName::new(variant.name.as_str()).map_err(|error| impossible(error.to_string()))?,
        runtime: match variant.runtime {
            manifest::Runtime::CandleGguf => Runtime::CandleGguf,
        },
        arithmetic: arithmetic(figures),
        weight_bytes: ByteSize::new(artifacts),
        bytes_per_token: ByteSize::new(figures.weight_bytes.min(artifacts)),
        kv_bytes_per_token: ByteSize::new(figures.kv_bytes_per_token),
        working_memory: ByteSize::new(variant.requirements.memory_bytes.saturating_sub(resident)),
        context: figures.context_tokens,
        flops_per_token: figures.flops_per_token,
        params: figures.parameters,
        loss: Loss::Known(loss),
        min_trust: TrustTier::Unattested,
    })
}

/// Weights of ten bits and less are quantised blocks, which the kernels multiply as 8-bit integers; wider ones are widened to
/// 32-bit floats.
fn arithmetic(figures: &Figures) -> Arithmetic {
    let quantised = figures.weight_bytes.saturating_mul(8) <= figures.parameters.saturating_mul(10);
    if quantised { Arithmetic::Int8 } else { Arithmetic::F32 }
}
