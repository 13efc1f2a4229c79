//! Desired state: a function of the records, never a record of a device.

use std::collections::BTreeMap;

use fieldfare_fleet::{
    CapabilityProfile, DeploymentName, DeviceId, Generation, Labels, ProfileClass, Selector, Timestamp, TrustTier,
};
use fieldfare_proto::v1::{
    self, DeploymentRecord, DesiredModel, DesiredState, DeviceRecord, DeviceStanding, DeviceStatusRecord,
};

use super::assign::assignment;
use crate::clock::timestamp;
use crate::mirror::{Records, RolloutView};

/// A registered device as placement and rollouts see it.
#[derive(Clone, Debug)]
pub struct Member {
    /// The device.
    pub id: DeviceId,
    /// Its labels: its own, and over them those of its token.
    pub labels: Labels,
    /// What it is and can do.
    pub profile: CapabilityProfile,
    /// How far it is trusted.
    pub trust: TrustTier,
    /// Devices that placement cannot tell from it.
    pub class: ProfileClass,
    /// When it enrolled.
    pub joined_at: Timestamp,
}

/// The labels by which selectors find a device: its own, and over them those of its token.
pub fn labels(record: &DeviceRecord, status: Option<&DeviceStatusRecord>) -> BTreeMap<String, String> {
    let mut labels = status.map(|status| status.labels.clone()).unwrap_or_default();
    labels.extend(record.labels.clone());
    labels
}

impl Member {
    /// The device, if it is enrolled and has a profile.
    pub fn of(id: DeviceId, records: &Records) -> Option<Self> {
        let record = records
            .devices
            .get(&id)
            .filter(|record| record.standing() == DeviceStanding::Enrolled)?;
        let status = records.device_status.get(&id)?;
        let profile = CapabilityProfile::try_from(status.profile.clone()?).ok()?;
        let trust = v1::TrustTier::domain("trust_tier", record.trust_tier).ok()?;
        Some(Self {
            id,
            labels: Labels::new(labels(record, Some(status))).ok()?,
            class: ProfileClass::of(&profile, trust),
            profile,
            trust,
            joined_at: timestamp(record.enrolled_unix_ms),
        })
    }
}

/// The selectors of all deployments, in the order of their names.
pub struct Selectors<'a>(Vec<(&'a DeploymentName, Selector)>);

impl<'a> Selectors<'a> {
    /// Those of these records.
    pub fn of(records: &'a Records) -> Self {
        let read = |(name, record): (&'a DeploymentName, &DeploymentRecord)| {
            selector(record.spec.as_ref()).map(|selector| (name, selector))
        };
        Self(records.deployments.iter().filter_map(read).collect())
    }

    /// The deployment that a device belongs to. A device serves one model at a time: where labels that came later let several
    /// deployments mean it, the first by name has it.
    pub fn owner(&self, labels: &Labels) -> Option<&'a DeploymentName> {
        let found = self.0.iter().find(|(_, selector)| selector.matches(labels));
        found.map(|(name, _)| *name)
    }
}

/// The enrolled devices that belong to a deployment.
pub fn members_of(records: &Records, name: &DeploymentName) -> Vec<Member> {
    let selectors = Selectors::of(records);
    let all = records.devices.keys().filter_map(|id| Member::of(*id, records));
    all.filter(|member| selectors.owner(&member.labels) == Some(name))
        .collect()
}

/// The enrolled devices that a selector means.
pub fn members(records: &Records, selector: &Selector) -> Vec<Member> {
    let all = records.devices.keys().filter_map(|id| Member::of(*id, records));
    all.filter(|member| selector.matches(&member.labels)).collect()
}

/// The selector of a deployment's record, which was checked when it was written.
pub fn selector(spec: Option<&v1::DeploymentSpec>) -> Option<Selector> {
    spec?.selector.parse().ok()
}

/// What a device shall run of one deployment; nothing where nothing can be said yet.
pub fn entry(records: &Records, member: &Member, name: &DeploymentName, rollout: &RolloutView) -> Option<DesiredModel> {
    let RolloutView { record, state } = rollout;
    let slot = state.slot_of(member.id, member.joined_at);
    let said = state.entry_for(slot, |moves_in| {
        let assigned = assignment(records, name, (record, state), moves_in, &member.class);
        assigned.filter(|assigned| !assigned.variant.is_empty())
    })?;
    let release = said.named.as_ref().map_or(&state.release, |(release, _)| release);
    let mut entry = DesiredModel {
        deployment: name.to_string(),
        model: release.model.to_string(),
        generation: Some(said.assignment.into()),
        ..DesiredModel::default()
    };
    if let Some((_, assigned)) = said.named {
        entry.manifest_target.clone_from(&assigned.manifest_target);
        entry.variant.clone_from(&assigned.variant);
    }
    Some(entry)
}

/// The whole of what a device shall run.
pub fn desired_state(records: &Records, id: DeviceId) -> DesiredState {
    let mut generation = Generation::ZERO;
    let mut models = Vec::new();
    let member = Member::of(id, records);
    let owner = member
        .as_ref()
        .and_then(|member| Selectors::of(records).owner(&member.labels));
    for name in records.deployments.keys() {
        let Some(rollout) = records.rollouts.get(name) else {
            continue;
        };
        let state = &rollout.state;
        // Each deployment's generation only grows, so that their sum does; none is ever taken away.
        generation.epoch = generation.epoch.max(state.generation.epoch);
        generation.counter = generation.counter.saturating_add(state.generation.counter);
        let Some(member) = member.as_ref().filter(|_| owner == Some(name)) else {
            continue;
        };
        models.extend(entry(records, member, name, rollout));
    }
    DesiredState {
        generation: Some(generation.into()),
        models,
    }
}
