//! Following a job until it ends, and judging the end.

use anyhow::{Result, anyhow, bail};
use fieldfare_proto::v1;

use super::super::Session;
use super::view::stage;
use crate::client::refused;
use crate::output::note;

/// Whether nothing more will happen to a job.
pub fn is_over(job: &v1::Job) -> bool {
    matches!(
        job.stage(),
        v1::JobStage::Succeeded | v1::JobStage::Refused | v1::JobStage::Failed | v1::JobStage::Cancelled
    )
}

/// One round, as it is told when it is committed.
pub fn round_line(round: &v1::RoundSummary, rounds: u32) -> String {
    format!(
        "round {}/{rounds}: loss {:.3}, exact match {:.1} %, epsilon {:.2}, {} of {} devices",
        round.round,
        round.loss_nats_per_token,
        round.exact_match * 100.0,
        round.epsilon,
        round.accepted,
        round.cohort
    )
}

/// Follows a job until it ends, telling each change.
///
/// # Errors
/// There is no such job, or the controller goes.
pub async fn follow_with(session: &Session, name: &str, mut tell: impl FnMut(&str)) -> Result<v1::Job> {
    let request = v1::GetJobRequest { name: name.to_owned() };
    let mut changes = session
        .client
        .streams()
        .watch_job(request)
        .await
        .map_err(refused)?
        .into_inner();
    let mut rounds = 0;
    let mut said = String::new();
    while let Some(job) = changes.message().await.map_err(refused)? {
        let total = job.federated.as_ref().map_or(0, |spec| spec.rounds);
        for round in job.rounds.iter().skip(rounds) {
            tell(&round_line(round, total));
        }
        rounds = job.rounds.len();
        let now = standing(&job);
        if now != said {
            tell(&now);
            said = now;
        }
        if is_over(&job) {
            return Ok(job);
        }
    }
    bail!("the controller ended the watch before the job was over; `fieldfare job watch {name}` goes on")
}

fn standing(job: &v1::Job) -> String {
    let progress = match &job.import_progress {
        Some(progress) if progress.total > 0 => format!("{} {} of {}", progress.stage, progress.done, progress.total),
        Some(progress) => progress.stage.clone(),
        None => String::new(),
    };
    let parts = [stage(job.stage()), &progress, &job.reason];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    format!("{}: {}", job.name, parts.join(", "))
}

/// Follows a job until it ends, on standard error.
///
/// # Errors
/// There is no such job, or the controller goes.
pub async fn follow(session: &Session, name: &str) -> Result<v1::Job> {
    follow_with(session, name, |line| note(line)).await
}

/// The job, if it did what it should.
///
/// # Errors
/// It failed, was cancelled, or its candidate was refused by the evaluation gate: exit code 3.
pub fn succeeded(job: v1::Job) -> Result<v1::Job> {
    match job.stage() {
        v1::JobStage::Succeeded => Ok(job),
        v1::JobStage::Refused => Err(crate::exit::refused(format!(
            "the evaluation gate refused {}: {}",
            job.name, job.reason
        ))),
        other => Err(anyhow!("job {} {}: {}", job.name, stage(other), job.reason)),
    }
}
