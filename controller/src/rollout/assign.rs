//! Assignments: the variant of a release for each class of devices, decided once and kept, so that a device does not change
//! its variant because a neighbour became faster.

use std::collections::BTreeSet;

use fieldfare_fleet::rollout::{Phase, RolloutState};
use fieldfare_fleet::{DeploymentName, ProfileClass};
use fieldfare_proto::v1::audit_record::Event;
use fieldfare_proto::v1::{AssignmentRecord, AuditAssignment, AuditPlacement, Requirements, RolloutRecord};

use super::desired::Member;
use crate::keys::Decision;
use crate::limits::ASSIGNMENT_BATCH;
use crate::mirror::Records;
use crate::placement::{Placement, requirements};
use crate::plane::ControlPlane;
use crate::records::attempt;
use crate::refusal::Refusal;

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

/// What a device is on its way to, as an operator sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    /// The release's manifest target.
    pub manifest_target: String,
    /// Under which requirements a variant is chosen.
    pub requirements: Requirements,
    /// The variant that was assigned; nothing before one is, empty where none fits.
    pub variant: Option<String>,
}

/// What a device runs, or will once its wave has come; after a rollback that is what the rollout went back to. Nothing where a
/// deployment's first rollout went back.
pub fn destination(records: &Records, name: &DeploymentName, member: &Member) -> Option<Destination> {
    let rollout = records.rollouts.get(name)?;
    let (record, state) = (&rollout.record, &rollout.state);
    let moves_in = match state.phase {
        Phase::Advancing { .. } => true,
        _ => state.has_new_release(state.slot_of(member.id, member.joined_at)),
    };
    let (_, manifest_target, requirements) = decision(record, state, moves_in)?;
    let assigned = assignment(records, name, (record, state), moves_in, &member.class);
    Some(Destination {
        manifest_target: manifest_target.to_owned(),
        requirements,
        variant: assigned.map(|assigned| assigned.variant.clone()),
    })
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
        for batch in classes.chunks(ASSIGNMENT_BATCH) {
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
    let chosen: Vec<(&ProfileClass, String)> = classes
        .iter()
        .map(|class| (class, placement.choose(class).unwrap_or_default()))
        .collect();
    let assigned = |(class, variant): &(&ProfileClass, String)| AuditAssignment {
        profile_class: class.to_string(),
        variant: variant.clone(),
    };
    let event = AuditPlacement {
        deployment: name.to_string(),
        manifest_target: placement.manifest_target.clone(),
        assignments: chosen.iter().map(assigned).collect(),
    };
    plane.audit.record(Event::Placement(event)).await?;
    attempt!("the assignments", plane.records, change, {
        for (class, variant) in &chosen {
            let key = plane.keys.assignment(name, decision, class);
            if change.read::<AssignmentRecord>(&key).await?.is_some() {
                continue;
            }
            let (variant, manifest_target) = (variant.clone(), placement.manifest_target.clone());
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
