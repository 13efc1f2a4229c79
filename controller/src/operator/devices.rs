//! Devices as operators see them: listed, explained, approved, revoked.

use fieldfare_fleet::{DeploymentName, DeviceId, Labels, Selector};
use fieldfare_proto::v1::{
    self, DeploymentExplanation, Device, DeviceOutcome, DevicePlacement, DeviceRecord, DeviceStanding,
    ExplainDeviceResponse, ListDevicesRequest, ListDevicesResponse, ObservedModel, ObservedModelSummary,
    PlanPlacementRequest, PlanPlacementResponse, progress,
};

use crate::clock::unix_ms;
use crate::gateway::is_connected;
use crate::limits::{DEVICE_PAGE_MAX, FREE_TEXT_BYTES_MAX};
use crate::mirror::Records;
use crate::placement::{Placement, requirements};
use crate::plane::ControlPlane;
use crate::records::attempt;
use crate::refusal::Refusal;
use crate::rollout::assign::destination;
use crate::rollout::desired::{Member, Selectors, labels, members, selector};
use crate::rollout::{Rollouts, status};

fn parse_selector(text: &str) -> Result<Selector, Refusal> {
    text.parse().map_err(|error| Refusal::invalid("selector", error))
}

/// The device with this id, or the only one with this name.
pub(super) fn find(records: &Records, text: &str) -> Result<DeviceId, Refusal> {
    if let Ok(id) = text.parse::<DeviceId>() {
        return if records.devices.contains_key(&id) {
            Ok(id)
        } else {
            Err(Refusal::missing("device", text))
        };
    }
    let live = |record: &DeviceRecord| record.standing() != DeviceStanding::Revoked;
    let named = records.devices.iter().filter(|(_, record)| record.name == text);
    let (current, revoked): (Vec<_>, Vec<_>) = named.partition(|(_, record)| live(record));
    // A revoked device does not make the name of its successor ambiguous.
    let found = if current.is_empty() { revoked } else { current };
    match found.as_slice() {
        [] => Err(Refusal::missing("device", text)),
        [(id, _)] => Ok(**id),
        several => {
            let ids: Vec<String> = several.iter().map(|(id, _)| id.to_string()).collect();
            Err(Refusal::invalid(
                "device",
                format!("{text:?} is the name of several devices: {}", ids.join(", ")),
            ))
        }
    }
}

/// One device.
pub(super) fn show(plane: &ControlPlane, id: DeviceId) -> Result<Device, Refusal> {
    let records = plane.mirror.read();
    let record = records.devices.get(&id).ok_or_else(|| Refusal::missing("device", id))?;
    Ok(device(plane, &records, id, record))
}

fn device(plane: &ControlPlane, records: &Records, id: DeviceId, record: &DeviceRecord) -> Device {
    let status = records.device_status.get(&id);
    let sign = plane.presence.of(id);
    let stored = status.and_then(|status| status.observed.clone());
    let observed = sign
        .as_ref()
        .and_then(|sign| sign.observed.clone())
        .or(stored)
        .unwrap_or_default();
    let changed = status.map_or(record.enrolled_unix_ms, |status| status.changed_unix_ms);
    Device {
        id: id.to_string(),
        name: record.name.clone(),
        standing: record.standing,
        trust_tier: record.trust_tier,
        profile: status.and_then(|status| status.profile.clone()),
        labels: labels(record, status),
        connected: is_connected(plane, records, id),
        last_heard_unix_ms: sign.map_or(changed, |sign| unix_ms(sign.last_heard)),
        enrolled_unix_ms: record.enrolled_unix_ms,
        running: observed.models.iter().map(summary).collect(),
        agent_version: status.map(|status| status.agent_version.clone()).unwrap_or_default(),
        key_digest: record.key_digest.clone(),
        refused: plane.presence.refusal_of(id).map(|refused| v1::DeviceRefusal {
            reason: refused.reason,
            refused_unix_ms: unix_ms(refused.at),
            times: refused.times,
        }),
    }
}

fn summary(model: &ObservedModel) -> ObservedModelSummary {
    let kind = model.progress.as_ref().and_then(|progress| progress.kind.as_ref());
    let outcome = match kind {
        Some(progress::Kind::Converged(_)) => DeviceOutcome::Converged,
        Some(progress::Kind::CannotConverge(_)) => DeviceOutcome::CannotConverge,
        Some(progress::Kind::Working(_)) => DeviceOutcome::Working,
        None => DeviceOutcome::Unspecified,
    };
    let obstacle = match kind {
        Some(progress::Kind::CannotConverge(obstacle)) => fieldfare_fleet::Obstacle::try_from(obstacle.clone()).ok(),
        _ => None,
    };
    ObservedModelSummary {
        deployment: model.deployment.clone(),
        manifest_target: model.running_manifest_target.clone(),
        variant: model.running_variant.clone(),
        weights_sha256: model.running_weights_sha256.clone(),
        adapter_sha256: model.running_adapter_sha256.clone(),
        stage: status::stage(model).into(),
        outcome: outcome.into(),
        evidence: model.evidence,
        obstacle: obstacle.map(|obstacle| obstacle.to_string()).unwrap_or_default(),
    }
}

/// A page of the devices that a selector means, in the order of their ids.
pub(super) fn list(plane: &ControlPlane, request: &ListDevicesRequest) -> Result<ListDevicesResponse, Refusal> {
    let chosen = parse_selector(&request.selector)?;
    let size = match request.page_size as usize {
        0 => DEVICE_PAGE_MAX,
        asked => asked.min(DEVICE_PAGE_MAX),
    };
    let after = match request.page_token.as_str() {
        "" => None,
        token => Some(
            token
                .parse::<DeviceId>()
                .map_err(|_| Refusal::invalid("page_token", "is not one of ListDevices"))?,
        ),
    };
    let records = plane.mirror.read();
    let meant = |id: &DeviceId, record: &DeviceRecord| {
        Labels::new(labels(record, records.device_status.get(id))).is_ok_and(|labels| chosen.matches(&labels))
    };
    let rest = records
        .devices
        .iter()
        .filter(|(id, record)| after.is_none_or(|after| **id > after) && meant(id, record));
    let mut page: Vec<Device> = rest
        .take(size + 1)
        .map(|(id, record)| device(plane, &records, *id, record))
        .collect();
    let more = page.len() > size;
    page.truncate(size);
    let next_page_token = page
        .last()
        .filter(|_| more)
        .map(|device| device.id.clone())
        .unwrap_or_default();
    Ok(ListDevicesResponse {
        devices: page,
        next_page_token,
    })
}

/// Why a device is, or is not, on its target in each deployment that means it.
pub(super) async fn explain(
    plane: &ControlPlane,
    rollouts: &Rollouts,
    text: &str,
) -> Result<ExplainDeviceResponse, Refusal> {
    let id = find(&plane.mirror.read(), text)?;
    let shown = show(plane, id)?;
    let specs: Vec<_> = {
        let records = plane.mirror.read();
        records
            .deployments
            .iter()
            .map(|(name, record)| (name.clone(), record.spec.clone()))
            .collect()
    };
    let mut deployments = Vec::new();
    for (name, spec) in specs {
        let Some(spec) = spec else { continue };
        let mut explanation = DeploymentExplanation {
            deployment: name.to_string(),
            ..DeploymentExplanation::default()
        };
        let member = Member::of(id, &plane.mirror.read());
        let mismatch = match (&member, selector(Some(&spec))) {
            (None, _) => Some("the device is not enrolled, or has no profile".to_owned()),
            (Some(member), Some(chosen)) => {
                let mismatch = chosen
                    .first_mismatch(&member.labels)
                    .map(|term| format!("{term} does not hold"));
                mismatch.or_else(|| taken(&plane.mirror.read(), &name, member))
            }
            (Some(_), None) => Some("the selector cannot be read".to_owned()),
        };
        match (mismatch, member) {
            (None, Some(member)) => {
                let found = rollouts.explain(name.clone(), id).await?;
                explanation.summary = found.to_string();
                explanation.code = status::explanation_code(&found).to_owned();
                let destination = destination(&plane.mirror.read(), &name, &member);
                if let Some(destination) = destination {
                    let asked = requirements(Some(destination.requirements))?;
                    let placement = Placement::of(plane, &destination.manifest_target, asked).await?;
                    let placement = placement.report(&member.class);
                    // The assignment is decided once and kept, while what devices of the class reach goes on to be learned.
                    explanation.target_variant = destination.variant.unwrap_or_else(|| placement.chosen.clone());
                    explanation.target_manifest = destination.manifest_target;
                    explanation.placement = Some(placement);
                }
            }
            (mismatch, _) => {
                explanation.summary = format!("not selected: {}", mismatch.unwrap_or_default());
                explanation.code = "not_selected".to_owned();
            }
        }
        deployments.push(explanation);
    }
    Ok(ExplainDeviceResponse {
        device: Some(shown),
        deployments,
    })
}

/// Why a deployment that means a device does not have it.
fn taken(records: &Records, name: &DeploymentName, member: &Member) -> Option<String> {
    let owner = Selectors::of(records)
        .owner(&member.labels)
        .filter(|owner| *owner != name)?;
    Some(format!(
        "the deployment {owner} means it, too, and comes first; a device serves one model"
    ))
}

/// Which variant each selected device would run.
pub(super) async fn plan(
    plane: &ControlPlane,
    request: PlanPlacementRequest,
) -> Result<PlanPlacementResponse, Refusal> {
    let chosen = parse_selector(&request.selector)?;
    let placement = Placement::of(plane, &request.manifest_target, requirements(request.requirements)?).await?;
    let records = plane.mirror.read();
    let devices = members(&records, &chosen).into_iter().map(|member| DevicePlacement {
        device_id: member.id.to_string(),
        name: records.device_name(member.id),
        report: Some(placement.report(&member.class)),
        profile: Some(v1::CapabilityProfile::from(&member.profile)),
    });
    Ok(PlanPlacementResponse {
        devices: devices.collect(),
    })
}

/// Lets a pending device in.
pub(super) async fn approve(plane: &ControlPlane, text: &str) -> Result<Device, Refusal> {
    let id = find(&plane.mirror.read(), text)?;
    let record = attempt!("the device", plane.records, change, {
        let held: Option<DeviceRecord> = change.read(&plane.keys.device(id)).await?;
        let mut record = held.ok_or_else(|| Refusal::missing("device", text))?;
        match record.standing() {
            DeviceStanding::Pending => {
                record.set_standing(DeviceStanding::Enrolled);
                change.put(plane.keys.device(id), &mut record);
            }
            DeviceStanding::Enrolled => {}
            _ => {
                return Err(Refusal::Unready(format!(
                    "device {id} is revoked and stays so: enrol it anew with another key"
                )));
            }
        }
        record
    });
    tracing::info!(device = %id, "approved");
    Ok(device(plane, &plane.mirror.read(), id, &record))
}

/// Shuts a device out for good.
pub(super) async fn revoke(plane: &ControlPlane, text: &str, reason: &str) -> Result<Device, Refusal> {
    if reason.len() > FREE_TEXT_BYTES_MAX {
        let expected = format!("has {} bytes, at most {FREE_TEXT_BYTES_MAX} are accepted", reason.len());
        return Err(Refusal::invalid("reason", expected));
    }
    let id = find(&plane.mirror.read(), text)?;
    let record = attempt!("the device", plane.records, change, {
        let held: Option<DeviceRecord> = change.read(&plane.keys.device(id)).await?;
        let mut record = held.ok_or_else(|| Refusal::missing("device", text))?;
        if record.standing() != DeviceStanding::Revoked {
            record.set_standing(DeviceStanding::Revoked);
            record.reason = reason.to_owned();
            change.put(plane.keys.device(id), &mut record);
            // Its KeyRecord stays, so that the key can never enrol again.
        }
        record
    });
    tracing::info!(device = %id, reason, "revoked");
    Ok(device(plane, &plane.mirror.read(), id, &record))
}
