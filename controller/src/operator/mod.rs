//! The Operator service: everything that the command line, a console and automation need.

mod deployments;
mod devices;
mod examine;
mod releases;
mod tokens;
mod watches;

use std::pin::Pin;
use std::sync::Arc;

use fieldfare_proto::v1::operator_server::Operator;
use fieldfare_proto::v1::*;
use fieldfare_tls::OperatorName;
use futures_util::Stream;
use tonic::{Request, Response, Status};

use crate::backup;
use crate::garbage;
use crate::jobs;
use crate::plane::ControlPlane;
use crate::refusal::Refusal;
use crate::rollout::Rollouts;

/// The Operator service.
#[derive(Clone, Debug)]
pub struct OperatorService {
    plane: Arc<ControlPlane>,
    rollouts: Rollouts,
}

type Answer<T> = Result<Response<T>, Status>;
type Updates<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl OperatorService {
    /// Serves the operators of this control plane.
    pub fn new(plane: Arc<ControlPlane>, rollouts: Rollouts) -> Self {
        Self { plane, rollouts }
    }

    /// Lets operators in, and takes the message out.
    async fn admit<T>(&self, request: Request<T>) -> Result<(OperatorName, T), Refusal> {
        let operator = self.plane.access.operator(request.extensions())?;
        self.plane.catch_up().await?;
        Ok((operator, request.into_inner()))
    }
}

#[tonic::async_trait]
impl Operator for OperatorService {
    type WatchRolloutStream = Updates<RolloutStatus>;
    type WatchJobStream = Updates<Job>;

    async fn create_token(&self, request: Request<CreateTokenRequest>) -> Answer<CreateTokenResponse> {
        let (_, request) = self.admit(request).await?;
        let token = tokens::create(&self.plane, request).await?;
        Ok(Response::new(CreateTokenResponse { token: Some(token) }))
    }

    async fn list_tokens(&self, request: Request<ListTokensRequest>) -> Answer<ListTokensResponse> {
        self.admit(request).await?;
        Ok(Response::new(ListTokensResponse {
            tokens: tokens::list(&self.plane).await?,
        }))
    }

    async fn revoke_token(&self, request: Request<RevokeTokenRequest>) -> Answer<RevokeTokenResponse> {
        let (_, request) = self.admit(request).await?;
        tokens::revoke(&self.plane, &request.id).await?;
        Ok(Response::new(RevokeTokenResponse {}))
    }

    async fn list_devices(&self, request: Request<ListDevicesRequest>) -> Answer<ListDevicesResponse> {
        let (_, request) = self.admit(request).await?;
        Ok(Response::new(devices::list(&self.plane, &request)?))
    }

    async fn get_device(&self, request: Request<GetDeviceRequest>) -> Answer<Device> {
        let (_, request) = self.admit(request).await?;
        let id = devices::find(&self.plane.mirror.read(), &request.device)?;
        Ok(Response::new(devices::show(&self.plane, id)?))
    }

    async fn explain_device(&self, request: Request<ExplainDeviceRequest>) -> Answer<ExplainDeviceResponse> {
        let (_, request) = self.admit(request).await?;
        Ok(Response::new(
            devices::explain(&self.plane, &self.rollouts, &request.device).await?,
        ))
    }

    async fn approve_device(&self, request: Request<ApproveDeviceRequest>) -> Answer<Device> {
        let (_, request) = self.admit(request).await?;
        Ok(Response::new(devices::approve(&self.plane, &request.device).await?))
    }

    async fn revoke_device(&self, request: Request<RevokeDeviceRequest>) -> Answer<Device> {
        let (_, request) = self.admit(request).await?;
        Ok(Response::new(
            devices::revoke(&self.plane, &request.device, &request.reason).await?,
        ))
    }

    async fn get_fleet(&self, request: Request<GetFleetRequest>) -> Answer<Fleet> {
        self.admit(request).await?;
        Ok(Response::new(releases::fleet(&self.plane).await?))
    }

    async fn install_root(&self, request: Request<InstallRootRequest>) -> Answer<InstallRootResponse> {
        let (by, request) = self.admit(request).await?;
        self.plane.releases.install_root(&request.root).await?;
        tracing::info!(%by, "a root of the release repository was installed");
        Ok(Response::new(InstallRootResponse {}))
    }

    async fn get_repository(&self, request: Request<GetRepositoryRequest>) -> Answer<Repository> {
        self.admit(request).await?;
        Ok(Response::new(releases::repository(&self.plane).await?))
    }

    async fn publish_targets(&self, request: Request<PublishTargetsRequest>) -> Answer<PublishTargetsResponse> {
        let (by, request) = self.admit(request).await?;
        let targets_version = self
            .plane
            .releases
            .publish_targets(&request.targets, &request.manifests)
            .await?;
        tracing::info!(%by, targets_version, "targets were published");
        Ok(Response::new(PublishTargetsResponse { targets_version }))
    }

    async fn import_model(&self, request: Request<ImportModelRequest>) -> Answer<Job> {
        let (_, request) = self.admit(request).await?;
        let spec = request.spec.ok_or_else(|| Refusal::invalid("spec", "is missing"))?;
        Ok(Response::new(jobs::start_import(&self.plane, spec).await?))
    }

    async fn list_releases(&self, request: Request<ListReleasesRequest>) -> Answer<ListReleasesResponse> {
        let (_, request) = self.admit(request).await?;
        Ok(Response::new(ListReleasesResponse {
            releases: releases::list(&self.plane, &request.model).await?,
        }))
    }

    async fn get_release(&self, request: Request<GetReleaseRequest>) -> Answer<Release> {
        let (_, request) = self.admit(request).await?;
        Ok(Response::new(releases::get(&self.plane, &request.release).await?))
    }

    async fn plan_placement(&self, request: Request<PlanPlacementRequest>) -> Answer<PlanPlacementResponse> {
        let (_, request) = self.admit(request).await?;
        Ok(Response::new(devices::plan(&self.plane, request).await?))
    }

    async fn apply_deployment(&self, request: Request<ApplyDeploymentRequest>) -> Answer<Deployment> {
        let (by, request) = self.admit(request).await?;
        Ok(Response::new(deployments::apply(&self.plane, &by, request).await?))
    }

    async fn list_deployments(&self, request: Request<ListDeploymentsRequest>) -> Answer<ListDeploymentsResponse> {
        self.admit(request).await?;
        Ok(Response::new(ListDeploymentsResponse {
            deployments: deployments::list(&self.plane),
        }))
    }

    async fn get_deployment(&self, request: Request<GetDeploymentRequest>) -> Answer<Deployment> {
        let (_, request) = self.admit(request).await?;
        Ok(Response::new(deployments::get(&self.plane, &request.name)?))
    }

    async fn get_rollout(&self, request: Request<GetRolloutRequest>) -> Answer<RolloutStatus> {
        let (_, request) = self.admit(request).await?;
        let name = deployments::name("deployment", &request.deployment)?;
        Ok(Response::new(self.rollouts.status(name).await?))
    }

    async fn watch_rollout(&self, request: Request<GetRolloutRequest>) -> Answer<Self::WatchRolloutStream> {
        let (_, request) = self.admit(request).await?;
        let name = deployments::name("deployment", &request.deployment)?;
        // Asked before the stream begins, so that a wrong name is an error of the call.
        let changes = self.rollouts.follow(name).await?;
        Ok(Response::new(Box::pin(watches::rollout(
            Arc::clone(&self.plane),
            changes,
        ))))
    }

    async fn command_rollout(&self, request: Request<CommandRolloutRequest>) -> Answer<RolloutStatus> {
        let (by, request) = self.admit(request).await?;
        let name = deployments::name("deployment", &request.deployment)?;
        let command = request.command();
        tracing::info!(%by, deployment = %name, ?command, "rollout command");
        Ok(Response::new(
            self.rollouts.command(name, command, by.to_string()).await?,
        ))
    }

    async fn start_job(&self, request: Request<StartJobRequest>) -> Answer<Job> {
        let (_, request) = self.admit(request).await?;
        let spec = request.spec.ok_or_else(|| Refusal::invalid("spec", "is missing"))?;
        Ok(Response::new(jobs::start_federated(&self.plane, spec).await?))
    }

    async fn list_jobs(&self, request: Request<ListJobsRequest>) -> Answer<ListJobsResponse> {
        self.admit(request).await?;
        Ok(Response::new(ListJobsResponse {
            jobs: jobs::list(&self.plane),
        }))
    }

    async fn get_job(&self, request: Request<GetJobRequest>) -> Answer<Job> {
        let (_, request) = self.admit(request).await?;
        Ok(Response::new(jobs::get(
            &self.plane,
            &jobs::name("name", &request.name)?,
        )?))
    }

    async fn watch_job(&self, request: Request<GetJobRequest>) -> Answer<Self::WatchJobStream> {
        let (_, request) = self.admit(request).await?;
        let name = jobs::name("name", &request.name)?;
        jobs::get(&self.plane, &name)?;
        Ok(Response::new(Box::pin(watches::job(Arc::clone(&self.plane), name))))
    }

    async fn cancel_job(&self, request: Request<CancelJobRequest>) -> Answer<Job> {
        let (_, request) = self.admit(request).await?;
        Ok(Response::new(
            jobs::cancel(&self.plane, &jobs::name("name", &request.name)?).await?,
        ))
    }

    async fn list_trainers(&self, request: Request<ListTrainersRequest>) -> Answer<ListTrainersResponse> {
        self.admit(request).await?;
        Ok(Response::new(ListTrainersResponse {
            trainers: jobs::trainers(&self.plane),
        }))
    }

    async fn examine(&self, request: Request<ExamineRequest>) -> Answer<ExamineResponse> {
        self.admit(request).await?;
        Ok(Response::new(examine::examine(&self.plane).await?))
    }

    async fn export_records(&self, request: Request<ExportRecordsRequest>) -> Answer<ExportRecordsResponse> {
        let (_, request) = self.admit(request).await?;
        let store = self.plane.records.store();
        Ok(Response::new(
            backup::page(store, &self.plane.keys, &request.page_token).await?,
        ))
    }

    async fn collect_artifacts(&self, request: Request<CollectArtifactsRequest>) -> Answer<CollectArtifactsResponse> {
        let (_, request) = self.admit(request).await?;
        Ok(Response::new(garbage::collect(&self.plane, request.dry_run).await?))
    }
}
