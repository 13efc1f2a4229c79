//! Claims: one trainer at a time works on a job, as long as its lease lives, and every write of it carries the token.

use std::sync::Arc;

use fieldfare_fleet::{DeploymentName, JobName, TrainerName};
use fieldfare_proto::OptionExt;
use fieldfare_proto::v1::{
    self, Claim, ClaimRecord, FederatedWork, ImportWork, JobRecord, JobStage, JobStatusRecord, WorkCheckpoint, claim,
    job_record, work_checkpoint,
};
use fieldfare_store::{Condition, LeaseError, LeaseId};

use super::{is_over, rounds};
use crate::limits::{CLAIM_LEASE, FRUITLESS_CLAIMS_MAX};
use crate::mirror::Records;
use crate::placement::variants_in_use;
use crate::plane::ControlPlane;
use crate::records::{Change, attempt};
use crate::refusal::Refusal;

/// The claim that a trainer says it holds.
#[derive(Clone, Debug)]
pub(crate) struct HeldClaim {
    plane: Arc<ControlPlane>,
    /// The claimed job.
    pub(crate) job: JobName,
    /// Who calls.
    pub(super) trainer: TrainerName,
    token: u64,
}

impl HeldClaim {
    /// Reads the fence of a request.
    pub(super) fn read(
        plane: &Arc<ControlPlane>,
        trainer: TrainerName,
        fence: Option<v1::Fence>,
    ) -> Result<Self, Refusal> {
        let fence = fence.required("fence")?;
        let job = super::name("fence.job", &fence.job)?;
        Ok(Self {
            plane: Arc::clone(plane),
            job,
            trainer,
            token: fence.token,
        })
    }

    fn stale(&self) -> Refusal {
        Refusal::Stale(format!(
            "claim {} on job {} is no longer the current one",
            self.token, self.job
        ))
    }

    fn current(&self, claim: Option<ClaimRecord>) -> Result<LeaseId, Refusal> {
        let ours = claim.filter(|claim| claim.token == self.token && claim.trainer == self.trainer.as_str());
        ours.map(|claim| LeaseId::new(claim.lease)).ok_or_else(|| self.stale())
    }

    /// Whether the claim still is the current one, as far as memory tells: for streams, which write nothing.
    pub(super) fn is_current(&self, records: &Records) -> Result<(), Refusal> {
        self.current(records.claims.get(&self.job).cloned()).map(drop)
    }

    /// Gives the lease its full time again. Tells whether the job was cancelled meanwhile.
    pub(super) async fn renew(&self) -> Result<bool, Refusal> {
        let plane = &self.plane;
        let lease = self.current(plane.records.get(&plane.keys.claim(&self.job)).await?)?;
        // A store that does not answer takes no claim away: the trainer asks again.
        plane
            .records
            .store()
            .keep_alive(lease)
            .await
            .map_err(|error| match error {
                LeaseError::NotLive(_) => self.stale(),
                error => error.into(),
            })?;
        let record: Option<JobRecord> = plane.records.get(&plane.keys.job(&self.job)).await?;
        Ok(record.is_none_or(|record| record.cancelled))
    }

    /// Makes a change depend on the claim: it must be the current one, and its lease live, at the commit.
    pub(crate) async fn guard(&self, change: &mut Change<'_>) -> Result<(), Refusal> {
        let lease = self.current(change.read(&self.plane.keys.claim(&self.job)).await?)?;
        change.expect(Condition::LeaseLive(lease));
        Ok(())
    }

    /// Reads the job under the fence.
    pub(super) async fn job(&self, change: &mut Change<'_>) -> Result<(JobRecord, JobStatusRecord), Refusal> {
        self.guard(change).await?;
        let record: Option<JobRecord> = change.read(&self.plane.keys.job(&self.job)).await?;
        let status: Option<JobStatusRecord> = change.read(&self.plane.keys.job_status(&self.job)).await?;
        Ok((
            record.ok_or_else(|| Refusal::missing("job", &self.job))?,
            status.unwrap_or_default(),
        ))
    }

    /// Writes the status of the job, dated now.
    pub(super) fn put_status(&self, change: &mut Change<'_>, status: &mut JobStatusRecord) {
        status.updated_unix_ms = self.plane.unix_ms();
        change.put(self.plane.keys.job_status(&self.job), status);
    }

    /// Gives the claim back, in the same commit.
    pub(super) async fn release(&self, change: &mut Change<'_>) -> Result<LeaseId, Refusal> {
        let key = self.plane.keys.claim(&self.job);
        let lease = self.current(self.plane.records.get(&key).await?)?;
        change.delete(key);
        Ok(lease)
    }
}

/// Whether a trainer may claim what is claimed so. It works on one job and asks for another when it is done: a claim of its own that
/// still lives was lost with an earlier life of its process.
fn is_free(claim: Option<&ClaimRecord>, trainer: &TrainerName) -> bool {
    claim.is_none_or(|claim| claim.trainer == trainer.as_str())
}

/// Jobs that are not over and may be claimed, the oldest first.
fn waiting(records: &Records, is_free: impl Fn(Option<&ClaimRecord>) -> bool) -> Vec<JobName> {
    let open = records.jobs.iter().filter(|(name, record)| {
        let stage = records
            .job_status
            .get(*name)
            .map_or(JobStage::Waiting, JobStatusRecord::stage);
        !is_over(stage) && !record.cancelled && is_free(records.claims.get(*name))
    });
    let mut open: Vec<_> = open
        .map(|(name, record)| (record.created_unix_ms, name.clone()))
        .collect();
    open.sort();
    open.into_iter().map(|(_, name)| name).collect()
}

/// Whether there is anything that nobody has claimed.
pub(super) fn is_any_waiting(records: &Records) -> bool {
    !waiting(records, |claim| claim.is_none()).is_empty()
}

/// Ends jobs that were cancelled while a trainer held them and that this trainer has lost.
async fn bury_cancelled(plane: &ControlPlane) -> Result<(), Refusal> {
    let lost: Vec<JobName> = {
        let records = plane.mirror.read();
        let cancelled = records
            .jobs
            .iter()
            .filter(|(name, record)| record.cancelled && !records.claims.contains_key(*name));
        let open = cancelled.filter(|(name, _)| {
            records
                .job_status
                .get(*name)
                .is_none_or(|status| !is_over(status.stage()))
        });
        open.map(|(name, _)| name.clone()).collect()
    };
    for name in lost {
        match super::cancel(plane, &name).await {
            Ok(_) | Err(Refusal::Unready(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Claims the oldest job that waits.
pub(super) async fn claim(plane: &ControlPlane, trainer: &TrainerName) -> Result<Option<Claim>, Refusal> {
    bury_cancelled(plane).await?;
    let waiting = waiting(&plane.mirror.read(), |claim| is_free(claim, trainer));
    for name in waiting {
        let lease = plane.records.store().grant_lease(CLAIM_LEASE).await?;
        match take(plane, trainer, &name, lease.id).await {
            Ok(Some((token, record, status))) => {
                tracing::info!(job = %name, %trainer, token, "claimed");
                let work = work(plane, &record)?;
                return Ok(Some(Claim {
                    fence: Some(v1::Fence {
                        job: name.to_string(),
                        token,
                    }),
                    lease_ms: u32::try_from(lease.ttl.as_millis()).unwrap_or(u32::MAX),
                    work: Some(work),
                    checkpoint: status.checkpoint,
                }));
            }
            Ok(None) => plane.records.store().revoke_lease(lease.id).await?,
            Err(error) => {
                // The lease ends by itself where this fails too.
                let _ = plane.records.store().revoke_lease(lease.id).await;
                return Err(error);
            }
        }
    }
    Ok(None)
}

/// How far a checkpoint is: a job that goes on gets further with each, whoever works on it and from wherever it began again.
fn distance(checkpoint: Option<&WorkCheckpoint>) -> u64 {
    let (whole, part) = match checkpoint.and_then(|checkpoint| checkpoint.work.as_ref()) {
        None => return 0,
        Some(work_checkpoint::Work::Import(import)) => (import.built.len(), import.stage.unsigned_abs()),
        Some(work_checkpoint::Work::Federated(federated)) => (federated.committed_round as usize, federated.attempt),
    };
    1 + ((whole as u64) << 32 | u64::from(part))
}

/// Counts a claim that begins. Whether it may: a job that ended too many claims without getting any further may not.
fn count(status: &mut JobStatusRecord) -> bool {
    let distance = distance(status.checkpoint.as_ref());
    if distance > status.furthest {
        (status.furthest, status.fruitless_claims) = (distance, 0);
    }
    if status.fruitless_claims >= FRUITLESS_CLAIMS_MAX {
        return false;
    }
    status.fruitless_claims += 1;
    true
}

/// Takes one job, unless somebody else has it or it is failed for all the claims that it ended.
async fn take(
    plane: &ControlPlane,
    trainer: &TrainerName,
    name: &JobName,
    lease: LeaseId,
) -> Result<Option<(u64, JobRecord, JobStatusRecord)>, Refusal> {
    Ok(attempt!("the claim", plane.records, change, {
        let key = plane.keys.claim(name);
        let held: Option<ClaimRecord> = change.read(&key).await?;
        let record: Option<JobRecord> = change.read(&plane.keys.job(name)).await?;
        let status: Option<JobStatusRecord> = change.read(&plane.keys.job_status(name)).await?;
        let Some(record) = record.filter(|_| is_free(held.as_ref(), trainer)) else {
            return Ok(None);
        };
        let mut status = status.unwrap_or_default();
        if record.cancelled || is_over(status.stage()) {
            return Ok(None);
        }
        status.updated_unix_ms = plane.unix_ms();
        if count(&mut status) {
            status.last_token += 1;
            status.trainer = trainer.to_string();
            if status.stage() == JobStage::Waiting {
                status.set_stage(JobStage::Running);
            }
            change.put(plane.keys.job_status(name), &mut status);
            let token = status.last_token;
            let mut claim = held.unwrap_or_default();
            claim.token = token;
            claim.trainer = trainer.to_string();
            claim.lease = lease.number();
            change.put_leased(key, &mut claim, lease);
            Some((token, record, status))
        } else {
            tracing::error!(job = %name, last = status.trainer, "no claim on this job comes to an end: it is failed");
            status.set_stage(JobStage::Failed);
            status.reason = format!(
                "{FRUITLESS_CLAIMS_MAX} claims ended without a word of their trainer and without progress, the last of {:?}: \
                 the work ends whatever process does it, or no trainer lives long enough for a part of it",
                status.trainer
            );
            change.put(plane.keys.job_status(name), &mut status);
            if held.is_some() {
                change.delete(key);
            }
            rounds::give_up_all(plane, &mut change, name).await?;
            None
        }
    }))
}

/// The variants that the devices of a job's deployment run of its base; none for an import.
pub(super) async fn variants_in_use_by(plane: &ControlPlane, job: &JobName) -> Result<Vec<String>, Refusal> {
    let record: Option<JobRecord> = plane.records.get(&plane.keys.job(job)).await?;
    let record = record.ok_or_else(|| Refusal::missing("job", job))?;
    Ok(match work(plane, &record)? {
        claim::Work::Federated(work) => work.variants_in_use,
        claim::Work::Import(_) => Vec::new(),
    })
}

fn work(plane: &ControlPlane, record: &JobRecord) -> Result<claim::Work, Refusal> {
    match &record.work {
        Some(job_record::Work::Import(spec)) => Ok(claim::Work::Import(ImportWork {
            spec: Some(spec.clone()),
            release_number: record.release_number,
        })),
        Some(job_record::Work::Federated(spec)) => {
            let deployment: DeploymentName = spec
                .deployment
                .parse()
                .map_err(|error| Refusal::broken("reading a job", format!("{error}")))?;
            Ok(claim::Work::Federated(FederatedWork {
                spec: Some(spec.clone()),
                base_manifest_target: record.base_manifest_target.clone(),
                base_manifest_sha256: record.base_manifest_sha256.clone(),
                variants_in_use: variants_in_use(&plane.mirror.read(), &deployment, &record.base_manifest_target),
                release_number: record.release_number,
            }))
        }
        None => Err(Refusal::broken("reading a job", "it has no work")),
    }
}
