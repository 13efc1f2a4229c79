//! Jobs and trainers as operators see them.

use fieldfare_fleet::JobName;
use fieldfare_proto::v1::{
    ImportProgress, ImportStage, Job, JobKind, JobRecord, JobStage, JobStatusRecord, Trainer, job_record,
    work_checkpoint,
};

use crate::clock::unix_ms;
use crate::plane::ControlPlane;
use crate::refusal::Refusal;

/// Whether nothing more happens to a job.
pub(crate) fn is_over(stage: JobStage) -> bool {
    matches!(
        stage,
        JobStage::Succeeded | JobStage::Refused | JobStage::Failed | JobStage::Cancelled
    )
}

/// One job, from its records.
pub(super) fn job(name: &JobName, record: &JobRecord, status: &JobStatusRecord) -> Job {
    let mut job = Job {
        name: name.to_string(),
        stage: status.stage,
        reason: status.reason.clone(),
        rounds: status.rounds.clone(),
        evaluations: status.evaluations.clone(),
        manifest_target: status.manifest_target.clone(),
        trainer: status.trainer.clone(),
        created_unix_ms: record.created_unix_ms,
        updated_unix_ms: status.updated_unix_ms,
        ineligible: status.ineligible.clone(),
        import_progress: progress(status),
        ..Job::default()
    };
    match &record.work {
        Some(job_record::Work::Import(spec)) => {
            job.set_kind(JobKind::Import);
            job.import = Some(spec.clone());
        }
        Some(job_record::Work::Federated(spec)) => {
            job.set_kind(JobKind::Federated);
            job.federated = Some(spec.clone());
        }
        None => {}
    }
    job
}

fn progress(status: &JobStatusRecord) -> Option<ImportProgress> {
    let Some(work_checkpoint::Work::Import(checkpoint)) = status.checkpoint.as_ref().and_then(|c| c.work.as_ref())
    else {
        return None;
    };
    let stage = match checkpoint.stage() {
        ImportStage::Unspecified => "starting",
        ImportStage::Fetching => "fetching",
        ImportStage::Building => "building",
        ImportStage::Evaluating => "evaluating",
        ImportStage::Proposed => "proposed",
    };
    Some(ImportProgress {
        stage: stage.to_owned(),
        done: checkpoint.done,
        total: checkpoint.total,
    })
}

/// Every job, by its name.
pub(crate) fn list(plane: &ControlPlane) -> Vec<Job> {
    let records = plane.mirror.read();
    let status = |name: &JobName| records.job_status.get(name).cloned().unwrap_or_default();
    records
        .jobs
        .iter()
        .map(|(name, record)| job(name, record, &status(name)))
        .collect()
}

/// One job.
pub(crate) fn get(plane: &ControlPlane, name: &JobName) -> Result<Job, Refusal> {
    let records = plane.mirror.read();
    let record = records.jobs.get(name).ok_or_else(|| Refusal::missing("job", name))?;
    Ok(job(
        name,
        record,
        &records.job_status.get(name).cloned().unwrap_or_default(),
    ))
}

/// Every trainer that is enrolled.
pub(crate) fn trainers(plane: &ControlPlane) -> Vec<Trainer> {
    let records = plane.mirror.read();
    let trainer = |(name, record): (&fieldfare_fleet::TrainerName, &fieldfare_proto::v1::PrincipalRecord)| {
        let sign = plane.presence.trainer(name);
        Trainer {
            name: name.to_string(),
            connected: sign.is_some_and(|(_, watches)| watches),
            last_heard_unix_ms: sign.map_or(record.hello_unix_ms, |(heard, _)| unix_ms(heard)),
            rounds_endpoint: record.rounds_endpoint.clone(),
            delegation_public_key_pem: record.delegation_public_key_pem.clone(),
        }
    };
    records.trainers.iter().map(trainer).collect()
}
