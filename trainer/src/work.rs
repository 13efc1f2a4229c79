//! The work loop: claim, keep the lease, work, finish.

use std::sync::Arc;
use std::time::Duration;

use fieldfare_proto::v1::{Claim, Fence, JobFailed, TrainerHello, WorkHint, claim, finish_request, work_checkpoint};
use fieldfare_release::tuf::SigningKey;
use fieldfare_tls::{IdentityHandle, TimeSource};
use reqwest::Client;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::artifacts::Artifacts;
use crate::compute::Compute;
use crate::config::Hub;
use crate::failure::{WorkError, chain, told};
use crate::folder::Folder;
use crate::gateway::{CallError, FencedGateway, Gateway, backoff};
use crate::limits::{BACKOFF_MAX, CLAIM_INTERVAL, RENEW_AT_PART, RENEW_INTERVAL_MIN};
use crate::rounds::RoundsHandle;
use crate::{import, job};

/// What a trainer works with. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Workshop {
    /// The controller.
    pub gateway: Gateway,
    /// Its artifact server.
    pub artifacts: Artifacts,
    /// The compute thread.
    pub compute: Compute,
    /// The service that devices bring contributions to.
    pub rounds: RoundsHandle,
    /// Files of jobs.
    pub folder: Folder,
    /// Where `hf://` sources come from.
    pub hub: Hub,
    /// The client for them.
    pub internet: Client,
    /// Who this trainer is.
    pub identity: IdentityHandle,
    /// Signs adapter releases.
    pub delegation: Arc<SigningKey>,
    /// The process's clock.
    pub time: TimeSource,
}

/// Hints from the controller, as long as it can be reached: each wakes the loop and says where artifacts are.
pub(crate) async fn watch_for_work(
    gateway: Gateway,
    hello: TrainerHello,
    artifact_base: watch::Sender<String>,
    hints: watch::Sender<u64>,
) {
    let mut failures = 0;
    loop {
        match gateway.watch(hello.clone()).await {
            Ok(mut stream) => {
                let ended = loop {
                    let WorkHint { artifact_endpoint } = match stream.message().await {
                        Ok(Some(hint)) => hint,
                        Ok(None) => break "the controller closed the stream".to_owned(),
                        Err(status) => break chain(&status),
                    };
                    failures = 0;
                    artifact_base.send_if_modified(|known| {
                        let is_new = *known != artifact_endpoint;
                        *known = artifact_endpoint;
                        is_new
                    });
                    hints.send_modify(|count| *count += 1);
                };
                tracing::info!(ended, "the controller's hints ended; announcing this trainer again");
            }
            Err(error) => tracing::warn!(
                error = chain(&error),
                "the controller does not take this trainer's announcement"
            ),
        }
        tokio::time::sleep(backoff(failures)).await;
        failures += 1;
    }
}

/// How one claim ended for the loop.
enum Ended {
    /// The work ended by itself.
    Work(Result<finish_request::Outcome, WorkError>),
    /// The claim ended first.
    Claim(WorkError),
    /// This process is to stop.
    Shutdown,
}

impl Workshop {
    /// Works until `shutdown`: a claim in progress is handed back then, and whoever claims it next goes on from its last
    /// checkpoint.
    pub async fn run(&self, mut hints: watch::Receiver<u64>, shutdown: CancellationToken) {
        let mut failures = 0;
        // Without the first hint nobody knows where artifacts are.
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = hints.wait_for(|count| *count > 0) => {}
        }
        while !shutdown.is_cancelled() {
            let claimed = tokio::select! {
                () = shutdown.cancelled() => return,
                claimed = self.gateway.claim() => claimed,
            };
            match claimed {
                Ok(Some(claim)) => {
                    failures = 0;
                    self.work_on(claim, &shutdown).await;
                }
                Ok(None) => {
                    failures = 0;
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        _ = hints.changed() => {}
                        () = tokio::time::sleep(CLAIM_INTERVAL) => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(error = chain(&error), "no work can be claimed");
                    tokio::time::sleep(backoff(failures)).await;
                    failures += 1;
                }
            }
        }
    }

    async fn work_on(&self, claim: Claim, shutdown: &CancellationToken) {
        let Some(fence) = claim.fence.clone() else {
            tracing::warn!("the controller gave a claim without a fence");
            tokio::time::sleep(BACKOFF_MAX).await;
            return;
        };
        tracing::info!(job = fence.job, token = fence.token, "claimed");
        let gateway = self.gateway.fenced(fence.clone());
        let lease = Duration::from_millis(u64::from(claim.lease_ms));
        let ended = tokio::select! {
            () = shutdown.cancelled() => Ended::Shutdown,
            lost = keep_lease(&self.gateway, fence, lease) => Ended::Claim(lost),
            ended = self.dispatch(&gateway, claim) => Ended::Work(ended),
        };
        let outcome = match ended {
            Ended::Shutdown => return hand_back(&gateway).await,
            Ended::Work(Ok(outcome)) => outcome,
            Ended::Work(Err(error)) | Ended::Claim(error) => match self.give_up(&gateway, &error).await {
                Some(outcome) => outcome,
                None => return,
            },
        };
        self.finish(&gateway, outcome).await;
    }

    /// What the controller is told of the end of work that did not succeed; nothing where the job goes on, here or elsewhere.
    async fn give_up(&self, gateway: &FencedGateway, error: &WorkError) -> Option<finish_request::Outcome> {
        let (job, reason) = (gateway.job(), chain(error));
        match error {
            WorkError::Superseded => {
                tracing::warn!(job, "another trainer has this job now: stopping at once");
                None
            }
            WorkError::Interrupted { .. } => {
                tracing::error!(job, reason, "the work was interrupted");
                // Said rather than left to the lease: claims that end without a word count against the job.
                hand_back(gateway).await;
                tokio::time::sleep(BACKOFF_MAX).await;
                None
            }
            WorkError::Cancelled => Some(finish_request::Outcome::Cancelled(fieldfare_proto::v1::JobCancelled {})),
            WorkError::Impossible(_) => {
                tracing::error!(job, reason, "the job failed");
                Some(finish_request::Outcome::Failed(JobFailed { reason: told(reason) }))
            }
        }
    }

    async fn finish(&self, gateway: &FencedGateway, outcome: finish_request::Outcome) {
        match gateway.finish(outcome).await {
            Ok(()) => {
                tracing::info!(job = gateway.job(), "finished");
                if let Err(error) = self.folder.forget_job(gateway.job()) {
                    tracing::warn!(error = chain(&error), "the files of a finished job stay behind");
                }
            }
            Err(error) => tracing::error!(
                error = chain(&error),
                job = gateway.job(),
                "the end of the job was not recorded"
            ),
        }
    }

    async fn dispatch(&self, gateway: &FencedGateway, claim: Claim) -> Result<finish_request::Outcome, WorkError> {
        let checkpoint = claim.checkpoint.and_then(|checkpoint| checkpoint.work);
        match (claim.work, checkpoint) {
            (Some(claim::Work::Import(work)), None) => import::run(self, gateway, work, None).await,
            (Some(claim::Work::Import(work)), Some(work_checkpoint::Work::Import(from))) => {
                import::run(self, gateway, work, Some(from)).await
            }
            (Some(claim::Work::Federated(work)), None) => job::run(self, gateway, work, None).await,
            (Some(claim::Work::Federated(work)), Some(work_checkpoint::Work::Federated(from))) => {
                job::run(self, gateway, work, Some(from)).await
            }
            (None, _) => Err(WorkError::Impossible(
                "the claim has work of a kind that this version does not know".into(),
            )),
            _ => Err(WorkError::Impossible(
                "the claim's checkpoint is of another kind of work".into(),
            )),
        }
    }
}

/// Gives the claim back; where that does not succeed, it lapses.
async fn hand_back(gateway: &FencedGateway) {
    match gateway.hand_back().await {
        Ok(()) => tracing::info!(
            job = gateway.job(),
            "handed the claim back: whoever takes it goes on from its last checkpoint"
        ),
        Err(error) => tracing::warn!(
            job = gateway.job(),
            error = chain(&error),
            "the claim was not handed back; it lapses"
        ),
    }
}

/// Renews the lease for as long as it can be renewed; says why it cannot any more. A lease that was not renewed in its time is
/// lost, whatever the reason: somebody else may have the work by then.
async fn keep_lease(gateway: &Gateway, fence: Fence, lease: Duration) -> WorkError {
    let (mut lease, mut renewed) = (lease, Instant::now());
    loop {
        tokio::time::sleep((lease / RENEW_AT_PART).max(RENEW_INTERVAL_MIN)).await;
        let asked = Instant::now();
        match gateway.renew(fence.clone()).await {
            Ok(answer) if answer.cancelled => return WorkError::Cancelled,
            Ok(answer) => {
                lease = Duration::from_millis(u64::from(answer.lease_ms));
                renewed = asked;
            }
            Err(CallError { status, .. }) if status.code() == tonic::Code::Aborted => return WorkError::Superseded,
            Err(error) if renewed.elapsed() >= lease => {
                return WorkError::Interrupted {
                    doing: "renewing the claim in time",
                    source: Box::new(error),
                };
            }
            Err(error) => tracing::warn!(error = chain(&error), "the claim was not renewed; trying again"),
        }
    }
}
