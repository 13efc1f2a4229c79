//! The cohort of a round: which devices may be invited, why the others not, and who of them is.

use fieldfare_fleet::rollout::{Observation, Progress};
use fieldfare_fleet::round::registry;
use fieldfare_fleet::round::{Activity, BudgetState, Connection, Consent, TrainingCandidate, TrainingNeeds};
use fieldfare_fleet::{ByteSize, DeploymentName, DeviceId, ReleaseId, RoundId, Selector, Timestamp, TrustTier};
use fieldfare_proto::v1::{FederatedJobSpec, IneligibleDevice, ObservedState};

use crate::limits::INELIGIBLE_SHOWN_MAX;
use crate::mirror::Records;
use crate::plane::ControlPlane;
use crate::refusal::Refusal;
use crate::rollout::desired::{Member, members, selector};

/// Who is invited, and why others are not.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Cohort {
    /// In the order of their ids.
    pub(super) invited: Vec<DeviceId>,
    /// The first of them, with all reasons.
    pub(super) ineligible: Vec<IneligibleDevice>,
}

/// What a round of a job needs of a device.
pub(super) fn needs(
    records: &Records,
    spec: &FederatedJobSpec,
    release: ReleaseId,
    training_memory: u64,
) -> Result<(DeploymentName, TrainingNeeds), Refusal> {
    let deployment = DeploymentName::new(spec.deployment.as_str());
    let deployment = deployment.map_err(|error| Refusal::broken("reading a job", error))?;
    let chosen = records
        .deployments
        .get(&deployment)
        .and_then(|record| selector(record.spec.as_ref()));
    let selector = chosen.ok_or_else(|| Refusal::missing("deployment", &deployment))?;
    let training_memory = ByteSize::new(training_memory);
    Ok((
        deployment,
        TrainingNeeds {
            selector,
            release,
            training_memory,
            min_trust: TrustTier::Unattested,
        },
    ))
}

/// Picks a cohort of at most `size` devices; every device is as likely, and another round has another order.
pub(super) fn pick(
    plane: &ControlPlane,
    records: &Records,
    deployment: &DeploymentName,
    needs: &TrainingNeeds,
    round: &RoundId,
    (size, seed): (u32, u64),
) -> Cohort {
    let mut eligible = Vec::new();
    let mut cohort = Cohort::default();
    for member in members(records, &Selector::everything()) {
        let candidate = candidate(plane, records, deployment, &member);
        let reasons = needs.reasons_against(&candidate);
        if reasons.is_empty() {
            eligible.push(member.id);
        } else if cohort.ineligible.len() < INELIGIBLE_SHOWN_MAX && needs.selector.matches(&member.labels) {
            // A device that the job does not mean is nobody's news.
            let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            cohort.ineligible.push(IneligibleDevice {
                device_id: member.id.to_string(),
                name: records.device_name(member.id),
                reason: reasons.join("; "),
            });
        }
    }
    cohort.invited = registry::pick(eligible, size, seed, round).into_iter().collect();
    cohort
}

fn candidate(
    plane: &ControlPlane,
    records: &Records,
    deployment: &DeploymentName,
    member: &Member,
) -> TrainingCandidate {
    let sign = plane.presence.of(member.id).unwrap_or_default();
    let readiness = sign.readiness;
    let observed = sign
        .observed
        .as_ref()
        .or(records.device_status.get(&member.id).and_then(|s| s.observed.as_ref()));
    TrainingCandidate {
        device: member.id,
        // Only a session of this replica says whether its device is ready.
        connection: if sign.connected {
            Connection::Connected
        } else {
            Connection::LastHeard(last_heard(records, member.id, sign.last_heard))
        },
        consent: if readiness.consent {
            Consent::Given
        } else {
            Consent::Withheld
        },
        training_memory: ByteSize::new(readiness.available_memory_bytes),
        // The ledger is the device's own secret: a device that cannot pay refuses the invitation.
        budget: BudgetState::Remaining,
        activity: if readiness.idle && !readiness.busy {
            Activity::Idle
        } else {
            Activity::Busy
        },
        trust: member.trust,
        labels: member.labels.clone(),
        running: observed.and_then(|observed| running(observed, deployment)),
    }
}

fn last_heard(records: &Records, device: DeviceId, here: Timestamp) -> Timestamp {
    let changed = records
        .sessions
        .get(&device)
        .map_or(0, |session| session.changed_unix_ms);
    here.max(crate::clock::timestamp(changed))
}

/// The release that a device runs and has confirmed.
fn running(observed: &ObservedState, deployment: &DeploymentName) -> Option<ReleaseId> {
    let report = observed
        .models
        .iter()
        .find(|model| model.deployment == deployment.as_str())?;
    let said = Observation::try_from(report).ok()?;
    said.running.filter(|_| said.progress == Progress::Converged)
}
