//! `fieldfare rollout`: a release moving through a deployment.

use std::io::IsTerminal;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use fieldfare_proto::v1;
use serde::Serialize;

use super::Session;
use super::devices::{outcome, stage};
use crate::args::Format;
use crate::client::refused;
use crate::output::{note, show};

/// What to do with a rollout.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Shows where a rollout stands, and why.
    Status {
        /// The deployment.
        deployment: String,
        /// Follow it until it ends: one tree that is redrawn on a terminal, a line for each change elsewhere.
        #[arg(long, short = 'w')]
        watch: bool,
    },
    /// No further wave starts, and no gate rolls back, until resumed.
    Pause(Which),
    /// Goes on.
    Resume(Which),
    /// Passes the current wave's gates by hand.
    Promote(Which),
    /// Goes back to the release before, everywhere.
    Rollback(Which),
    /// Stops here: no further wave starts, nothing goes back.
    Abort(Which),
}

/// The deployment whose rollout is meant.
#[derive(Debug, Args)]
pub struct Which {
    /// The deployment.
    deployment: String,
}

#[derive(Serialize)]
struct View {
    deployment: String,
    rollout: String,
    from: String,
    to: String,
    phase: &'static str,
    reason: String,
    waves: Vec<WaveView>,
    devices: Vec<DeviceView>,
    started_unix_ms: i64,
    updated_unix_ms: i64,
}

#[derive(Serialize)]
struct WaveView {
    index: u32,
    phase: &'static str,
    devices: u32,
    converged: u32,
    cannot_converge: u32,
    not_heard_from: u32,
    gates: Vec<GateView>,
}

#[derive(Serialize)]
struct GateView {
    name: String,
    verdict: &'static str,
    detail: String,
}

#[derive(Serialize)]
struct DeviceView {
    id: String,
    name: String,
    wave: u32,
    outcome: &'static str,
    variant: String,
    stage: &'static str,
    detail: String,
}

/// A rollout's phase in words.
pub fn phase(phase: v1::RolloutPhase) -> &'static str {
    match phase {
        v1::RolloutPhase::Running => "running",
        v1::RolloutPhase::Paused => "paused",
        v1::RolloutPhase::Completed => "completed",
        v1::RolloutPhase::RollingBack => "rolling back",
        v1::RolloutPhase::RolledBack => "rolled back",
        v1::RolloutPhase::Aborted => "aborted",
        v1::RolloutPhase::Unspecified => "none",
    }
}

fn wave_phase(phase: v1::WavePhase) -> &'static str {
    match phase {
        v1::WavePhase::Waiting => "waiting",
        v1::WavePhase::RollingOut => "rolling out",
        v1::WavePhase::Observing => "observing",
        v1::WavePhase::Passed => "passed",
        v1::WavePhase::Failed => "failed",
        v1::WavePhase::RolledBack => "rolled back",
        v1::WavePhase::Unspecified => "unknown",
    }
}

fn is_over(status: &v1::RolloutStatus) -> bool {
    matches!(
        status.phase(),
        v1::RolloutPhase::Completed | v1::RolloutPhase::RolledBack | v1::RolloutPhase::Aborted
    )
}

impl View {
    fn of(status: v1::RolloutStatus) -> Self {
        let gate = |gate: v1::GateStatus| GateView {
            verdict: match gate.verdict() {
                v1::GateVerdict::Passed => "passed",
                v1::GateVerdict::Failed => "failed",
                v1::GateVerdict::Missing => "evidence missing",
                v1::GateVerdict::Unspecified => "unknown",
            },
            name: gate.name,
            detail: gate.detail,
        };
        let wave = |wave: v1::WaveStatus| WaveView {
            index: wave.index,
            phase: wave_phase(wave.phase()),
            devices: wave.devices,
            converged: wave.converged,
            cannot_converge: wave.cannot_converge,
            not_heard_from: wave.not_heard_from,
            gates: wave.gates.into_iter().map(gate).collect(),
        };
        let device = |device: v1::RolloutDevice| DeviceView {
            // A device that waits for its wave has none.
            outcome: match device.outcome() {
                v1::DeviceOutcome::Unspecified => "none",
                known => outcome(known),
            },
            stage: stage(device.stage()),
            id: device.device_id,
            name: device.name,
            wave: device.wave,
            variant: device.variant,
            detail: device.detail,
        };
        Self {
            phase: phase(status.phase()),
            deployment: status.deployment,
            rollout: status.rollout_id,
            from: status.from_manifest,
            to: status.to_manifest,
            reason: status.reason,
            waves: status.waves.into_iter().map(wave).collect(),
            devices: status.devices.into_iter().map(device).collect(),
            started_unix_ms: status.started_unix_ms,
            updated_unix_ms: status.updated_unix_ms,
        }
    }

    fn tree(&self) -> String {
        let from = if self.from.is_empty() {
            "nothing".to_owned()
        } else {
            self.from.clone()
        };
        let moves = if from == self.to {
            format!("{from} again")
        } else {
            format!("{from} -> {}", self.to)
        };
        let mut lines = vec![
            format!("{}: {moves}", self.deployment),
            format!("{} {}", self.phase, self.reason),
        ];
        for wave in &self.waves {
            let mut counts = vec![format!("{} of {} converged", wave.converged, wave.devices)];
            if wave.cannot_converge > 0 {
                counts.push(format!("{} cannot", wave.cannot_converge));
            }
            if wave.not_heard_from > 0 {
                counts.push(format!("{} not heard from", wave.not_heard_from));
            }
            lines.push(format!(
                "├─ wave {} {}: {}",
                wave.index + 1,
                wave.phase,
                counts.join(", ")
            ));
            for gate in &wave.gates {
                lines.push(format!("│  ├─ gate {}", gate.detail));
            }
            for device in self.devices.iter().filter(|device| device.wave == wave.index) {
                let doing = match device.outcome {
                    "working" => device.stage,
                    "none" => "",
                    outcome => outcome,
                };
                let words = [&device.name, &device.variant, doing, &device.detail];
                let said: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
                lines.push(format!("│  └─ {}", said.join(" ")));
            }
        }
        lines.join("\n")
    }

    /// What has changed lately, in one line.
    fn summary(&self) -> String {
        let waves = self.waves.iter().map(|wave| {
            format!(
                "wave {} {} ({} of {})",
                wave.index + 1,
                wave.phase,
                wave.converged,
                wave.devices
            )
        });
        format!(
            "{}: {}; {}",
            self.deployment,
            self.phase,
            waves.collect::<Vec<_>>().join(", ")
        )
    }
}

/// The rollout of a deployment, now.
///
/// # Errors
/// There is none.
pub async fn get(session: &Session, deployment: &str) -> Result<v1::RolloutStatus> {
    let request = v1::GetRolloutRequest {
        deployment: deployment.to_owned(),
    };
    session
        .client
        .call(
            request,
            |mut api, request| async move { api.get_rollout(request).await },
        )
        .await
}

/// Prints a rollout.
///
/// # Errors
/// Standard output is closed.
pub fn print(format: Format, status: v1::RolloutStatus) -> Result<()> {
    show(format, &View::of(status), View::tree)
}

/// Follows a rollout until it is over, on standard error.
///
/// # Errors
/// There is no rollout, or the controller goes.
pub async fn follow(session: &Session, deployment: &str) -> Result<v1::RolloutStatus> {
    let request = v1::GetRolloutRequest {
        deployment: deployment.to_owned(),
    };
    let mut changes = session
        .client
        .streams()
        .watch_rollout(request)
        .await
        .map_err(refused)?
        .into_inner();
    let terminal = console::Term::stderr();
    let redraw = std::io::stderr().is_terminal();
    let mut drawn = 0;
    let mut said = String::new();
    while let Some(status) = changes.message().await.map_err(refused)? {
        let over = is_over(&status);
        let view = View::of(status.clone());
        if redraw {
            let _ = terminal.clear_last_lines(drawn);
            let tree = view.tree();
            drawn = tree.lines().count();
            note(tree);
        } else if view.summary() != said {
            said = view.summary();
            note(&said);
        }
        if over {
            return Ok(status);
        }
    }
    bail!(
        "the controller ended the watch before the rollout was over; `fieldfare rollout status --watch {deployment}` goes on"
    )
}

/// Whether a rollout that is over did what it should.
///
/// # Errors
/// It went back, or was aborted: exit code 3.
pub fn judged(status: &v1::RolloutStatus) -> Result<()> {
    match status.phase() {
        v1::RolloutPhase::RolledBack | v1::RolloutPhase::Aborted => Err(crate::exit::refused(format!(
            "the rollout of {} is {}: {}",
            status.to_manifest,
            phase(status.phase()),
            status.reason
        ))),
        _ => Ok(()),
    }
}

/// Follows a rollout to its end, prints it, and fails where it did.
///
/// # Errors
/// There is no rollout, the controller goes, or it went back or was aborted: exit code 3.
pub async fn conclude(session: &Session, deployment: &str) -> Result<()> {
    let ended = follow(session, deployment).await?;
    print(session.format, ended.clone())?;
    judged(&ended)
}

/// Does it.
///
/// # Errors
/// What the controller says.
pub async fn run(session: &Session, action: Action) -> Result<()> {
    let (which, command) = match action {
        Action::Status {
            deployment,
            watch: true,
        } => {
            return conclude(session, &deployment).await;
        }
        Action::Status {
            deployment,
            watch: false,
        } => return print(session.format, get(session, &deployment).await?),
        Action::Pause(which) => (which, v1::RolloutCommand::Pause),
        Action::Resume(which) => (which, v1::RolloutCommand::Resume),
        Action::Promote(which) => (which, v1::RolloutCommand::Promote),
        Action::Rollback(which) => (which, v1::RolloutCommand::Rollback),
        Action::Abort(which) => (which, v1::RolloutCommand::Abort),
    };
    let request = v1::CommandRolloutRequest {
        deployment: which.deployment,
        command: command.into(),
    };
    let status = session
        .client
        .call(
            request,
            |mut api, request| async move { api.command_rollout(request).await },
        )
        .await?;
    print(session.format, status)
}
