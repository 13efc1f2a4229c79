//! Jobs: imports and federated training as work that trainers claim by a lease and carry out under a fencing token.

mod claims;
mod cohort;
mod gateway;
#[cfg(test)]
mod longest;
mod publish;
mod rounds;
mod spec;
mod view;
mod watching;

pub(crate) use claims::HeldClaim;
pub use gateway::TrainerGatewayService;
pub(crate) use rounds::opened;
pub(crate) use spec::{start_federated, start_import};
pub(crate) use view::{get, is_over, list, trainers};

use fieldfare_fleet::JobName;
use fieldfare_proto::v1::{Job, JobRecord, JobStage, JobStatusRecord};

use crate::plane::ControlPlane;
use crate::records::attempt;
use crate::refusal::Refusal;

/// A job's name in a request.
pub(crate) fn name(field: &str, text: &str) -> Result<JobName, Refusal> {
    JobName::new(text).map_err(|error| Refusal::invalid(field, error))
}

/// Ends a job: at once where nobody works on it, and otherwise at the trainer's next word with the controller.
pub(crate) async fn cancel(plane: &ControlPlane, name: &JobName) -> Result<Job, Refusal> {
    let (record, status) = attempt!("the job", plane.records, change, {
        let record: Option<JobRecord> = change.read(&plane.keys.job(name)).await?;
        let mut record = record.ok_or_else(|| Refusal::missing("job", name))?;
        let mut status: JobStatusRecord = change.read(&plane.keys.job_status(name)).await?.unwrap_or_default();
        if is_over(status.stage()) {
            return Err(Refusal::Unready(format!("job {name} has ended already")));
        }
        if !record.cancelled {
            record.cancelled = true;
            change.put(plane.keys.job(name), &mut record);
        }
        let claim: Option<fieldfare_proto::v1::ClaimRecord> = change.read(&plane.keys.claim(name)).await?;
        if claim.is_none() {
            status.set_stage(JobStage::Cancelled);
            status.reason = "cancelled by an operator".to_owned();
            status.updated_unix_ms = plane.unix_ms();
            change.put(plane.keys.job_status(name), &mut status);
        }
        (record, status)
    });
    Ok(view::job(name, &record, &status))
}
