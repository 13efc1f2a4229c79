//! `run`: builds the parts, serves, and drains.

mod background;
mod health;
mod plain;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use fieldfare_audit::writer::Writer;
use fieldfare_files::Secrecy;
use fieldfare_fleet::TenantName;
use fieldfare_proto::v1::FleetRecord;
use fieldfare_proto::v1::device_gateway_server::DeviceGatewayServer;
use fieldfare_proto::v1::enrolment_server::EnrolmentServer;
use fieldfare_proto::v1::operator_server::OperatorServer;
use fieldfare_proto::v1::trainer_gateway_server::TrainerGatewayServer;
use fieldfare_service::limits::DRAIN_TIMEOUT;
use fieldfare_store::{Location, Store};
use fieldfare_tls::limits::{
    HTTP2_WINDOW, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, REQUEST_DRAIN_TIMEOUT, REQUEST_HEAD_TIMEOUT,
};
use fieldfare_tls::{
    Acceptor, AcceptorSettings, DenyList, Endpoint, IdentityHandle, PlainSettings, TimeSource, TrustDomain,
};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::Router;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::access::Access;
use crate::audit::{Audit, Audited};
use crate::authority::Authorities;
use crate::blobs::Blobs;
use crate::clock::random_bytes;
use crate::config::Run;
use crate::enrolment::EnrolmentService;
use crate::folder::{EndpointsFile, Folder, write};
use crate::gateway::DeviceGatewayService;
use crate::init::{load_fleet, own_identity};
use crate::jobs::TrainerGatewayService;
use crate::keys::Keys;
use crate::limits::{
    CALL_TIMEOUT, CONCURRENCY_PER_CONNECTION, DEVICE_MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX, PLAIN_CONNECTIONS_MAX,
};
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::operator::OperatorService;
use crate::plane::ControlPlane;
use crate::presence::Presence;
use crate::records::{Record, Records};
use crate::repository::ReleaseRepository;
use crate::repository::manifests::Manifests;
use crate::repository::online::OnlineKeys;
use crate::rollout::Rollouts;

/// A controller that serves.
#[derive(Debug)]
pub struct Server {
    plane: Arc<ControlPlane>,
    endpoints: EndpointsFile,
    store: Store,
    audit: Writer,
    tasks: JoinSet<()>,
}

struct Listeners {
    grpc: TcpListener,
    artifacts: TcpListener,
    metrics: TcpListener,
}

async fn listen(option: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{option} {address}"))
}

impl Server {
    /// Opens the store, starts every part and listens. The clock is that of the process, or a test's.
    pub async fn start(options: &Run, clock: TimeSource) -> Result<Self> {
        let folder = Folder::at(&options.dir);
        let fleet = load_fleet(&folder)?;
        let listeners = Listeners {
            grpc: listen("--grpc-listen", options.grpc_listen).await?,
            artifacts: listen("--artifact-listen", options.artifact_listen).await?,
            metrics: listen("--metrics-listen", options.metrics_listen).await?,
        };
        let location = folder.store(options.store.as_ref());
        let store = Store::open(&location).await.context("--store")?;
        let shutdown = CancellationToken::new();
        let ports = (
            listeners.grpc.local_addr()?.port(),
            listeners.artifacts.local_addr()?.port(),
        );
        let hosts: Vec<&str> = fleet.advertise.iter().map(String::as_str).collect();
        let endpoint = |host: &&str, port| Endpoint::new(host, port).with_context(|| format!("`advertise` {host:?}"));
        let keys = Keys::of(&TenantName::new(fleet.tenant.as_str())?);
        let domain = TrustDomain::new(fleet.domain.as_str())?;
        let record = fleet_record(&store, &location, &keys, &domain).await?;
        if let Err(error) = crate::schema::bring_up(&store, &keys, &record).await {
            store.close().await.context("closing the store")?;
            return Err(error.context("--store"));
        }
        let mut tasks = JoinSet::new();
        let (mirror, follower) = Mirror::start(store.clone(), keys.clone(), shutdown.clone()).await?;
        tasks.spawn(async { drop(follower.await) });
        let authority = Authorities::load(&folder)?;
        let identity = own_identity(&folder, &authority, &clock)?;
        let (audit, log) = Audit::start(&folder, identity.principal(), &clock).await?;
        let identity = IdentityHandle::new(identity);
        let records = Records::new(store.clone(), record.generation().epoch);
        let blobs = Blobs::local(&folder.blobs(), clock.clone())?;
        let online = Arc::new(OnlineKeys::of(&folder)?);
        let plane = Arc::new(ControlPlane {
            access: Access::new(domain, TenantName::new(fleet.tenant.as_str())?),
            releases: ReleaseRepository::new(records.clone(), keys.clone(), blobs.clone(), online, clock.clone()),
            manifests: Manifests::new(blobs),
            keys,
            records,
            mirror,
            clock,
            authority,
            identity,
            deny: DenyList::default(),
            presence: Presence::default(),
            metrics: Metrics::default(),
            audit,
            calls: TaskTracker::new(),
            incarnation: hex::encode(random_bytes::<8>()?),
            grpc_endpoints: hosts
                .iter()
                .map(|host| endpoint(host, ports.0))
                .collect::<Result<_>>()?,
            artifact_endpoint: endpoint(&hosts[0], ports.1)?,
            folder: folder.clone(),
            location,
            shutdown,
        });
        let endpoints = EndpointsFile {
            grpc: plane.grpc_endpoints[0].to_string(),
            artifacts: plane.artifact_endpoint.to_string(),
            metrics: format!("http://{}", listeners.metrics.local_addr()?),
        };
        // After a restore, before a device sees what it must take for a rollback. Where it fails, it is tried again soon.
        if let Err(error) = plane.releases.refresh().await {
            tracing::error!(
                error = crate::refusal::chain(&error),
                "the release metadata is not signed again"
            );
        }
        let mut server = Self {
            plane,
            endpoints,
            store,
            audit: log,
            tasks,
        };
        server.spawn(&folder, listeners).await?;
        server.tell(&folder)?;
        Ok(server)
    }

    async fn spawn(&mut self, folder: &Folder, listeners: Listeners) -> Result<()> {
        let plane = &self.plane;
        background::hold_replica(plane, &mut self.tasks).await?;
        background::spawn(plane, folder.clone(), &mut self.tasks);
        let settings = || AcceptorSettings::new(plane.identity.clone(), plane.deny.clone(), plane.clock.clone());
        let rollouts = Rollouts::start(Arc::clone(plane), &mut self.tasks);

        let acceptor = Acceptor::new(listeners.grpc, settings())?;
        let health = health::service(plane.shutdown.clone(), &mut self.tasks).await;
        let router = services(plane, rollouts, health)?;
        let stop = plane.shutdown.clone();
        self.tasks.spawn(async move {
            if let Err(error) = router
                .serve_with_incoming_shutdown(acceptor, stop.cancelled_owned())
                .await
            {
                tracing::error!(error = crate::refusal::chain(&error), "the gRPC server ended");
            }
        });

        let acceptor = Acceptor::new(listeners.artifacts, settings())?;
        let router = crate::artifacts::router(Arc::clone(plane));
        let stop = plane.shutdown.clone();
        self.tasks
            .spawn(fieldfare_tls::serve_http(acceptor, router, stop.cancelled_owned()));

        let settings = PlainSettings {
            connections_max: PLAIN_CONNECTIONS_MAX,
            head_timeout: REQUEST_HEAD_TIMEOUT,
            drain_timeout: REQUEST_DRAIN_TIMEOUT,
        };
        let router = plain::router(Arc::clone(plane));
        let stop = plane.shutdown.clone().cancelled_owned();
        self.tasks
            .spawn(fieldfare_tls::serve_plain(listeners.metrics, settings, router, stop));
        Ok(())
    }

    /// Writes where this process listens, for others on the machine.
    fn tell(&self, folder: &Folder) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.endpoints)? + "\n";
        write(&folder.operator().join("endpoints.json"), &text, Secrecy::Public)?;
        Ok(write(&folder.endpoints(), &text, Secrecy::Public)?)
    }

    /// Where it listens.
    pub fn endpoints(&self) -> &EndpointsFile {
        &self.endpoints
    }

    /// The shared state, for whoever embeds the server.
    pub fn plane(&self) -> &Arc<ControlPlane> {
        &self.plane
    }

    /// Serves until `signal`, then drains: sessions are told when to come back, streams end, tasks are joined.
    pub async fn run_until(mut self, signal: impl Future<Output = ()>) -> Result<()> {
        signal.await;
        tracing::info!("draining");
        self.plane.shutdown.cancel();
        let calls = &self.plane.calls;
        calls.close();
        let ended = async {
            while self.tasks.join_next().await.is_some() {}
            calls.wait().await;
        };
        if tokio::time::timeout(DRAIN_TIMEOUT, ended).await.is_err() {
            tracing::warn!(timeout = ?DRAIN_TIMEOUT, "cutting off what did not end in time");
            self.tasks.shutdown().await;
        }
        let log = self.audit;
        tokio::task::spawn_blocking(move || log.close())
            .await
            .context("closing the audit log")?;
        self.store.close().await.context("closing the store")
    }
}

/// The fleet's own record, of which all others have the epoch and the schema.
async fn fleet_record(store: &Store, location: &Location, keys: &Keys, domain: &TrustDomain) -> Result<FleetRecord> {
    let fleet: Option<FleetRecord> = Records::new(store.clone(), 0).get(&keys.fleet()).await?;
    let fleet = fleet.filter(|fleet| fleet.trust_domain == domain.to_string());
    fleet.with_context(|| format!("--store: {location} holds another fleet, or none: name the one that `init` made"))
}

/// Every service with its limits.
fn services(plane: &Arc<ControlPlane>, rollouts: Rollouts, health: HealthServer<impl Health>) -> Result<Router> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(fieldfare_proto::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let enrolment = EnrolmentServer::new(EnrolmentService::new(Arc::clone(plane)));
    let devices = DeviceGatewayServer::new(DeviceGatewayService::new(Arc::clone(plane)));
    let operators = OperatorServer::new(OperatorService::new(Arc::clone(plane), rollouts));
    let trainers = TrainerGatewayServer::new(TrainerGatewayService::new(Arc::clone(plane)));
    Ok(tonic::transport::Server::builder()
        .trace_fn(|request| tracing::info_span!("call", otel.name = request.uri().path(), otel.kind = "server"))
        .timeout(CALL_TIMEOUT)
        .concurrency_limit_per_connection(CONCURRENCY_PER_CONNECTION)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .initial_stream_window_size(HTTP2_WINDOW)
        .initial_connection_window_size(HTTP2_WINDOW)
        .add_service(health)
        .add_service(reflection)
        .add_service(enrolment.max_decoding_message_size(DEVICE_MESSAGE_BYTES_MAX))
        .add_service(devices.max_decoding_message_size(DEVICE_MESSAGE_BYTES_MAX))
        .add_service(Audited::new(
            operators
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            Arc::clone(plane),
        ))
        .add_service(Audited::new(
            trainers
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            Arc::clone(plane),
        )))
}
