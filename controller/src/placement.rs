//! Placement: asks `fieldfare-fleet` which variant a class of devices runs, with what devices of that class really reach.

use std::collections::BTreeMap;

use fieldfare_fleet::placement::{
    Correction, PlacementReport, Requirements, SpeedObservation, VariantSpec, place, predict,
};
use fieldfare_fleet::{DeploymentName, ProfileClass, Provenance, TokensPerSecond};
use fieldfare_proto::v1::{DeploymentSpec, ReleaseRecord};

use crate::mirror::Records;
use crate::plane::ControlPlane;
use crate::refusal::Refusal;
use crate::repository::manifests::{release_id, variant_specs};
use crate::rollout::desired::{Member, members, selector};

/// A release's variants, ready to be placed under the requirements of a deployment.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The release's manifest target.
    pub manifest_target: String,
    variants: Vec<VariantSpec>,
    requirements: Requirements,
    corrections: BTreeMap<ProfileClass, Correction>,
}

/// The requirements in a deployment's specification.
pub fn requirements(spec: Option<fieldfare_proto::v1::Requirements>) -> Result<Requirements, Refusal> {
    let requirements = spec.ok_or_else(|| Refusal::invalid("requirements", "is missing"))?;
    Ok(Requirements::try_from(requirements).map_err(|error| error.within("requirements"))?)
}

/// The record of the release whose manifest this is.
pub fn release_record(records: &Records, manifest_target: &str) -> Result<ReleaseRecord, Refusal> {
    let id = release_id(manifest_target)?;
    let found = records.releases.get(&(id.model.clone(), id.number.0));
    let found = found.filter(|record| record.manifest_target == manifest_target);
    found.cloned().ok_or_else(|| Refusal::missing("release", manifest_target))
}

impl Placement {
    /// Prepares to place a release.
    pub async fn of(plane: &ControlPlane, manifest_target: &str, requirements: Requirements) -> Result<Self, Refusal> {
        let record = release_record(&plane.mirror.read(), manifest_target)?;
        let variants = variant_specs(&*plane.manifests.get(&record).await?)?;
        let corrections = corrections(&plane.mirror.read(), manifest_target, &variants, &requirements);
        Ok(Self { manifest_target: manifest_target.to_owned(), variants, requirements, corrections })
    }

    /// Prepares to place the release that a deployment's specification names.
    pub async fn of_deployment(plane: &ControlPlane, spec: &DeploymentSpec) -> Result<Self, Refusal> {
        Self::of(plane, &spec.manifest_target, requirements(spec.requirements)?).await
    }

    /// The report for one class of devices.
    pub fn report(&self, class: &ProfileClass) -> PlacementReport {
        let correction = self.corrections.get(class).copied().unwrap_or_default();
        place(&class.capacity(), &self.variants, &self.requirements, correction)
    }
}

/// What devices of each class reach with variants of this release, as a factor on the roofline. A device that stands in for
/// another machine says nothing about that machine's speed.
fn corrections(
    records: &Records,
    manifest_target: &str,
    variants: &[VariantSpec],
    requirements: &Requirements,
) -> BTreeMap<ProfileClass, Correction> {
    let mut seen: BTreeMap<ProfileClass, Vec<SpeedObservation>> = BTreeMap::new();
    for (id, status) in &records.device_status {
        let reports = status.observed.iter().flat_map(|observed| &observed.models);
        for report in reports.filter(|report| report.running_manifest_target == manifest_target) {
            let speed = report.evidence.and_then(|evidence| evidence.tokens_per_second).unwrap_or(0.0);
            let variant = variants.iter().find(|variant| variant.name.as_str() == report.running_variant);
            let (Some(variant), true) = (variant, speed > 0.0) else { continue };
            let Some(member) = Member::of(*id, records).filter(|m| m.profile.provenance == Provenance::Measured) else { continue };
            let capacity = member.class.capacity();
            let predicted = predict(&capacity, variant, requirements.context, Correction::NONE).tokens_per_second;
            let measured = TokensPerSecond::clamped(speed);
            seen.entry(member.class).or_default().push(SpeedObservation { predicted, measured });
        }
    }
    seen.into_iter().filter_map(|(class, speeds)| Correction::learned(&speeds).map(|c| (class, c))).collect()
}

/// Variants that the devices of a deployment run now, each once, in the order of their names.
pub fn variants_in_use(records: &Records, deployment: &DeploymentName, manifest_target: &str) -> Vec<String> {
    let spec = records.deployments.get(deployment).and_then(|record| record.spec.as_ref());
    let Some(selector) = selector(spec) else { return Vec::new() };
    let mut variants = std::collections::BTreeSet::new();
    for member in members(records, &selector) {
        let reports = records.device_status.get(&member.id).and_then(|status| status.observed.as_ref());
        let running = reports.into_iter().flat_map(|observed| &observed.models);
        let running = running.filter(|m| m.deployment == deployment.as_str() && m.running_manifest_target == manifest_target);
        variants.extend(running.map(|model| model.running_variant.clone()));
    }
    variants.into_iter().filter(|variant| !variant.is_empty()).collect()
}
