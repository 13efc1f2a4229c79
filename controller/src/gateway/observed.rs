//! What a device says of itself: checked, kept in memory, and written when its meaning changes.

use std::collections::BTreeMap;

use fieldfare_fleet::rollout::Observation;
use fieldfare_fleet::{CapabilityProfile, DeviceId, Labels, ProfileClass, TrustTier};
use fieldfare_proto::v1::{self, DeviceStatusRecord, GateEvidence, Hello, ObservedModel, ObservedState};

use crate::limits::{OBSERVED_MODELS_MAX, VERSION_BYTES_MAX};
use crate::mirror::Records;
use crate::plane::ControlPlane;
use crate::records::attempt;
use crate::refusal::Refusal;

/// The parts of a message that are about the device itself, each checked. What is absent stays as it was.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    profile: Option<v1::CapabilityProfile>,
    labels: Option<BTreeMap<String, String>>,
    observed: Option<ObservedState>,
    agent_version: Option<String>,
}

fn check_profile(profile: v1::CapabilityProfile) -> Result<v1::CapabilityProfile, Refusal> {
    let checked = CapabilityProfile::try_from(profile).map_err(|error| error.within("profile"))?;
    Ok(v1::CapabilityProfile::from(&checked))
}

fn check_state(state: ObservedState) -> Result<ObservedState, Refusal> {
    if state.models.len() > OBSERVED_MODELS_MAX {
        let expected = format!(
            "has {} entries, at most {OBSERVED_MODELS_MAX} are accepted",
            state.models.len()
        );
        return Err(Refusal::invalid("observed.models", expected));
    }
    for (index, model) in state.models.iter().enumerate() {
        Observation::try_from(model).map_err(|error| error.within(format!("observed.models[{index}]")))?;
    }
    Ok(state)
}

impl Seen {
    /// What a hello says.
    pub(super) fn read(hello: &Hello) -> Result<Self, Refusal> {
        if hello.agent_version.len() > VERSION_BYTES_MAX {
            let expected = format!(
                "has {} bytes, at most {VERSION_BYTES_MAX} are accepted",
                hello.agent_version.len()
            );
            return Err(Refusal::invalid("hello.agent_version", expected));
        }
        let labels = Labels::new(hello.labels.clone()).map_err(|error| Refusal::invalid("hello.labels", error))?;
        Ok(Self {
            profile: hello.profile.clone().map(check_profile).transpose()?,
            labels: Some(labels.into()),
            observed: hello.observed.clone().map(check_state).transpose()?,
            agent_version: Some(hello.agent_version.clone()),
        })
    }

    /// What an observed state says.
    pub(super) fn of_state(state: ObservedState) -> Result<Self, Refusal> {
        Ok(Self {
            observed: Some(check_state(state)?),
            ..Self::default()
        })
    }

    /// What a new profile says.
    pub(super) fn of_profile(profile: v1::CapabilityProfile) -> Result<Self, Refusal> {
        Ok(Self {
            profile: Some(check_profile(profile)?),
            ..Self::default()
        })
    }

    /// Keeps it: all of it in memory, and in the store when its meaning differs from what is there.
    pub(super) async fn note(self, plane: &ControlPlane, device: DeviceId, fence: u64) -> Result<(), Refusal> {
        if let Some(observed) = &self.observed {
            plane.presence.observed(device, fence, observed.clone());
        }
        let known = plane.mirror.read().device_status.get(&device).cloned();
        if known.is_some_and(|known| !self.changes(&known)) {
            return Ok(());
        }
        attempt!("the device's status", plane.records, change, {
            let key = plane.keys.device_status(device);
            let mut record: DeviceStatusRecord = change.read(&key).await?.unwrap_or_default();
            if !self.changes(&record) {
                return Ok(());
            }
            self.apply(&mut record);
            record.changed_unix_ms = plane.unix_ms();
            change.put(key, &mut record);
        });
        Ok(())
    }

    fn changes(&self, known: &DeviceStatusRecord) -> bool {
        let profile = self
            .profile
            .as_ref()
            .is_some_and(|new| !same_profile(new, known.profile.as_ref()));
        let labels = self.labels.as_ref().is_some_and(|new| *new != known.labels);
        let observed = self
            .observed
            .as_ref()
            .is_some_and(|new| meaning(new) != known.observed.as_ref().map_or_else(Vec::new, meaning));
        let version = self
            .agent_version
            .as_ref()
            .is_some_and(|new| *new != known.agent_version);
        profile || labels || observed || version
    }

    fn apply(&self, record: &mut DeviceStatusRecord) {
        if self.profile.is_some() {
            record.profile.clone_from(&self.profile);
        }
        if self.observed.is_some() {
            record.observed.clone_from(&self.observed);
        }
        if let Some(labels) = &self.labels {
            record.labels.clone_from(labels);
        }
        if let Some(version) = &self.agent_version {
            record.agent_version.clone_from(version);
        }
    }
}

/// Whether placement cannot tell two profiles apart, and people neither. Free disk varies all the time.
fn same_profile(new: &v1::CapabilityProfile, known: Option<&v1::CapabilityProfile>) -> bool {
    let Some(known) = known else { return false };
    let class = |profile: &v1::CapabilityProfile| {
        let profile = CapabilityProfile::try_from(profile.clone()).ok()?;
        Some(ProfileClass::of(&profile, TrustTier::Unattested))
    };
    let still = v1::CapabilityProfile {
        disk_free_bytes: known.disk_free_bytes,
        ..new.clone()
    };
    still == *known && class(new) == class(known)
}

/// What of an observed state is worth a write: not how far a download is, nor figures that move with every request.
fn meaning(state: &ObservedState) -> Vec<ObservedModel> {
    let settled = |model: &ObservedModel| {
        let counts = |evidence: GateEvidence| GateEvidence {
            crashes: evidence.crashes,
            probes_run: evidence.probes_run,
            probes_matched: evidence.probes_matched,
            ..GateEvidence::default()
        };
        ObservedModel {
            fetched_bytes: 0,
            total_bytes: 0,
            evidence: model.evidence.map(counts),
            ..model.clone()
        }
    };
    state.models.iter().map(settled).collect()
}

/// Whether a device is connected, to this process or to another one that lives.
pub(crate) fn is_connected(plane: &ControlPlane, records: &Records, device: DeviceId) -> bool {
    plane.presence.of(device).is_some_and(|sign| sign.connected) || records.is_connected(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(fetched_bytes: u64, latency: u64, crashes: u32) -> ObservedState {
        let evidence = GateEvidence {
            crashes,
            latency_p95_ms: Some(latency),
            ..GateEvidence::default()
        };
        let model = ObservedModel {
            fetched_bytes,
            evidence: Some(evidence),
            ..ObservedModel::default()
        };
        ObservedState {
            models: vec![model],
            disk_free_bytes: fetched_bytes,
        }
    }

    #[test]
    fn a_download_that_moves_on_is_not_worth_a_write_and_a_crash_is() {
        let known = DeviceStatusRecord {
            observed: Some(state(1, 10, 0)),
            ..DeviceStatusRecord::default()
        };
        let seen = |state| Seen {
            observed: Some(state),
            ..Seen::default()
        };
        assert!(!seen(state(999, 20, 0)).changes(&known));
        assert!(seen(state(1, 10, 1)).changes(&known));
        assert!(!Seen::default().changes(&known));
    }
}
