//! Placement: asks `fieldfare-fleet` which variant a class of devices runs, with what devices of that class really reach.

use std::collections::BTreeMap;

use fieldfare_fleet::placement::{
    Correction, PlacementReport, Requirements, SpeedObservation, VariantSpec, place, predict,
};
use fieldfare_fleet::{DeploymentName, ProfileClass, Provenance, TokensPerSecond, VariantName};
use fieldfare_proto::v1::{self, DeploymentSpec, ReleaseRecord};

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
    /// The manifest's own names of the variants, by the fleet's.
    names: BTreeMap<VariantName, String>,
    requirements: Requirements,
    corrections: BTreeMap<ProfileClass, Correction>,
}

/// The requirements in a deployment's specification.
pub fn requirements(spec: Option<v1::Requirements>) -> Result<Requirements, Refusal> {
    let requirements = spec.ok_or_else(|| Refusal::invalid("requirements", "is missing"))?;
    Ok(Requirements::try_from(requirements).map_err(|error| error.within("requirements"))?)
}

/// The record of the release whose manifest this is.
pub fn release_record(records: &Records, manifest_target: &str) -> Result<ReleaseRecord, Refusal> {
    let id = release_id(manifest_target)?;
    let found = records.releases.get(&(id.model.clone(), id.number.0));
    let found = found.filter(|record| record.manifest_target == manifest_target);
    found
        .cloned()
        .ok_or_else(|| Refusal::missing("release", manifest_target))
}

impl Placement {
    /// Prepares to place a release.
    pub async fn of(plane: &ControlPlane, manifest_target: &str, requirements: Requirements) -> Result<Self, Refusal> {
        let record = release_record(&plane.mirror.read(), manifest_target)?;
        let manifest = plane.manifests.get(&record).await?;
        let variants = variant_specs(&manifest)?;
        let own = manifest.variants.iter().map(|variant| variant.name.to_string());
        let names: BTreeMap<_, _> = variants.iter().map(|spec| spec.name.clone()).zip(own).collect();
        let corrections = corrections(&plane.mirror.read(), manifest_target, &variants, &names, &requirements);
        Ok(Self {
            manifest_target: manifest_target.to_owned(),
            variants,
            names,
            requirements,
            corrections,
        })
    }

    /// Prepares to place the release that a deployment's specification names.
    pub async fn of_deployment(plane: &ControlPlane, spec: &DeploymentSpec) -> Result<Self, Refusal> {
        Self::of(plane, &spec.manifest_target, requirements(spec.requirements)?).await
    }

    fn place(&self, class: &ProfileClass) -> PlacementReport {
        let correction = self.corrections.get(class).copied().unwrap_or_default();
        place(&class.capacity(), &self.variants, &self.requirements, correction)
    }

    /// The variant that devices of a class run, by its name in the manifest; none where none fits.
    pub fn choose(&self, class: &ProfileClass) -> Option<String> {
        self.place(class)
            .chosen
            .and_then(|chosen| self.names.get(&chosen).cloned())
    }

    /// The report for one class of devices, with the manifest's names.
    pub fn report(&self, class: &ProfileClass) -> v1::PlacementReport {
        let own = |name: &mut String| {
            if let Some(found) = VariantName::new(name.as_str())
                .ok()
                .and_then(|name| self.names.get(&name))
            {
                name.clone_from(found);
            }
        };
        let mut report = v1::PlacementReport::from(&self.place(class));
        own(&mut report.chosen);
        for variant in &mut report.variants {
            own(&mut variant.variant);
            if let Some(v1::variant_placement::Verdict::Eligible(eligible)) = &mut variant.verdict {
                own(&mut eligible.better);
            }
        }
        report
    }
}

/// What devices of each class reach with variants of this release, as a factor on the roofline. A device that stands in for
/// another machine says nothing about that machine's speed.
fn corrections(
    records: &Records,
    manifest_target: &str,
    variants: &[VariantSpec],
    names: &BTreeMap<VariantName, String>,
    requirements: &Requirements,
) -> BTreeMap<ProfileClass, Correction> {
    let mut seen: BTreeMap<ProfileClass, Vec<SpeedObservation>> = BTreeMap::new();
    for (id, status) in &records.device_status {
        let reports = status.observed.iter().flat_map(|observed| &observed.models);
        for report in reports.filter(|report| report.running_manifest_target == manifest_target) {
            let speed = report
                .evidence
                .and_then(|evidence| evidence.tokens_per_second)
                .unwrap_or(0.0);
            let variant = variants
                .iter()
                .find(|variant| names.get(&variant.name) == Some(&report.running_variant));
            let (Some(variant), true) = (variant, speed > 0.0) else {
                continue;
            };
            let Some(member) = Member::of(*id, records).filter(|m| m.profile.provenance == Provenance::Measured) else {
                continue;
            };
            let capacity = member.class.capacity();
            let predicted = predict(&capacity, variant, requirements.context, Correction::NONE).tokens_per_second;
            let measured = TokensPerSecond::clamped(speed);
            seen.entry(member.class)
                .or_default()
                .push(SpeedObservation { predicted, measured });
        }
    }
    seen.into_iter()
        .filter_map(|(class, speeds)| Correction::learned(&speeds).map(|c| (class, c)))
        .collect()
}

/// Variants that the devices of a deployment run now, each once, in the order of their names.
pub fn variants_in_use(records: &Records, deployment: &DeploymentName, manifest_target: &str) -> Vec<String> {
    let spec = records
        .deployments
        .get(deployment)
        .and_then(|record| record.spec.as_ref());
    let Some(selector) = selector(spec) else {
        return Vec::new();
    };
    let mut variants = std::collections::BTreeSet::new();
    for member in members(records, &selector) {
        let reports = records
            .device_status
            .get(&member.id)
            .and_then(|status| status.observed.as_ref());
        let running = reports.into_iter().flat_map(|observed| &observed.models);
        let running =
            running.filter(|m| m.deployment == deployment.as_str() && m.running_manifest_target == manifest_target);
        variants.extend(running.map(|model| model.running_variant.clone()));
    }
    variants.into_iter().filter(|variant| !variant.is_empty()).collect()
}
