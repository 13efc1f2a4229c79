//! What a rollout decided, as the audit log has it.

use fieldfare_fleet::DeploymentName;
use fieldfare_fleet::rollout::{Action, Event, GateReading, Milestone, RollbackCause, RolloutState};
use fieldfare_proto::v1::{AuditMilestone, AuditRolloutDecision, RolloutRecord};

use super::status::{gate, milestone_name};

/// Who commanded it; nobody where time or a device's word moved the rollout.
pub(super) fn commanded_by(event: &Event) -> String {
    match event {
        Event::Pause { by }
        | Event::Resume { by }
        | Event::Promote { by }
        | Event::RollBack { by }
        | Event::Abort { by } => by.clone(),
        _ => String::new(),
    }
}

/// A decision that is about to be persisted.
pub(super) fn decision(
    deployment: &DeploymentName,
    record: &RolloutRecord,
    next: &RolloutState,
    by: String,
    actions: &[Action],
) -> AuditRolloutDecision {
    let milestones = actions.iter().filter_map(|action| match action {
        Action::Announce(reached) => Some(milestone(reached)),
        Action::PublishTargets { .. } => None,
    });
    AuditRolloutDecision {
        deployment: deployment.to_string(),
        rollout_id: record.rollout_id.clone(),
        from_manifest: record.from_manifest.clone(),
        to_manifest: record.to_manifest.clone(),
        generation: Some(next.generation.into()),
        by,
        milestones: milestones.collect(),
    }
}

fn milestone(reached: &Milestone) -> AuditMilestone {
    let (wave, readings, detail): (_, &[GateReading], _) = match reached {
        Milestone::WaveOpened { wave } | Milestone::Promoted { wave, .. } | Milestone::DeadlineMissed { wave } => {
            (Some(*wave), &[], String::new())
        }
        Milestone::ObservationBegan { wave, until } => {
            (Some(*wave), &[], format!("until {} ms after 1970", until.unix_ms()))
        }
        Milestone::WavePassed { wave, readings } => (Some(*wave), readings, String::new()),
        Milestone::RollbackBegan { cause } => match cause {
            RollbackCause::Gate { wave, reading } => (Some(*wave), std::slice::from_ref(reading), cause.to_string()),
            RollbackCause::Deadline { wave } => (Some(*wave), &[], cause.to_string()),
            RollbackCause::Operator { .. } => (None, &[], cause.to_string()),
        },
        Milestone::RolledBack { missing } => (None, &[], format!("{missing} devices that are heard from are not back")),
        Milestone::Paused { .. } | Milestone::Resumed { .. } | Milestone::Completed | Milestone::Aborted { .. } => {
            (None, &[], String::new())
        }
    };
    AuditMilestone {
        name: milestone_name(reached).to_owned(),
        wave,
        gates: readings.iter().map(gate).collect(),
        detail,
    }
}
