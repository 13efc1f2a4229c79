//! The controller's TrainerGateway, as the trainer calls it.

use std::time::Duration;

use fieldfare_fleet::Backoff;
use fieldfare_proto::v1::trainer_gateway_client::TrainerGatewayClient;
use fieldfare_proto::v1::{
    CheckpointRequest, CheckpointResponse, Claim, ClaimRequest, CloseRoundRequest, Fence, FinishRequest,
    GetDelegationRequest, GetDelegationResponse, HandBackRequest, OpenRoundRequest, OpenRoundResponse,
    ProposeReleaseRequest, PublishReleaseRequest, RenewClaimRequest, RenewClaimResponse, RoundEvent, RoundRef,
    TrainerHello, WatchRoundRequest, WorkCheckpoint, WorkHint, finish_request, work_checkpoint,
};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::limits::{BACKOFF_MAX, BACKOFF_MIN, CALL_ATTEMPTS_MAX, CALL_TIMEOUT, HAND_BACK_TIMEOUT, MESSAGE_BYTES_MAX};

/// A call that the controller refused, or that did not reach it after many attempts.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {} ({:?})", .status.message(), .status.code())]
pub struct CallError {
    /// The call.
    pub call: &'static str,
    /// The answer.
    pub status: Status,
}

/// Waits between attempts: doubling, from [`BACKOFF_MIN`] to [`BACKOFF_MAX`].
pub(crate) fn backoff(attempt: u32) -> Duration {
    Backoff::new(BACKOFF_MIN, BACKOFF_MAX).after(attempt).bound()
}

fn may_be_repeated(status: &Status) -> bool {
    // A connection that breaks off in the middle of a call makes it `Cancelled` or `Unknown` on this side.
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled | Code::ResourceExhausted
    )
}

/// The controller. Every call may be repeated, and is, until it was answered.
#[derive(Clone, Debug)]
pub struct Gateway {
    client: TrainerGatewayClient<Channel>,
}

impl Gateway {
    /// The gateway behind a channel to a controller.
    pub fn new(channel: Channel) -> Self {
        let client = TrainerGatewayClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self { client }
    }

    /// Calls until the controller has answered, or [`CALL_ATTEMPTS_MAX`] attempts did not reach it.
    async fn call<Q, A, F>(
        &self,
        call: &'static str,
        message: Q,
        send: impl Fn(TrainerGatewayClient<Channel>, Request<Q>) -> F,
    ) -> Result<A, CallError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut attempt = 0;
        loop {
            let mut request = Request::new(message.clone());
            request.set_timeout(CALL_TIMEOUT);
            match send(self.client.clone(), request).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) if may_be_repeated(&status) && attempt < CALL_ATTEMPTS_MAX => {
                    tracing::debug!(call, %status, attempt, "the controller did not answer; calling again");
                    tokio::time::sleep(backoff(attempt)).await;
                    attempt += 1;
                }
                Err(status) => return Err(CallError { call, status }),
            }
        }
    }

    /// Announces this trainer; the stream hints at claimable work for as long as it lives.
    pub async fn watch(&self, hello: TrainerHello) -> Result<Streaming<WorkHint>, CallError> {
        let stream = self.client.clone().watch(hello).await;
        stream
            .map(Response::into_inner)
            .map_err(|status| CallError { call: "Watch", status })
    }

    /// Claims one unit of work, if there is any.
    pub async fn claim(&self) -> Result<Option<Claim>, CallError> {
        let answer = self
            .call("Claim", ClaimRequest {}, |mut client, q| async move {
                client.claim(q).await
            })
            .await?;
        Ok(answer.claim)
    }

    /// Renews a lease, once: whoever calls knows when it must have succeeded.
    pub async fn renew(&self, fence: Fence) -> Result<RenewClaimResponse, CallError> {
        let mut request = Request::new(RenewClaimRequest { fence: Some(fence) });
        request.set_timeout(BACKOFF_MAX);
        let answer = self.client.clone().renew_claim(request).await;
        answer.map(Response::into_inner).map_err(|status| CallError {
            call: "RenewClaim",
            status,
        })
    }

    /// The calls that a claim allows.
    pub fn fenced(&self, fence: Fence) -> FencedGateway {
        FencedGateway {
            gateway: self.clone(),
            fence,
        }
    }
}

/// The calls that a claim allows; each carries its fence.
#[derive(Clone, Debug)]
pub struct FencedGateway {
    gateway: Gateway,
    fence: Fence,
}

impl FencedGateway {
    /// The job.
    pub fn job(&self) -> &str {
        &self.fence.job
    }

    /// The fence.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Records progress.
    pub async fn checkpoint(&self, work: work_checkpoint::Work) -> Result<CheckpointResponse, CallError> {
        let checkpoint = Some(WorkCheckpoint { work: Some(work) });
        let message = CheckpointRequest {
            fence: Some(self.fence.clone()),
            checkpoint,
        };
        let send = |mut client: TrainerGatewayClient<Channel>, q| async move { client.checkpoint(q).await };
        self.gateway.call("Checkpoint", message, send).await
    }

    /// Picks and invites the cohort of a round.
    pub async fn open_round(
        &self,
        configuration: Vec<u8>,
        training_memory_bytes: u64,
    ) -> Result<OpenRoundResponse, CallError> {
        let message = OpenRoundRequest {
            fence: Some(self.fence.clone()),
            configuration,
            training_memory_bytes,
        };
        let send = |mut client: TrainerGatewayClient<Channel>, q| async move { client.open_round(q).await };
        self.gateway.call("OpenRound", message, send).await
    }

    /// What becomes of the invited.
    pub async fn watch_round(&self, round: RoundRef) -> Result<Streaming<RoundEvent>, CallError> {
        let message = WatchRoundRequest {
            fence: Some(self.fence.clone()),
            round: Some(round),
        };
        let stream = self.gateway.client.clone().watch_round(message).await;
        stream.map(Response::into_inner).map_err(|status| CallError {
            call: "WatchRound",
            status,
        })
    }

    /// Commits a round; the fence of the message is filled in.
    pub async fn close_round(&self, mut message: CloseRoundRequest) -> Result<(), CallError> {
        message.fence = Some(self.fence.clone());
        let send = |mut client: TrainerGatewayClient<Channel>, q| async move { client.close_round(q).await };
        self.gateway.call("CloseRound", message, send).await.map(drop)
    }

    /// Hands over an imported release for an operator to sign.
    pub async fn propose_release(&self, manifest_target: String, manifest: Vec<u8>) -> Result<(), CallError> {
        let message = ProposeReleaseRequest {
            fence: Some(self.fence.clone()),
            manifest_target,
            manifest,
        };
        let send = |mut client: TrainerGatewayClient<Channel>, q| async move { client.propose_release(q).await };
        self.gateway.call("ProposeRelease", message, send).await.map(drop)
    }

    /// The metadata that a delegated publication builds on.
    pub async fn delegation(&self, model: String) -> Result<GetDelegationResponse, CallError> {
        let message = GetDelegationRequest {
            fence: Some(self.fence.clone()),
            model,
        };
        let send = |mut client: TrainerGatewayClient<Channel>, q| async move { client.get_delegation(q).await };
        self.gateway.call("GetDelegation", message, send).await
    }

    /// Publishes a release; the fence of the message is filled in.
    pub async fn publish_release(&self, mut message: PublishReleaseRequest) -> Result<(), CallError> {
        message.fence = Some(self.fence.clone());
        let send = |mut client: TrainerGatewayClient<Channel>, q| async move { client.publish_release(q).await };
        self.gateway.call("PublishRelease", message, send).await.map(drop)
    }

    /// Gives the claim back undone, once: it ends by itself where that fails.
    ///
    /// # Errors
    /// The controller refuses, or does not answer in time.
    pub async fn hand_back(&self) -> Result<(), CallError> {
        let mut request = Request::new(HandBackRequest {
            fence: Some(self.fence.clone()),
        });
        request.set_timeout(HAND_BACK_TIMEOUT);
        let answer = self.gateway.client.clone().hand_back(request).await;
        answer.map(drop).map_err(|status| CallError {
            call: "HandBack",
            status,
        })
    }

    /// Ends the work.
    pub async fn finish(&self, outcome: finish_request::Outcome) -> Result<(), CallError> {
        let message = FinishRequest {
            fence: Some(self.fence.clone()),
            outcome: Some(outcome),
        };
        let send = |mut client: TrainerGatewayClient<Channel>, q| async move { client.finish(q).await };
        self.gateway.call("Finish", message, send).await.map(drop)
    }
}
