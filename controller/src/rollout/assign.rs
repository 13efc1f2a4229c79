//! Assignments: the variant of a release for each class of devices, decided once and kept, so that a device does not change
//! its variant because a neighbour became faster.

use std::collections::BTreeSet;

use fieldfare_fleet::rollout::RolloutState;
use fieldfare_fleet::{DeploymentName, ProfileClass};
use fieldfare_proto::v1::{AssignmentRecord, Requirements, RolloutRecord};

use super::desired::Member;
use crate::keys::Decision;
use crate::mirror::Records;
use crate::placement::{Placement, requirements};
use crate::plane::ControlPlane;
use crate::records::attempt;
use crate::refusal::Refusal;

/// Assignments written in one commit, below the store's limit of operations.
const BATCH: usize = 50;

/// What was decided of the release that moves in, or of the one that moves out; nothing where there is none to move out.
fn decision<'a>(
    record: &'a RolloutRecord,
    state: &RolloutState,
    moves_in: bool,
) -> Option<(Decision, &'a str, Requirements)> {
    let (release, target, requirements) = if moves_in {
        (&state.release, &record.to_manifest, record.to_requirements)
    } else {
        (
            state.previous.as_ref()?,
            &record.from_manifest,
            record.from_requirements,
        )
    };
    let requirements = requirements?;
    Some((Decision::new(release.clone(), &requirements), target, requirements))
}

/// The assignment of a class of devices: for the release that moves in, or for the one that moves out.
pub(super) fn assignment<'a>(
    records: &'a Records,
    name: &DeploymentName,
    (record, state): (&RolloutRecord, &RolloutState),
    moves_in: bool,
    class: &ProfileClass,
) -> Option<&'a AssignmentRecord> {
    let (decision, ..) = decision(record, state, moves_in)?;
    records.assignments.get(name)?.get(&(decision, class.clone()))
}

/// The variant of the release that moves in, for a class of devices; nothing before it is assigned, empty where none fits.
pub fn variant_moving_in<'a>(records: &'a Records, name: &DeploymentName, class: &ProfileClass) -> Option<&'a str> {
    let rollout = records.rollouts.get(name)?;
    let found = assignment(records, name, (&rollout.record, &rollout.state), true, class)?;
    Some(&found.variant)
}

/// Classes of the members that have no assignment of a decision.
fn unassigned(records: &Records, name: &DeploymentName, decision: &Decision, members: &[Member]) -> Vec<ProfileClass> {
    let assigned = records.assignments.get(name);
    let has = |class: &ProfileClass| assigned.is_some_and(|a| a.contains_key(&(decision.clone(), class.clone())));
    let classes: BTreeSet<&ProfileClass> = members.iter().map(|member| &member.class).collect();
    classes.into_iter().filter(|class| !has(class)).cloned().collect()
}

/// Assigns both releases of a rollout to every class that has devices, each under the requirements that it came with.
pub async fn assign(
    plane: &ControlPlane,
    name: &DeploymentName,
    record: &RolloutRecord,
    state: &RolloutState,
    members: &[Member],
) -> Result<(), Refusal> {
    for moves_in in [true, false] {
        let Some((decision, target, asked)) = decision(record, state, moves_in) else {
            continue;
        };
        let classes = unassigned(&plane.mirror.read(), name, &decision, members);
        if classes.is_empty() {
            continue;
        }
        let placement = Placement::of(plane, target, requirements(Some(asked))?).await?;
        for batch in classes.chunks(BATCH) {
            write(plane, name, &decision, &placement, batch).await?;
        }
    }
    Ok(())
}

async fn write(
    plane: &ControlPlane,
    name: &DeploymentName,
    decision: &Decision,
    placement: &Placement,
    classes: &[ProfileClass],
) -> Result<(), Refusal> {
    attempt!("the assignments", plane.records, change, {
        for class in classes {
            let key = plane.keys.assignment(name, decision, class);
            if change.read::<AssignmentRecord>(&key).await?.is_some() {
                continue;
            }
            let variant = placement.choose(class).unwrap_or_default();
            let manifest_target = placement.manifest_target.clone();
            tracing::info!(deployment = %name, manifest_target, %class, variant, "assigned");
            change.put(
                key,
                &mut AssignmentRecord {
                    generation: None,
                    manifest_target,
                    variant,
                },
            );
        }
    });
    Ok(())
}
