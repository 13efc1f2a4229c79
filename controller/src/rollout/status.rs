//! A rollout as people and programs see it.

use fieldfare_fleet::rollout::{
    Explanation, GateReading, Milestone, Phase, RollbackCause, RolloutState, Slot, WaveSize,
};
use fieldfare_fleet::{DeploymentName, DeviceId};
use fieldfare_proto::v1::{
    self, DeviceOutcome, GateStatus, InstallStage, RolloutDevice, RolloutPhase, RolloutStatus, WavePhase, WaveStatus,
};

use super::desired::{Member, members_of};
use super::shell::Live;
use crate::limits::ROLLOUT_DEVICES_SHOWN_MAX;
use crate::mirror::Records;
use crate::plane::ControlPlane;

/// The manifest that all waves have, or had before a rollout that is under way.
pub(super) fn current_manifest(record: &v1::RolloutRecord, state: &RolloutState) -> String {
    match state.phase {
        Phase::Completed { .. } => record.to_manifest.clone(),
        _ => record.from_manifest.clone(),
    }
}

/// A stable name for counters.
pub(super) fn milestone_name(milestone: &Milestone) -> &'static str {
    match milestone {
        Milestone::WaveOpened { .. } => "wave_opened",
        Milestone::ObservationBegan { .. } => "observation_began",
        Milestone::WavePassed { .. } => "wave_passed",
        Milestone::Promoted { .. } => "promoted",
        Milestone::Paused { .. } => "paused",
        Milestone::Resumed { .. } => "resumed",
        Milestone::DeadlineMissed { .. } => "deadline_missed",
        Milestone::RollbackBegan { .. } => "rollback_began",
        Milestone::RolledBack { .. } => "rolled_back",
        Milestone::Completed => "completed",
        Milestone::Aborted { .. } => "aborted",
    }
}

/// The rollout now.
pub(super) fn status(plane: &ControlPlane, name: &DeploymentName, live: &Live) -> RolloutStatus {
    let now = plane.clock.now();
    let glance = live.rollout.status(now);
    let state = live.rollout.state();
    let records = plane.mirror.read();
    let mut ranked = members_of(&records, name);
    ranked.sort_by_key(|member| (state.slot_of(member.id, member.joined_at), member.id));
    let reason = match (&glance.hold, cause(&state.phase)) {
        (Some(hold), _) => hold.to_string(),
        (None, Some(cause)) => cause.to_string(),
        (None, None) => live.rollout.state().phase.name().to_owned(),
    };
    let devices = ranked.iter().enumerate().take(ROLLOUT_DEVICES_SHOWN_MAX);
    let devices: Vec<_> = devices
        .map(|(place, member)| {
            let explanation = live.explain(&records, now, member);
            device(
                &records,
                name,
                member,
                wave_of(state, member, place, ranked.len()),
                &explanation,
            )
        })
        .collect();
    RolloutStatus {
        deployment: name.to_string(),
        rollout_id: live.record.rollout_id.clone(),
        generation: Some(state.generation.into()),
        from_manifest: live.record.from_manifest.clone(),
        to_manifest: live.record.to_manifest.clone(),
        phase: phase(state).into(),
        reason,
        waves: waves(state, &glance, &devices),
        devices,
        started_unix_ms: live.record.started_unix_ms,
        updated_unix_ms: live.record.updated_unix_ms,
    }
}

fn phase(state: &RolloutState) -> RolloutPhase {
    match state.phase {
        Phase::Advancing { .. } if state.paused_by.is_some() => RolloutPhase::Paused,
        Phase::Advancing { .. } => RolloutPhase::Running,
        Phase::RollingBack { .. } => RolloutPhase::RollingBack,
        Phase::RolledBack { .. } => RolloutPhase::RolledBack,
        Phase::Completed { .. } => RolloutPhase::Completed,
        Phase::Aborted { .. } => RolloutPhase::Aborted,
    }
}

fn cause(phase: &Phase) -> Option<&RollbackCause> {
    match phase {
        Phase::RollingBack { cause, .. } | Phase::RolledBack { cause, .. } => Some(cause),
        _ => None,
    }
}

/// The wave in which a device gets the release, when all devices are heard from; the last one for those who came later.
fn wave_of(state: &RolloutState, member: &Member, place: usize, devices: usize) -> u32 {
    let last = u32::try_from(state.policy.waves.len().saturating_sub(1)).unwrap_or(u32::MAX);
    if state.slot_of(member.id, member.joined_at) == Slot::Late {
        return last;
    }
    let reaches = |size: &WaveSize| match size {
        WaveSize::Count(count) => place < *count as usize,
        WaveSize::Percent(percent) => place < (devices * usize::from(*percent)).div_ceil(100),
    };
    let wave = state.policy.waves.iter().position(reaches);
    wave.and_then(|wave| u32::try_from(wave).ok()).unwrap_or(last)
}

fn wave_phase(state: &RolloutState, index: u32) -> WavePhase {
    match &state.phase {
        Phase::Advancing {
            wave, observing_since, ..
        } => match index.cmp(wave) {
            std::cmp::Ordering::Less => WavePhase::Passed,
            std::cmp::Ordering::Greater => WavePhase::Waiting,
            std::cmp::Ordering::Equal if observing_since.is_some() => WavePhase::Observing,
            std::cmp::Ordering::Equal if state.opened_to.is_some() => WavePhase::RollingOut,
            std::cmp::Ordering::Equal => WavePhase::Waiting,
        },
        Phase::Completed { .. } => WavePhase::Passed,
        Phase::Aborted { .. } => WavePhase::Waiting,
        Phase::RollingBack { cause, .. } | Phase::RolledBack { cause, .. } => match cause {
            RollbackCause::Gate { wave, .. } | RollbackCause::Deadline { wave } if *wave == index => WavePhase::Failed,
            RollbackCause::Gate { wave, .. } | RollbackCause::Deadline { wave } if *wave < index => WavePhase::Waiting,
            _ => WavePhase::RolledBack,
        },
    }
}

fn waves(
    state: &RolloutState,
    glance: &fieldfare_fleet::rollout::RolloutStatus,
    devices: &[RolloutDevice],
) -> Vec<WaveStatus> {
    let failed: Vec<GateReading> = match cause(&state.phase) {
        Some(RollbackCause::Gate { reading, .. }) => vec![*reading],
        _ => Vec::new(),
    };
    let count = u32::try_from(state.policy.waves.len()).unwrap_or(u32::MAX);
    let of = |index: u32, outcome: DeviceOutcome| {
        let found = devices
            .iter()
            .filter(|device| device.wave == index && device.outcome() == outcome);
        u32::try_from(found.count()).unwrap_or(u32::MAX)
    };
    let wave = |index| {
        let phase = wave_phase(state, index);
        let readings = match phase {
            WavePhase::RollingOut | WavePhase::Observing => &glance.readings[..],
            WavePhase::Failed => &failed[..],
            _ => &[],
        };
        WaveStatus {
            index,
            phase: phase.into(),
            devices: u32::try_from(devices.iter().filter(|device| device.wave == index).count()).unwrap_or(u32::MAX),
            converged: of(index, DeviceOutcome::Converged),
            cannot_converge: of(index, DeviceOutcome::CannotConverge),
            not_heard_from: of(index, DeviceOutcome::NotHeardFrom),
            gates: readings.iter().map(gate).collect(),
        }
    };
    (0..count).map(wave).collect()
}

pub(super) fn gate(reading: &GateReading) -> GateStatus {
    let verdict = v1::GateVerdict::from(reading.verdict);
    GateStatus {
        name: reading.gate.metric.to_string(),
        verdict: verdict.into(),
        detail: reading.to_string(),
    }
}

/// Where a device of a rollout stands, with the words of the explanation. An outcome counts for the release that moves in: a
/// device that still waits for its wave has none.
fn device(
    records: &Records,
    name: &DeploymentName,
    member: &Member,
    wave: u32,
    explanation: &Explanation,
) -> RolloutDevice {
    let report = report_on(records, name, member.id);
    let outcome = match explanation {
        Explanation::OnTarget { .. } => DeviceOutcome::Converged,
        Explanation::CannotConverge { .. } => DeviceOutcome::CannotConverge,
        Explanation::NotHeardFrom { .. } => DeviceOutcome::NotHeardFrom,
        Explanation::Working { .. } | Explanation::NotYetSeen { .. } => DeviceOutcome::Working,
        _ => DeviceOutcome::Unspecified,
    };
    RolloutDevice {
        device_id: member.id.to_string(),
        name: records.device_name(member.id),
        wave,
        outcome: outcome.into(),
        variant: report.map(|report| report.running_variant.clone()).unwrap_or_default(),
        stage: report.map_or(InstallStage::Unspecified, stage).into(),
        detail: explanation.to_string(),
    }
}

/// The step that a device is in; none when it is not at work.
pub fn stage(report: &v1::ObservedModel) -> InstallStage {
    match report.progress.as_ref().and_then(|progress| progress.kind.as_ref()) {
        Some(v1::progress::Kind::Working(stage)) => InstallStage::try_from(*stage).unwrap_or_default(),
        _ => InstallStage::Unspecified,
    }
}

fn report_on<'a>(records: &'a Records, name: &DeploymentName, id: DeviceId) -> Option<&'a v1::ObservedModel> {
    let observed = records.device_status.get(&id)?.observed.as_ref()?;
    observed.models.iter().find(|model| model.deployment == name.as_str())
}

/// A stable name for an explanation.
pub fn explanation_code(explanation: &Explanation) -> &'static str {
    match explanation {
        Explanation::NotInDeployment => "not_in_deployment",
        Explanation::OnTarget { .. } => "on_target",
        Explanation::NotHeardFrom { .. } => "not_heard_from",
        Explanation::NotYetSeen { .. } => "not_yet_seen",
        Explanation::Working { .. } => "working",
        Explanation::CannotConverge { .. } => "cannot_converge",
        Explanation::WaitsForWave { .. } => "waiting_for_wave",
        Explanation::WaitsForCompletion { .. } => "waiting_for_completion",
        Explanation::WentBack { .. } => "went_back",
        Explanation::Aborted { .. } => "aborted",
    }
}
