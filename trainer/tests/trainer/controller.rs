//! A controller as a trainer sees it: the real protocol over real TLS, with its state in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, State as AppState};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::get;
use fieldfare_proto::v1::trainer_gateway_server::{TrainerGateway, TrainerGatewayServer};
use fieldfare_proto::v1::*;
use fieldfare_release::Sha256Digest;
use fieldfare_tls::{
    Acceptor, AcceptorSettings, DenyList, Endpoint, Identity, IdentityHandle, PeerIdentity, serve_http,
};
use fieldfare_trainer::clock;
use fieldfare_trainer::config::{SCHEMA, TrainerConfig};
use futures_util::Stream;
use tokio::net::TcpListener;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::fleet::Fleet;

/// What happened, for tests to wait for.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The one job that there is.
    pub(crate) work: Option<claim::Work>,
    pub(crate) checkpoint: Option<work_checkpoint::Work>,
    pub(crate) token: u64,
    claimed: bool,
    /// Checkpoints with this many built variants are never answered: the trainer can be killed right there.
    pub(crate) hold_after_built: Option<usize>,
    pub(crate) lease_ms: u32,
    /// A variant that devices have moved to when the job is about to be judged.
    pub(crate) moved_to: Option<String>,
    /// No operator has let the trainer sign anything.
    pub(crate) delegates_nothing: bool,
    pub(crate) hello: Option<TrainerHello>,
    pub(crate) proposed: Option<ProposeReleaseRequest>,
    pub(crate) published: Option<PublishReleaseRequest>,
    pub(crate) finished: Option<finish_request::Outcome>,
    pub(crate) closed: Vec<CloseRoundRequest>,
    pub(crate) opened: Vec<RoundConfiguration>,
    pub(crate) cohort: Vec<String>,
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    /// How often each blob was uploaded.
    pub(crate) uploads: BTreeMap<String, u32>,
}

#[derive(Clone)]
pub(crate) struct Controller {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    work: Arc<Notify>,
    artifacts: Arc<Mutex<String>>,
    opened: broadcast::Sender<Vec<u8>>,
}

/// A controller that serves, and the fleet whose it is.
pub(crate) struct Stage {
    pub(crate) fleet: Fleet,
    pub(crate) controller: Controller,
    pub(crate) identity: Identity,
    pub(crate) endpoint: Endpoint,
}

async fn acceptor(identity: &Identity) -> (Acceptor, Endpoint) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::new("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
    let settings = AcceptorSettings::new(
        IdentityHandle::new(identity.clone()),
        DenyList::default(),
        clock::system(),
    );
    (Acceptor::new(listener, settings).unwrap(), endpoint)
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let fleet = Fleet::new();
        let identity = fleet.controller();
        let controller = Controller {
            state: Arc::new(Mutex::new(State {
                lease_ms: 30_000,
                ..State::default()
            })),
            changed: watch::Sender::new(0),
            work: Arc::default(),
            artifacts: Arc::default(),
            opened: broadcast::Sender::new(16),
        };
        let (grpc, endpoint) = acceptor(&identity).await;
        let (https, artifacts) = acceptor(&identity).await;
        *controller.artifacts.lock().unwrap() = artifacts.to_string();
        let router = Router::new()
            .route("/blobs/sha256/{digest}", get(get_blob).put(put_blob))
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(controller.clone());
        tokio::spawn(serve_http(https, router, std::future::pending()));
        let service = TrainerGatewayServer::new(controller.clone());
        let server = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(grpc);
        tokio::spawn(async { server.await.unwrap() });
        Self {
            fleet,
            controller,
            identity,
            endpoint,
        }
    }

    /// Puts a trainer's identity and configuration into a folder, as enrolment does.
    pub(crate) fn enrol(&self, name: &str, folder: &Path) {
        self.fleet.trainer(name).save(&folder.join("identity")).unwrap();
        let endpoints = vec![self.endpoint.to_string()];
        let config = TrainerConfig {
            schema: SCHEMA,
            name: name.to_owned(),
            endpoints,
        };
        std::fs::write(folder.join("trainer.json"), serde_json::to_vec(&config).unwrap()).unwrap();
    }
}

impl Controller {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changed.send_modify(|count| *count += 1);
        result
    }

    /// Waits until something holds.
    pub(crate) async fn until<T>(&self, mut holds: impl FnMut(&State) -> Option<T>) -> T {
        let mut changes = self.changed.subscribe();
        loop {
            if let Some(found) = holds(&self.state()) {
                return found;
            }
            changes.changed().await.unwrap();
        }
    }

    /// Stores bytes as an operator uploads them.
    pub(crate) fn upload(&self, file_name: &str, bytes: &[u8]) -> UploadedArtifact {
        let sha256 = Sha256Digest::of(bytes);
        self.state().blobs.insert(sha256.to_string(), bytes.to_vec());
        let length_bytes = bytes.len() as u64;
        UploadedArtifact {
            sha256: sha256.as_bytes().to_vec(),
            length_bytes,
            file_name: file_name.to_owned(),
        }
    }

    pub(crate) fn offer(&self, work: claim::Work) {
        self.change(|state| (state.work, state.claimed) = (Some(work), false));
        self.work.notify_waiters();
    }

    /// What a store does when a lease has run out: the work is free again.
    pub(crate) fn expire_claim(&self) {
        self.change(|state| state.claimed = false);
        self.work.notify_waiters();
    }

    /// The configurations of rounds that are opened from now on.
    pub(crate) fn rounds(&self) -> broadcast::Receiver<Vec<u8>> {
        self.opened.subscribe()
    }

    fn fenced<T>(&self, fence: Option<Fence>, change: impl FnOnce(&mut State) -> T) -> Result<T, Status> {
        let token = fence.map_or(0, |fence| fence.token);
        if token != self.state().token {
            return Err(Status::aborted("another trainer has the job"));
        }
        Ok(self.change(change))
    }
}

type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl TrainerGateway for Controller {
    type WatchStream = Streaming<WorkHint>;
    type WatchRoundStream = Streaming<RoundEvent>;

    async fn watch(&self, request: Request<TrainerHello>) -> Result<Response<Self::WatchStream>, Status> {
        let peer = request.extensions().get::<PeerIdentity>().cloned();
        peer.ok_or_else(|| Status::unauthenticated("no identity"))?
            .principal()
            .map_err(|e| Status::unauthenticated(e.to_string()))?;
        self.change(|state| state.hello = Some(request.into_inner()));
        let (sender, receiver) = mpsc::channel(4);
        let (work, artifact_endpoint) = (Arc::clone(&self.work), self.artifacts.lock().unwrap().clone());
        tokio::spawn(async move {
            while sender
                .send(Ok(WorkHint {
                    artifact_endpoint: artifact_endpoint.clone(),
                }))
                .await
                .is_ok()
            {
                work.notified().await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn claim(&self, _: Request<ClaimRequest>) -> Result<Response<ClaimResponse>, Status> {
        // Artifacts are announced by the first hint: no work is given before it went out.
        let claim = self.change(|state| {
            if state.claimed || state.finished.is_some() || state.hello.is_none() {
                return None;
            }
            let work = state.work.clone()?;
            (state.claimed, state.token) = (true, state.token + 1);
            let fence = Some(Fence {
                job: "job-1".to_owned(),
                token: state.token,
            });
            let checkpoint = state.checkpoint.clone().map(|work| WorkCheckpoint { work: Some(work) });
            Some(Claim {
                fence,
                lease_ms: state.lease_ms,
                work: Some(work),
                checkpoint,
            })
        });
        Ok(Response::new(ClaimResponse { claim }))
    }

    async fn renew_claim(&self, request: Request<RenewClaimRequest>) -> Result<Response<RenewClaimResponse>, Status> {
        let lease_ms = self.fenced(request.into_inner().fence, |state| state.lease_ms)?;
        Ok(Response::new(RenewClaimResponse {
            lease_ms,
            cancelled: false,
        }))
    }

    async fn checkpoint(&self, request: Request<CheckpointRequest>) -> Result<Response<CheckpointResponse>, Status> {
        let CheckpointRequest { fence, checkpoint } = request.into_inner();
        let (hold, variants_in_use) = self.fenced(fence, |state| {
            state.checkpoint = checkpoint.and_then(|checkpoint| checkpoint.work);
            let built = match &state.checkpoint {
                Some(work_checkpoint::Work::Import(import)) => Some(import.built.len()),
                _ => None,
            };
            let judging = matches!(&state.checkpoint, Some(work_checkpoint::Work::Federated(checkpoint)) if checkpoint.stage() == JobStage::Evaluating);
            let moved = if judging { state.moved_to.take() } else { None };
            // A trainer takes its own claim over.
            state.claimed &= moved.is_none();
            let hold = state.hold_after_built.is_some() && state.hold_after_built == built;
            (hold, moved.into_iter().collect())
        })?;
        if hold {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(CheckpointResponse { variants_in_use }))
    }

    async fn open_round(&self, request: Request<OpenRoundRequest>) -> Result<Response<OpenRoundResponse>, Status> {
        let request = request.into_inner();
        let configuration = <RoundConfiguration as prost::Message>::decode(request.configuration.as_slice())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let cohort_device_ids = self.fenced(request.fence, |state| {
            state.opened.push(configuration);
            state.cohort.clone()
        })?;
        let _ = self.opened.send(request.configuration);
        Ok(Response::new(OpenRoundResponse {
            cohort_device_ids,
            ineligible: Vec::new(),
        }))
    }

    async fn watch_round(&self, _: Request<WatchRoundRequest>) -> Result<Response<Self::WatchRoundStream>, Status> {
        Ok(Response::new(Box::pin(futures_util::stream::pending())))
    }

    async fn close_round(&self, request: Request<CloseRoundRequest>) -> Result<Response<CloseRoundResponse>, Status> {
        let request = request.into_inner();
        self.fenced(request.fence.clone(), |state| {
            state.checkpoint = request.checkpoint.clone().map(work_checkpoint::Work::Federated);
            state.closed.push(request);
        })?;
        Ok(Response::new(CloseRoundResponse {}))
    }

    async fn propose_release(
        &self,
        request: Request<ProposeReleaseRequest>,
    ) -> Result<Response<ProposeReleaseResponse>, Status> {
        let request = request.into_inner();
        self.fenced(request.fence.clone(), |state| state.proposed = Some(request))?;
        Ok(Response::new(ProposeReleaseResponse {}))
    }

    async fn get_delegation(
        &self,
        _: Request<GetDelegationRequest>,
    ) -> Result<Response<GetDelegationResponse>, Status> {
        if self.state().delegates_nothing {
            return Err(Status::failed_precondition("the targets delegate nothing"));
        }
        Ok(Response::new(GetDelegationResponse {
            delegated_targets: Vec::new(),
            role: String::new(),
        }))
    }

    async fn publish_release(
        &self,
        request: Request<PublishReleaseRequest>,
    ) -> Result<Response<PublishReleaseResponse>, Status> {
        let request = request.into_inner();
        self.fenced(request.fence.clone(), |state| state.published = Some(request))?;
        Ok(Response::new(PublishReleaseResponse {}))
    }

    async fn hand_back(&self, request: Request<HandBackRequest>) -> Result<Response<HandBackResponse>, Status> {
        self.fenced(request.into_inner().fence, |_| ())?;
        self.expire_claim();
        Ok(Response::new(HandBackResponse {}))
    }

    async fn finish(&self, request: Request<FinishRequest>) -> Result<Response<FinishResponse>, Status> {
        let FinishRequest { fence, outcome } = request.into_inner();
        self.fenced(fence, |state| state.finished = outcome)?;
        Ok(Response::new(FinishResponse {}))
    }
}

async fn get_blob(
    AppState(controller): AppState<Controller>,
    UrlPath(digest): UrlPath<String>,
    headers: HeaderMap,
) -> HttpResponse {
    let Some(bytes) = controller.state().blobs.get(&digest).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let Some(first) = range.and_then(|text| text.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok())
    else {
        return Body::from(bytes).into_response();
    };
    let content_range = format!("bytes {first}-{}/{}", bytes.len() - 1, bytes.len());
    (
        StatusCode::PARTIAL_CONTENT,
        [(header::CONTENT_RANGE, content_range)],
        bytes[first..].to_vec(),
    )
        .into_response()
}

async fn put_blob(
    AppState(controller): AppState<Controller>,
    UrlPath(digest): UrlPath<String>,
    body: Bytes,
) -> StatusCode {
    if Sha256Digest::of(&body).to_string() != digest {
        return StatusCode::UNPROCESSABLE_ENTITY;
    }
    controller.change(|state| {
        *state.uploads.entry(digest.clone()).or_default() += 1;
        state.blobs.insert(digest, body.to_vec());
    });
    StatusCode::CREATED
}
