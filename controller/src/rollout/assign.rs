//! Assignments: the variant of a release for each class of devices, decided once and kept, so that a device does not change
//! its variant because a neighbour became faster.

use std::collections::BTreeSet;

use fieldfare_fleet::rollout::RolloutState;
use fieldfare_fleet::{DeploymentName, ProfileClass};
use fieldfare_proto::v1::{AssignmentRecord, DeploymentSpec};

use super::desired::Member;
use crate::mirror::Records;
use crate::placement::{Placement, requirements};
use crate::plane::ControlPlane;
use crate::records::attempt;
use crate::refusal::Refusal;

/// Assignments written in one commit, below the store's limit of operations.
const BATCH: usize = 50;

/// Classes of the members that have no assignment for a release.
fn unassigned(records: &Records, name: &DeploymentName, release: u64, members: &[Member]) -> Vec<ProfileClass> {
    let assigned = records.assignments.get(name);
    let has = |class: &ProfileClass| assigned.is_some_and(|a| a.contains_key(&(release, class.clone())));
    let classes: BTreeSet<&ProfileClass> = members.iter().map(|member| &member.class).collect();
    classes.into_iter().filter(|class| !has(class)).cloned().collect()
}

/// Assigns both releases of a rollout to every class that has devices.
pub async fn assign(
    plane: &ControlPlane,
    name: &DeploymentName,
    spec: &DeploymentSpec,
    state: &RolloutState,
    members: &[Member],
) -> Result<(), Refusal> {
    for release in std::iter::once(&state.release).chain(&state.previous) {
        let number = release.number.0;
        let classes = unassigned(&plane.mirror.read(), name, number, members);
        if classes.is_empty() {
            continue;
        }
        let target = plane
            .mirror
            .read()
            .releases
            .get(&(release.model.clone(), number))
            .map(|r| r.manifest_target.clone());
        let target = target.ok_or_else(|| Refusal::missing("release", release))?;
        let placement = Placement::of(plane, &target, requirements(spec.requirements)?).await?;
        for batch in classes.chunks(BATCH) {
            write(plane, name, number, &placement, batch).await?;
        }
    }
    Ok(())
}

async fn write(
    plane: &ControlPlane,
    name: &DeploymentName,
    release: u64,
    placement: &Placement,
    classes: &[ProfileClass],
) -> Result<(), Refusal> {
    attempt!("the assignments", plane.records, change, {
        for class in classes {
            let key = plane.keys.assignment(name, release, class);
            if change.read::<AssignmentRecord>(&key).await?.is_some() {
                continue;
            }
            let variant = placement.choose(class).unwrap_or_default();
            tracing::info!(deployment = %name, release, %class, variant, "assigned");
            let manifest_target = placement.manifest_target.clone();
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
