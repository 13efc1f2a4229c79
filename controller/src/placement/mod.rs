//! Placement: asks `fieldfare-fleet` which variant a class of devices runs, with what devices of that class really reach.

mod speed;

use std::collections::BTreeMap;

use fieldfare_fleet::placement::{PlacementReport, Requirements, VariantSpec, place};
use fieldfare_fleet::{DeploymentName, ProfileClass};
use fieldfare_proto::v1::{self, ReleaseRecord};

use crate::mirror::Records;
use crate::plane::ControlPlane;
use crate::refusal::Refusal;
use crate::repository::manifests::{release_id, variant_specs};
use crate::rollout::desired::members_of;
use speed::Learned;

/// A release's variants, ready to be placed under the requirements of a deployment.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The release's manifest target.
    pub manifest_target: String,
    variants: Vec<VariantSpec>,
    requirements: Requirements,
    learned: BTreeMap<ProfileClass, Learned>,
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
        Ok(Self {
            manifest_target: manifest_target.to_owned(),
            variants,
            requirements,
            learned: speed::learned(plane).await,
        })
    }

    fn place(&self, class: &ProfileClass) -> PlacementReport {
        let correction = self.learned(class).correction;
        place(&class.capacity(), &self.variants, &self.requirements, correction)
    }

    fn learned(&self, class: &ProfileClass) -> Learned {
        self.learned.get(class).copied().unwrap_or_default()
    }

    /// The variant that devices of a class run; none where none fits.
    pub fn choose(&self, class: &ProfileClass) -> Option<String> {
        self.place(class).chosen.map(|chosen| chosen.to_string())
    }

    /// The report for one class of devices.
    pub fn report(&self, class: &ProfileClass) -> v1::PlacementReport {
        let mut report = v1::PlacementReport::from(&self.place(class));
        report.speed_correction_devices = self.learned(class).devices;
        report
    }
}

/// Variants that the devices of a deployment run now, each once, in the order of their names.
pub fn variants_in_use(records: &Records, deployment: &DeploymentName, manifest_target: &str) -> Vec<String> {
    let mut variants = std::collections::BTreeSet::new();
    for member in members_of(records, deployment) {
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
