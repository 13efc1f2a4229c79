//! Deployments: which release which devices run, and the rollout that a new release starts.

use fieldfare_fleet::rollout::{Phase, RolloutPolicy, RolloutStart, RolloutState};
use fieldfare_fleet::{DeploymentName, Generation, ReleaseId, Selector};
use fieldfare_proto::OptionExt;
use fieldfare_proto::v1::{
    ApplyDeploymentRequest, Deployment, DeploymentRecord, DeploymentSpec, DeploymentStatusRecord, OwnerKind,
    OwnerRecord, ReleaseRecord, ReleaseStanding, RolloutRecord,
};
use fieldfare_tls::OperatorName;

use crate::clock::{new_id, random_bytes};
use crate::mirror::Records;
use crate::placement::{release_record, requirements};
use crate::plane::ControlPlane;
use crate::records::{Change, Record, attempt};
use crate::refusal::Refusal;
use crate::repository::manifests::release_id;
use crate::rollout::desired::{Selectors, members, selector};
use crate::rollout::state_of;

/// A deployment's name in a request.
pub(super) fn name(field: &str, text: &str) -> Result<DeploymentName, Refusal> {
    DeploymentName::new(text).map_err(|error| Refusal::invalid(field, error))
}

/// A specification whose every part was checked.
#[derive(Clone)]
struct Checked {
    release: ReleaseId,
    policy: RolloutPolicy,
}

fn check(plane: &ControlPlane, spec: &DeploymentSpec) -> Result<Checked, Refusal> {
    spec.selector
        .parse::<Selector>()
        .map_err(|error| Refusal::invalid("spec.selector", error))?;
    requirements(spec.requirements)?;
    let policy = spec.policy.clone().required("spec.policy")?;
    let policy = RolloutPolicy::try_from(policy).map_err(|error| error.within("spec.policy"))?;
    let release = release_id(&spec.manifest_target)?;
    if release.model.as_str() != spec.model {
        let expected = format!(
            "is {:?}, but {} is a release of {}",
            spec.model, spec.manifest_target, release.model
        );
        return Err(Refusal::invalid("spec.model", expected));
    }
    let record: ReleaseRecord = release_record(&plane.mirror.read(), &spec.manifest_target)?;
    match record.standing() {
        ReleaseStanding::Published => Ok(Checked { release, policy }),
        ReleaseStanding::Proposed => Err(Refusal::Unready(format!(
            "{release} is proposed and not signed yet: publish it first"
        ))),
        _ => Err(Refusal::Unready(format!("{release} was withdrawn"))),
    }
}

/// Creates or replaces a deployment. A new release, or new requirements, start a rollout.
pub(super) async fn apply(
    plane: &ControlPlane,
    by: &OperatorName,
    request: ApplyDeploymentRequest,
) -> Result<Deployment, Refusal> {
    let name = name("name", &request.name)?;
    let spec = request.spec.required("spec")?;
    let checked = check(plane, &spec)?;
    let shown = attempt!("the deployment", plane.records, change, {
        own(plane, &mut change, &name).await?;
        let held: Option<DeploymentRecord> = change.read(&plane.keys.deployment(&name)).await?;
        let generation = held.as_ref().map_or(Generation::ZERO, Record::generation);
        if let Some(expected) = request
            .expected
            .map(Generation::from)
            .filter(|expected| *expected != generation)
        {
            return Err(Refusal::Stale(format!(
                "{name} is at generation {generation}, expected was {expected}"
            )));
        }
        let before = held.as_ref().and_then(|record| record.spec.as_ref());
        let is_new = before != Some(&spec);
        let mut next = None;
        if is_new {
            refuse_overlap(&plane.mirror.read(), &name, before, &spec)?;
        }
        if is_new || request.retry {
            let rollout: Option<RolloutRecord> = change.read(&plane.keys.rollout(&name)).await?;
            next = next_rollout(plane, &name, before, &spec, &checked, rollout)?;
        }
        if is_new || next.is_some() {
            let mut record = held.clone().unwrap_or_default();
            record.spec = Some(spec.clone());
            record.changed_unix_ms = plane.unix_ms();
            change.put(plane.keys.deployment(&name), &mut record);
            let key = plane.keys.deployment_status(&name);
            let mut status: DeploymentStatusRecord = change.read(&key).await?.unwrap_or_default();
            status.observed_spec = record.generation;
            if let Some(mut rollout) = next {
                status.rollout_id.clone_from(&rollout.rollout_id);
                status.current_manifest.clone_from(&rollout.from_manifest);
                change.put(plane.keys.rollout(&name), &mut rollout);
            }
            change.put(key, &mut status);
            deployment(&name, &record, Some(&status))
        } else {
            let status: Option<DeploymentStatusRecord> = change.read(&plane.keys.deployment_status(&name)).await?;
            deployment(&name, &held.clone().unwrap_or_default(), status.as_ref())
        }
    });
    tracing::info!(%by, deployment = %name, release = %checked.release, "deployment applied");
    Ok(shown)
}

/// A device serves one model at a time. Refuses a selector that newly means devices of another deployment.
fn refuse_overlap(
    records: &Records,
    name: &DeploymentName,
    before: Option<&DeploymentSpec>,
    spec: &DeploymentSpec,
) -> Result<(), Refusal> {
    let (Some(chosen), before) = (selector(Some(spec)), selector(before)) else {
        return Ok(());
    };
    let selectors = Selectors::of(records);
    let newly = members(records, &chosen)
        .into_iter()
        .filter(|member| before.as_ref().is_none_or(|before| !before.matches(&member.labels)));
    let taken = newly.filter_map(|member| {
        let owner = selectors.owner(&member.labels).filter(|owner| *owner != name)?;
        Some((records.device_name(member.id), owner))
    });
    let taken: Vec<_> = taken.collect();
    let Some((device, owner)) = taken.first() else {
        return Ok(());
    };
    let more = match taken.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Err(Refusal::Unready(format!(
        "{device}{more} would be in {name} and are in the deployment {owner} already, and a device serves one model: narrow one of the two selectors"
    )))
}

/// What Kubernetes owns is read-only here.
async fn own(plane: &ControlPlane, change: &mut Change<'_>, name: &DeploymentName) -> Result<(), Refusal> {
    let key = plane.keys.deployment_owner(name);
    match change.read::<OwnerRecord>(&key).await? {
        Some(owner) if owner.kind() == OwnerKind::Kubernetes => Err(Refusal::Unready(format!(
            "{name} is managed by a Kubernetes resource: change that one"
        ))),
        Some(_) => Ok(()),
        None => {
            let mut owner = OwnerRecord::default();
            owner.set_kind(OwnerKind::Api);
            change.put(key, &mut owner);
            Ok(())
        }
    }
}

/// The rollout that a changed specification starts; none where devices go on to run the same release under the same requirements.
fn next_rollout(
    plane: &ControlPlane,
    name: &DeploymentName,
    before: Option<&DeploymentSpec>,
    spec: &DeploymentSpec,
    checked: &Checked,
    held: Option<RolloutRecord>,
) -> Result<Option<RolloutRecord>, Refusal> {
    let unreadable = |error| Refusal::broken("reading a rollout's state", error);
    let last = held.as_ref().map(state_of).transpose().map_err(unreadable)?;
    // The same release under other requirements may mean other variants, which need their waves and gates as well.
    let same = |before: &DeploymentSpec| {
        before.manifest_target == spec.manifest_target && before.requirements == spec.requirements
    };
    let went_back = last
        .as_ref()
        .is_some_and(|state| matches!(state.phase, Phase::RolledBack { .. } | Phase::Aborted { .. }));
    if before.is_some_and(same) && !went_back {
        return match last.filter(|state| !state.phase.is_over()) {
            Some(state) if before != Some(spec) => Err(Refusal::Unready(format!(
                "the rollout of {} to {name} is {} with the policy and the devices that it began with: wait for its end or abort it",
                state.release,
                state.phase.name()
            ))),
            _ => Ok(None),
        };
    }
    if let Some(state) = last.as_ref().filter(|state| !state.phase.is_over()) {
        let running = format!(
            "the rollout of {} to {name} is {}: wait for its end, roll it back or abort it",
            state.release,
            state.phase.name()
        );
        return Err(Refusal::Unready(running));
    }
    let seed = u64::from_le_bytes(random_bytes()?);
    let Checked { release, policy } = checked.clone();
    let start = RolloutStart::after(last.as_ref(), name.clone(), release, policy, seed).in_epoch(plane.records.epoch());
    let (from_manifest, from_requirements) = match (&held, &last) {
        (
            Some(held),
            Some(RolloutState {
                phase: Phase::Completed { .. },
                ..
            }),
        ) => (held.to_manifest.clone(), held.to_requirements),
        (Some(held), _) => (held.from_manifest.clone(), held.from_requirements),
        (None, _) => (String::new(), None),
    };
    let state =
        RolloutState::begin(start, plane.clock.now()).map_err(|error| Refusal::invalid("spec.policy", error))?;
    let now = plane.unix_ms();
    Ok(Some(RolloutRecord {
        generation: held.and_then(|held| held.generation),
        rollout_id: new_id()?.to_string(),
        model: spec.model.clone(),
        from_manifest,
        to_manifest: spec.manifest_target.clone(),
        from_requirements,
        to_requirements: spec.requirements,
        started_unix_ms: now,
        updated_unix_ms: now,
        state: Some((&state).into()),
        ..RolloutRecord::default()
    }))
}

fn deployment(name: &DeploymentName, record: &DeploymentRecord, status: Option<&DeploymentStatusRecord>) -> Deployment {
    Deployment {
        name: name.to_string(),
        generation: record.generation,
        spec: record.spec.clone(),
        current_manifest: status.map(|status| status.current_manifest.clone()).unwrap_or_default(),
        rollout_id: status.map(|status| status.rollout_id.clone()).unwrap_or_default(),
    }
}

fn show(records: &Records, name: &DeploymentName) -> Option<Deployment> {
    Some(deployment(
        name,
        records.deployments.get(name)?,
        records.deployment_status.get(name),
    ))
}

/// Every deployment.
pub(super) fn list(plane: &ControlPlane) -> Vec<Deployment> {
    let records = plane.mirror.read();
    records
        .deployments
        .keys()
        .filter_map(|name| show(&records, name))
        .collect()
}

/// One deployment.
pub(super) fn get(plane: &ControlPlane, text: &str) -> Result<Deployment, Refusal> {
    let name = name("name", text)?;
    show(&plane.mirror.read(), &name).ok_or_else(|| Refusal::missing("deployment", text))
}
