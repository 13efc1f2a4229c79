//! A real controller in a runtime of its own, so that it can die at once and come back, with an operator.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use fieldfare_agent::args::{Answer, Enrol};
use fieldfare_agent::clock;
use fieldfare_agent::enrolment::enrol;
use fieldfare_agent::folder::Folder;
use fieldfare_controller::backup::{backup, restore};
use fieldfare_controller::config::{Command, CommandLine, Run};
use fieldfare_controller::folder::EndpointsFile;
use fieldfare_controller::init::init;
use fieldfare_controller::mirror::Topic;
use fieldfare_controller::server::Server;
use fieldfare_proto::v1::operator_client::OperatorClient;
use fieldfare_proto::v1::{CreateTokenRequest, GetFleetRequest, InstallRootRequest, PublishTargetsRequest, TokenRole};
use fieldfare_release::Sha256Digest;
use fieldfare_release::tuf::PublicKey;
use fieldfare_tls::{
    Endpoint, ExpectedServer, Identity, IdentityHandle, JoinRole, JoinSecret, JoinToken, RootPin, ServerTrust,
    TimeSource, connect, https_config,
};
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tonic::transport::Channel;

use crate::device::PATIENCE;
use crate::releases::{Release, Signer};

pub(crate) struct Controller {
    runtime: Option<Runtime>,
    drain: Option<oneshot::Sender<()>>,
    pub(crate) endpoints: EndpointsFile,
    news: News,
    /// The clock of this fleet: the machine's, or ahead of it.
    pub(crate) time: TimeSource,
    ahead_ms: Arc<AtomicU64>,
    operator: Identity,
    signer: Signer,
    root: RootPin,
    folder: tempfile::TempDir,
}

/// A free port.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn address(endpoint: &str) -> SocketAddr {
    let endpoint: Endpoint = endpoint.parse().unwrap();
    SocketAddr::from(([127, 0, 0, 1], endpoint.port()))
}

fn command(words: &[&str]) -> Command {
    CommandLine::try_parse_from(std::iter::once("fieldfare-controller").chain(words.iter().copied()))
        .unwrap()
        .command
}

/// What tells that devices said something new, and that one came or went.
type News = [watch::Receiver<u64>; 2];

/// Has a controller serve in a new runtime.
async fn run(
    dir: &Path,
    [grpc, artifacts]: [SocketAddr; 2],
    time: &TimeSource,
) -> (Runtime, oneshot::Sender<()>, EndpointsFile, News) {
    let (dir, grpc, artifacts) = (dir.to_str().unwrap(), grpc.to_string(), artifacts.to_string());
    let mut words = vec!["run", "--dir", dir, "--grpc-listen", &grpc];
    words.extend(["--artifact-listen", &artifacts, "--metrics-listen", "127.0.0.1:0"]);
    let Command::Run(options) = command(&words) else {
        unreachable!("the words say run")
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (drain, drained) = oneshot::channel::<()>();
    let (ready, is_ready) = oneshot::channel();
    let (options, time): (Run, _) = (options, time.clone());
    runtime.spawn(async move {
        let server = Server::start(&options, time).await.unwrap();
        let news = [
            server.plane().mirror.subscribe(Topic::Devices),
            server.plane().presence.subscribe(),
        ];
        ready.send((server.endpoints().clone(), news)).unwrap();
        server.run_until(async { drop(drained.await) }).await.unwrap();
    });
    let (endpoints, news) = tokio::time::timeout(PATIENCE, is_ready).await.unwrap().unwrap();
    (runtime, drain, endpoints, news)
}

impl Controller {
    /// A new fleet with a release repository that lists nothing yet.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ahead_ms = Arc::new(AtomicU64::new(0));
        let ahead = Arc::clone(&ahead_ms);
        let time =
            TimeSource::new(move || clock::now().saturating_add(Duration::from_millis(ahead.load(Ordering::SeqCst))));
        let Command::Init(options) = command(&["init", "--dir", folder.path().to_str().unwrap()]) else {
            unreachable!("the words say init")
        };
        init(&options, &time).await.unwrap();
        let operator = Identity::load(&folder.path().join("operator")).unwrap().unwrap();
        let (runtime, drain, endpoints, news) = run(folder.path(), [ANYWHERE; 2], &time).await;
        let mut controller = Self {
            runtime: Some(runtime),
            drain: Some(drain),
            endpoints,
            news,
            time,
            ahead_ms,
            operator,
            signer: Signer::new(),
            root: RootPin {
                version: 1,
                sha256: fieldfare_fleet::Digest::from_bytes([0; 32]),
            },
            folder,
        };
        controller.install_root().await;
        controller
    }

    async fn install_root(&mut self) {
        let mut operator = self.operator().await;
        let online = operator.get_fleet(GetFleetRequest {}).await.unwrap().into_inner();
        let key = |pem: &str| PublicKey::from_pem(pem).unwrap();
        let (snapshot, timestamp) = (
            key(&online.snapshot_public_key_pem),
            key(&online.timestamp_public_key_pem),
        );
        let root = self.signer.root(&snapshot, &timestamp);
        self.root.sha256 = fieldfare_fleet::Digest::from_bytes(*Sha256Digest::of(&root).as_bytes());
        operator.install_root(InstallRootRequest { root }).await.unwrap();
    }

    /// Where its gateway listens, before and after it died.
    pub(crate) fn address(&self) -> SocketAddr {
        address(&self.endpoints.grpc)
    }

    /// Puts the clock of the fleet forward.
    pub(crate) fn pass(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.ahead_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Dies at once: connections break, and nobody is told.
    pub(crate) async fn die(&mut self) {
        let runtime = self.runtime.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE))
            .await
            .unwrap();
    }

    /// Serves again at the same addresses.
    pub(crate) async fn come_back(&mut self) {
        let addresses = [self.address(), address(&self.endpoints.artifacts)];
        let (runtime, drain, endpoints, news) = run(self.folder.path(), addresses, &self.time).await;
        (self.runtime, self.drain) = (Some(runtime), Some(drain));
        (self.endpoints, self.news) = (endpoints, news);
    }

    /// Serves artifacts again where it did, and lets no device open a session.
    pub(crate) async fn come_back_without_its_gateway(&mut self) {
        let addresses = [ANYWHERE, address(&self.endpoints.artifacts)];
        let (runtime, drain, _, news) = run(self.folder.path(), addresses, &self.time).await;
        (self.runtime, self.drain, self.news) = (Some(runtime), Some(drain), news);
    }

    /// Backs the fleet up while its controller serves.
    pub(crate) async fn backup(&self, to: &Path) {
        let (dir, to) = (self.folder.path().to_str().unwrap(), to.to_str().unwrap());
        let Command::Backup(options) = command(&["backup", "--dir", dir, "--to", to]) else {
            unreachable!("the words say backup")
        };
        backup(&options, &self.time).await.unwrap();
    }

    /// Loses the whole fleet, and has what a backup holds serve at the same address. Gives the epoch.
    pub(crate) async fn is_lost_and_restored(&mut self, from: &Path) -> u32 {
        self.die().await;
        let folder = tempfile::tempdir().unwrap();
        let (from, into) = (from.to_str().unwrap(), folder.path().to_str().unwrap());
        let Command::Restore(options) = command(&["restore", "--from", from, "--into", into]) else {
            unreachable!("the words say restore")
        };
        let restored = restore(&options, &self.time).await.unwrap();
        self.folder = folder;
        self.come_back().await;
        restored.epoch
    }

    /// Asks again and again, each time that a device has said something new, until something holds.
    pub(crate) async fn until_devices<F: Future<Output = bool>>(&self, mut holds: impl FnMut() -> F) {
        let [mut said, mut came] = self.news.clone();
        while !holds().await {
            tokio::select! {
                told = said.changed() => told.unwrap(),
                told = came.changed() => told.unwrap(),
            }
        }
    }

    /// Tells its sessions to come back later, and ends.
    pub(crate) fn drain(&mut self) {
        drop(self.drain.take());
    }

    pub(crate) async fn operator(&self) -> OperatorClient<Channel> {
        let trust = ServerTrust::by(&self.operator, ExpectedServer::Controller);
        let handle = IdentityHandle::new(self.operator.clone());
        let endpoint: Endpoint = self.endpoints.grpc.parse().unwrap();
        let link = connect(&endpoint, Some(&handle), &trust, &self.time).await.unwrap();
        OperatorClient::new(link.channel())
    }

    /// Enrols a device as `fieldfare-agent enrol` does, with a token of its own.
    pub(crate) async fn enrol(&self, name: &str, dir: &Path) -> Folder {
        let secret = JoinSecret::from_random(clock::random_bytes().unwrap());
        let request = CreateTokenRequest {
            role: TokenRole::Device.into(),
            name: name.to_owned(),
            secret_hash: secret.hash().as_bytes().to_vec(),
            ..CreateTokenRequest::default()
        };
        self.operator().await.create_token(request).await.unwrap();
        let token = JoinToken {
            endpoints: vec![self.endpoints.grpc.parse().unwrap()],
            authority: self.operator.bundle().authorities()[0].digest(),
            root: self.root,
            secret,
            role: JoinRole::Device,
        };
        let arguments = Enrol {
            dir: dir.to_owned(),
            token: token.to_text().unwrap(),
            name: Some(name.to_owned()),
            labels: format!("site={name}"),
            profile: "raspberry-pi-5".into(),
            model_memory: None,
            consent: Answer::Yes,
        };
        enrol(&arguments, &self.time).await.unwrap();
        Folder::new(dir)
    }

    /// Uploads, signs and publishes a release, as `fieldfare release publish` does.
    pub(crate) async fn publish(&mut self, release: &Release) {
        let trust = ServerTrust::by(&self.operator, ExpectedServer::Controller);
        let handle = IdentityHandle::new(self.operator.clone());
        let tls = https_config(Some(&handle), &trust, &self.time).unwrap();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .build()
            .unwrap();
        let url = format!("{}/blobs/sha256/{}", self.endpoints.artifacts, release.artifact.sha256);
        let uploaded = client.put(url).body(release.weights.clone()).send().await.unwrap();
        assert!(uploaded.status().is_success(), "{}", uploaded.status());
        let request = PublishTargetsRequest {
            targets: self.signer.list(release),
            manifests: BTreeMap::from([(release.name.to_string(), release.manifest.clone())]),
        };
        self.operator().await.publish_targets(request).await.unwrap();
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // A runtime may not be dropped, which waits, within another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
