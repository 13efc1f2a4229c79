//! Reports for the decider: what a connected device last said, and what follows for one that had nothing to say.

use fieldfare_fleet::rollout::{Observation, RolloutState};
use fieldfare_fleet::{DeploymentName, DeviceId, Timestamp};
use fieldfare_proto::v1::{ObservedState, RolloutRecord};

use super::assign::assignment;
use super::desired::Member;
use crate::mirror::Records;
use crate::plane::ControlPlane;
use crate::refusal::chain;

/// Whether a device had a session since it enrolled, with any controller.
pub(super) fn was_ever_seen(records: &Records, device: DeviceId) -> bool {
    records.sessions.contains_key(&device)
}

/// The present report of a device, and when it was heard; nothing for one that is not connected here.
pub(super) fn report(
    plane: &ControlPlane,
    records: &Records,
    name: &DeploymentName,
    rollout: (&RolloutRecord, &RolloutState),
    member: &Member,
) -> Option<(Timestamp, Observation)> {
    let sign = plane.presence.of(member.id).filter(|sign| sign.connected)?;
    // What came on the session is newer than what was worth a write.
    let stored = records
        .device_status
        .get(&member.id)
        .and_then(|status| status.observed.as_ref());
    let said = sign.observed.as_ref().or(stored);
    Some((sign.last_heard, own_report(records, name, rollout, member, said)))
}

fn own_report(
    records: &Records,
    name: &DeploymentName,
    (record, state): (&RolloutRecord, &RolloutState),
    member: &Member,
    said: Option<&ObservedState>,
) -> Observation {
    let slot = state.slot_of(member.id, member.joined_at);
    let said = said.and_then(|observed| observed.models.iter().find(|model| model.deployment == name.as_str()));
    let read = said.map(Observation::try_from).transpose().unwrap_or_else(|error| {
        tracing::debug!(device = %member.id, error = chain(&error), "a report cannot be read");
        None
    });
    let moves_in = state.has_new_release(slot);
    let assignment = assignment(records, name, (record, state), moves_in, &member.class);
    let unplaced = assignment.is_some_and(|record| record.variant.is_empty());
    Observation::of_connected(read, state.target_for(slot), unplaced)
}
