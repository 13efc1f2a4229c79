//! The TrainerGateway service.

use std::pin::Pin;
use std::sync::Arc;

use fieldfare_fleet::{RoundId, TrainerName};
use fieldfare_proto::OptionExt;
use fieldfare_proto::v1::trainer_gateway_server::TrainerGateway;
use fieldfare_proto::v1::*;
use fieldfare_release::tuf::PublicKey;
use fieldfare_store::LeaseId;
use fieldfare_tls::Endpoint;
use futures_util::Stream;
use tokio::sync::watch;
use tonic::{Extensions, Request, Response, Status};

use super::claims::{self, HeldClaim};
use super::{publish, rounds, watching};
use crate::limits::{CLAIM_LEASE, FREE_TEXT_BYTES_MAX, TICK};
use crate::mirror::Topic;
use crate::plane::ControlPlane;
use crate::records::attempt;
use crate::refusal::Refusal;

/// The TrainerGateway service.
#[derive(Clone, Debug)]
pub struct TrainerGatewayService {
    plane: Arc<ControlPlane>,
}

type Answer<T> = Result<Response<T>, Status>;
type Updates<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A trainer watches for as long as this lives.
struct Watcher {
    plane: Arc<ControlPlane>,
    name: TrainerName,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.plane.presence.trainer_left(&self.name);
    }
}

impl TrainerGatewayService {
    /// Serves the trainers of this control plane.
    pub fn new(plane: Arc<ControlPlane>) -> Self {
        Self { plane }
    }

    async fn admit(&self, extensions: &Extensions) -> Result<TrainerName, Refusal> {
        let name = self.plane.access.trainer(extensions)?;
        self.plane.catch_up().await?;
        self.plane.presence.trainer_heard(&name, self.plane.clock.now());
        Ok(name)
    }

    async fn held(&self, extensions: &Extensions, fence: Option<Fence>) -> Result<HeldClaim, Refusal> {
        HeldClaim::read(&self.plane, self.admit(extensions).await?, fence)
    }

    /// Keeps what a trainer says of itself.
    async fn greet(&self, name: &TrainerName, hello: &TrainerHello) -> Result<(), Refusal> {
        crate::access::check_protocol("protocol_version", hello.protocol_version)?;
        let endpoint: Endpoint = hello
            .rounds_endpoint
            .parse()
            .map_err(|error| Refusal::invalid("rounds_endpoint", error))?;
        PublicKey::from_pem(&hello.delegation_public_key_pem)
            .map_err(|error| Refusal::invalid("delegation_public_key_pem", error))?;
        attempt!("the trainer", self.plane.records, change, {
            let key = self.plane.keys.trainer(name);
            let record: Option<PrincipalRecord> = change.read(&key).await?;
            let mut record = record.ok_or_else(|| Refusal::Forbidden(format!("trainer {name} is not registered")))?;
            record.rounds_endpoint = endpoint.to_string();
            record
                .delegation_public_key_pem
                .clone_from(&hello.delegation_public_key_pem);
            record.hello_unix_ms = self.plane.unix_ms();
            change.put(key, &mut record);
        });
        Ok(())
    }
}

/// A hint at once, and again whenever there may be something to claim.
fn hints(watcher: Watcher) -> impl Stream<Item = Result<WorkHint, Status>> + Send {
    let news = watcher.plane.mirror.subscribe(Topic::Jobs);
    futures_util::stream::unfold((watcher, news, true), |(watcher, mut news, first)| async move {
        if !first {
            work_appears(&watcher.plane, &mut news).await?;
        }
        let artifact_endpoint = watcher.plane.artifact_endpoint.to_string();
        Some((Ok(WorkHint { artifact_endpoint }), (watcher, news, false)))
    })
}

/// Ends when jobs changed and one waits, be it that a claim's lease ended; nothing at the shutdown.
async fn work_appears(plane: &ControlPlane, news: &mut watch::Receiver<u64>) -> Option<()> {
    loop {
        tokio::select! {
            () = plane.shutdown.cancelled() => return None,
            changed = news.changed() => changed.ok()?,
        }
        if claims::is_any_waiting(&plane.mirror.read()) {
            return Some(());
        }
    }
}

fn finished(outcome: &finish_request::Outcome, status: &mut JobStatusRecord) -> Result<(), Refusal> {
    let cut = |text: &str| {
        text.chars()
            .filter(|c| !c.is_control())
            .take(FREE_TEXT_BYTES_MAX / 4 * 4)
            .collect::<String>()
    };
    let (stage, reason) = match outcome {
        finish_request::Outcome::Succeeded(success) => {
            if success.manifest_target != status.manifest_target {
                let expected = format!(
                    "is {:?}, the job brought forth {:?}",
                    success.manifest_target, status.manifest_target
                );
                return Err(Refusal::invalid("succeeded.manifest_target", expected));
            }
            status.evaluations.clone_from(&success.evaluations);
            (JobStage::Succeeded, String::new())
        }
        finish_request::Outcome::Refused(refused) => {
            status.evaluations.clone_from(&refused.evaluations);
            (JobStage::Refused, cut(&refused.reasons.join("; ")))
        }
        finish_request::Outcome::Failed(failed) => (JobStage::Failed, cut(&failed.reason)),
        finish_request::Outcome::Cancelled(_) => (JobStage::Cancelled, "cancelled by an operator".to_owned()),
    };
    status.set_stage(stage);
    status.reason = reason;
    Ok(())
}

fn take_checkpoint(checkpoint: WorkCheckpoint, status: &mut JobStatusRecord) -> Result<(), Refusal> {
    match checkpoint.work.as_ref().required("checkpoint.work")? {
        work_checkpoint::Work::Import(_) => status.set_stage(JobStage::Running),
        work_checkpoint::Work::Federated(federated) => {
            if rounds::reached(federated).is_overtaken(rounds::reached_by(status)) {
                return Ok(());
            }
            let stage = match federated.stage() {
                stage @ (JobStage::Running | JobStage::Evaluating) => stage,
                JobStage::Unspecified | JobStage::Waiting => JobStage::Running,
                other => {
                    let expected = format!("is {}, which Finish says", other.as_str_name());
                    return Err(Refusal::invalid("checkpoint.federated.stage", expected));
                }
            };
            status.set_stage(stage);
            if !federated.rounds.is_empty() {
                status.rounds.clone_from(&federated.rounds);
            }
        }
    }
    status.checkpoint = Some(checkpoint);
    Ok(())
}

#[tonic::async_trait]
impl TrainerGateway for TrainerGatewayService {
    type WatchStream = Updates<WorkHint>;
    type WatchRoundStream = Updates<RoundEvent>;

    async fn watch(&self, request: Request<TrainerHello>) -> Answer<Self::WatchStream> {
        let name = self.admit(request.extensions()).await?;
        self.greet(&name, request.get_ref()).await?;
        self.plane.presence.trainer_came(&name, self.plane.clock.now());
        let watcher = Watcher {
            plane: Arc::clone(&self.plane),
            name,
        };
        Ok(Response::new(Box::pin(hints(watcher))))
    }

    async fn claim(&self, request: Request<ClaimRequest>) -> Answer<ClaimResponse> {
        let name = self.admit(request.extensions()).await?;
        Ok(Response::new(ClaimResponse {
            claim: claims::claim(&self.plane, &name).await?,
        }))
    }

    async fn renew_claim(&self, request: Request<RenewClaimRequest>) -> Answer<RenewClaimResponse> {
        let held = self.held(request.extensions(), request.get_ref().fence.clone()).await?;
        let cancelled = held.renew().await?;
        let lease_ms = u32::try_from(CLAIM_LEASE.as_millis()).unwrap_or(u32::MAX);
        Ok(Response::new(RenewClaimResponse { lease_ms, cancelled }))
    }

    async fn checkpoint(&self, request: Request<CheckpointRequest>) -> Answer<CheckpointResponse> {
        let held = self.held(request.extensions(), request.get_ref().fence.clone()).await?;
        let checkpoint = request
            .into_inner()
            .checkpoint
            .ok_or_else(|| Refusal::invalid("checkpoint", "is missing"))?;
        self.keep(&held, checkpoint).await?;
        let variants_in_use = claims::variants_in_use_by(&self.plane, &held.job).await?;
        Ok(Response::new(CheckpointResponse { variants_in_use }))
    }

    async fn open_round(&self, request: Request<OpenRoundRequest>) -> Answer<OpenRoundResponse> {
        let held = self.held(request.extensions(), request.get_ref().fence.clone()).await?;
        Ok(Response::new(
            rounds::open(&held, &self.plane, request.into_inner()).await?,
        ))
    }

    async fn watch_round(&self, request: Request<WatchRoundRequest>) -> Answer<Self::WatchRoundStream> {
        let held = self.held(request.extensions(), request.get_ref().fence.clone()).await?;
        let round = request
            .into_inner()
            .round
            .ok_or_else(|| Refusal::invalid("round", "is missing"))?;
        let round = RoundId::try_from(round).map_err(Refusal::from)?;
        if round.job != held.job {
            return Err(
                Refusal::invalid("round.job", format!("is {}, the claim is on {}", round.job, held.job)).into(),
            );
        }
        Ok(Response::new(Box::pin(watching::watch(
            Arc::clone(&self.plane),
            held,
            round,
        ))))
    }

    async fn close_round(&self, request: Request<CloseRoundRequest>) -> Answer<CloseRoundResponse> {
        let held = self.held(request.extensions(), request.get_ref().fence.clone()).await?;
        rounds::close(&held, &self.plane, request.into_inner()).await?;
        Ok(Response::new(CloseRoundResponse {}))
    }

    async fn propose_release(&self, request: Request<ProposeReleaseRequest>) -> Answer<ProposeReleaseResponse> {
        let held = self.held(request.extensions(), request.get_ref().fence.clone()).await?;
        let request = request.into_inner();
        publish::propose(&held, &self.plane, &request.manifest_target, &request.manifest).await?;
        Ok(Response::new(ProposeReleaseResponse {}))
    }

    async fn get_delegation(&self, request: Request<GetDelegationRequest>) -> Answer<GetDelegationResponse> {
        self.held(request.extensions(), request.get_ref().fence.clone()).await?;
        Ok(Response::new(
            publish::delegation(&self.plane, &request.get_ref().model).await?,
        ))
    }

    async fn publish_release(&self, request: Request<PublishReleaseRequest>) -> Answer<PublishReleaseResponse> {
        let held = self.held(request.extensions(), request.get_ref().fence.clone()).await?;
        let request = request.into_inner();
        publish::publish(
            &held,
            &self.plane,
            &request.manifest_target,
            &request.manifest,
            &request.delegated_targets,
        )
        .await?;
        Ok(Response::new(PublishReleaseResponse {}))
    }

    async fn hand_back(&self, request: Request<HandBackRequest>) -> Answer<HandBackResponse> {
        let held = self.held(request.extensions(), request.get_ref().fence.clone()).await?;
        self.free(&held).await?;
        Ok(Response::new(HandBackResponse {}))
    }

    async fn finish(&self, request: Request<FinishRequest>) -> Answer<FinishResponse> {
        let held = self.held(request.extensions(), request.get_ref().fence.clone()).await?;
        let outcome = request
            .into_inner()
            .outcome
            .ok_or_else(|| Refusal::invalid("outcome", "is missing"))?;
        self.end(&held, outcome).await?;
        Ok(Response::new(FinishResponse {}))
    }
}

impl TrainerGatewayService {
    async fn keep(&self, held: &HeldClaim, checkpoint: WorkCheckpoint) -> Result<(), Refusal> {
        attempt!("the job", self.plane.records, change, {
            let (_, mut status) = held.job(&mut change).await?;
            take_checkpoint(checkpoint.clone(), &mut status)?;
            held.put_status(&mut change, &mut status);
        });
        Ok(())
    }

    async fn end(&self, held: &HeldClaim, outcome: finish_request::Outcome) -> Result<(), Refusal> {
        let lease = attempt!("the job", self.plane.records, change, {
            let (_, mut status) = held.job(&mut change).await?;
            finished(&outcome, &mut status)?;
            if status.stage() == JobStage::Failed {
                let declined = watching::declined(&self.plane.mirror.read(), &held.job);
                if !declined.is_empty() {
                    status.reason = format!("{} ({declined})", status.reason);
                }
            }
            held.put_status(&mut change, &mut status);
            rounds::give_up_all(&self.plane, &mut change, &held.job).await?;
            held.release(&mut change).await?
        });
        self.forget(lease).await;
        tracing::info!(job = %held.job, trainer = %held.trainer, "the work ended");
        Ok(())
    }

    async fn free(&self, held: &HeldClaim) -> Result<(), Refusal> {
        let lease = attempt!("the claim", self.plane.records, change, {
            let (_, mut status) = held.job(&mut change).await?;
            status.fruitless_claims = status.fruitless_claims.saturating_sub(1);
            held.put_status(&mut change, &mut status);
            held.release(&mut change).await?
        });
        self.forget(lease).await;
        tracing::info!(job = %held.job, trainer = %held.trainer, "the claim was handed back");
        Ok(())
    }

    /// Ends the lease of a claim that was released. It holds nothing any more, and would end by itself.
    async fn forget(&self, lease: LeaseId) {
        let _ = tokio::time::timeout(TICK, self.plane.records.store().revoke_lease(lease)).await;
    }
}
