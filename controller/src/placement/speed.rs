//! What devices of each class really reach, learned from what they report of the variants that they run, whatever the release.

use std::collections::{BTreeMap, BTreeSet};

use fieldfare_fleet::placement::{Correction, SpeedObservation, VariantSpec};
use fieldfare_fleet::{DeviceId, ProfileClass, Provenance, TokensPerSecond};
use fieldfare_proto::v1::ObservedState;

use super::release_record;
use crate::mirror::Records;
use crate::plane::ControlPlane;
use crate::refusal::chain;
use crate::repository::manifests::variant_specs;
use crate::rollout::desired::Member;

/// A correction of the roofline, and how many devices taught it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Learned {
    pub(super) correction: Correction,
    pub(super) devices: u32,
}

/// What one device says of one model that it runs.
struct Report {
    device: DeviceId,
    class: ProfileClass,
    manifest_target: String,
    variant: String,
    speed: TokensPerSecond,
}

/// The newest report of each device: that of its session here, or the one that was worth a write.
fn newest(plane: &ControlPlane, records: &Records, device: DeviceId) -> Option<ObservedState> {
    let here = plane.presence.of(device).and_then(|sign| sign.observed);
    here.or_else(|| records.device_status.get(&device)?.observed.clone())
}

/// Reports that say something about speed. A device that stands in for another machine says nothing about that machine's speed.
fn reports(plane: &ControlPlane) -> Vec<Report> {
    let records = plane.mirror.read();
    let members = records.devices.keys().filter_map(|id| Member::of(*id, &records));
    let measured = members.filter(|member| member.profile.provenance == Provenance::Measured);
    let of_member = |member: Member| {
        let models = newest(plane, &records, member.id).unwrap_or_default().models;
        models.into_iter().filter_map(move |model| {
            let speed = model.evidence?.tokens_per_second.filter(|speed| *speed > 0.0)?;
            Some(Report {
                device: member.id,
                class: member.class.clone(),
                manifest_target: model.running_manifest_target,
                variant: model.running_variant,
                speed: TokensPerSecond::clamped(speed),
            })
        })
    };
    measured.flat_map(of_member).collect()
}

/// The variants of the releases that somebody runs, by manifest and by the manifest's own name. A release that cannot be read any
/// more teaches nothing.
async fn variants(plane: &ControlPlane, targets: BTreeSet<String>) -> BTreeMap<(String, String), VariantSpec> {
    let mut found = BTreeMap::new();
    for target in targets {
        let record = release_record(&plane.mirror.read(), &target);
        let read = async {
            let manifest = plane.manifests.get(&record?).await?;
            variant_specs(&manifest)
        };
        match read.await {
            Ok(specs) => {
                let named = |spec: VariantSpec| ((target.clone(), spec.name.to_string()), spec);
                found.extend(specs.into_iter().map(named));
            }
            Err(error) => tracing::debug!(target, error = chain(&error), "its speeds teach nothing"),
        }
    }
    found
}

/// What was learned about each class that has something to say.
pub(super) async fn learned(plane: &ControlPlane) -> BTreeMap<ProfileClass, Learned> {
    let reports = reports(plane);
    let targets = reports.iter().map(|report| report.manifest_target.clone()).collect();
    let variants = variants(plane, targets).await;
    let mut seen: BTreeMap<ProfileClass, BTreeMap<DeviceId, Vec<SpeedObservation>>> = BTreeMap::new();
    for report in reports {
        let Some(variant) = variants.get(&(report.manifest_target, report.variant)) else {
            continue;
        };
        let observed = SpeedObservation::of(&report.class.capacity(), variant, report.speed);
        let of_class = seen.entry(report.class).or_default();
        of_class.entry(report.device).or_default().push(observed);
    }
    let learn = |(class, devices): (ProfileClass, BTreeMap<DeviceId, Vec<SpeedObservation>>)| {
        let devices: Vec<_> = devices.into_values().collect();
        let learned = Learned {
            correction: Correction::learned(&devices)?,
            devices: u32::try_from(devices.len()).unwrap_or(u32::MAX),
        };
        Some((class, learned))
    };
    seen.into_iter().filter_map(learn).collect()
}
