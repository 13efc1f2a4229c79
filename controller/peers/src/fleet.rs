//! A running controller in a temporary folder, and how peers reach it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use fieldfare_controller::config::{Command, CommandLine};
use fieldfare_controller::folder::EndpointsFile;
use fieldfare_controller::init::{init, next_online_keys};
use fieldfare_controller::plane::ControlPlane;
use fieldfare_controller::server::Server;
use fieldfare_controller::{backup, clock};
use fieldfare_proto::v1::enrolment_client::EnrolmentClient;
use fieldfare_proto::v1::operator_client::OperatorClient;
use fieldfare_proto::v1::{
    CreateTokenRequest, EnrolRequest, EnrolStart, Evidence, NoEvidence, Token, TokenRole, enrol_request,
    enrol_response, evidence,
};
use fieldfare_store::Store;
use fieldfare_tls::{
    Endpoint, ExpectedServer, Identity, IdentityHandle, JoinSecret, PrivateKey, ServerTrust, TimeSource, TrustBundle,
};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::TestStore;

/// Longer than anything here takes; a test that waits for more has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A fleet whose controller serves in this process.
#[derive(Debug)]
pub struct Fleet {
    /// What the controller shares among its services.
    pub plane: Arc<ControlPlane>,
    /// Where it listens.
    pub endpoints: EndpointsFile,
    /// Its clock.
    pub time: TimeSource,
    /// The first operator's credential.
    pub operator: Identity,
    ahead_ms: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<anyhow::Result<()>>,
    folder: tempfile::TempDir,
    // After `served`, which uses it to its end.
    store: TestStore,
}

fn command(words: &[&str]) -> Command {
    CommandLine::try_parse_from(std::iter::once("fieldfare-controller").chain(words.iter().copied()))
        .unwrap()
        .command
}

async fn start(folder: &Path, store: &TestStore, time: &TimeSource) -> Server {
    let dir = folder.to_str().unwrap();
    let free = "127.0.0.1:0";
    let run = [
        "run",
        "--dir",
        dir,
        "--grpc-listen",
        free,
        "--artifact-listen",
        free,
        "--metrics-listen",
        free,
    ];
    let store = store.arguments();
    let run: Vec<&str> = run.into_iter().chain(store.iter().map(String::as_str)).collect();
    let Command::Run(options) = command(&run) else {
        unreachable!("the words say run")
    };
    Server::start(&options, time.clone()).await.unwrap()
}

/// Restores a backup, as `fieldfare-controller restore` does.
pub async fn restore(
    from: &Path,
    into: &Path,
    store: &TestStore,
    time: &TimeSource,
) -> anyhow::Result<backup::Restored> {
    let (from, into) = (from.to_str().unwrap(), into.to_str().unwrap());
    let store = store.arguments();
    let words = ["restore", "--from", from, "--into", into].into_iter();
    let words: Vec<&str> = words.chain(store.iter().map(String::as_str)).collect();
    let Command::Restore(options) = command(&words) else {
        unreachable!("the words say restore")
    };
    backup::restore(&options, time).await
}

impl Fleet {
    /// A new fleet whose controller serves. Its clock is the machine's, and can be put forward.
    pub async fn start() -> Self {
        Self::start_on(TestStore::start()).await
    }

    /// As [`Fleet::start`], on this store.
    pub async fn start_on(store: TestStore) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ahead_ms = Arc::new(AtomicU64::new(0));
        let (machine, ahead) = (clock::system(), Arc::clone(&ahead_ms));
        let time = TimeSource::new(move || {
            machine
                .now()
                .saturating_add(Duration::from_millis(ahead.load(Ordering::SeqCst)))
        });
        let words = store.arguments();
        let words = ["init", "--dir", folder.path().to_str().unwrap()]
            .into_iter()
            .chain(words.iter().map(String::as_str));
        let Command::Init(options) = command(&words.collect::<Vec<_>>()) else {
            unreachable!("the words say init")
        };
        init(&options, &time).await.unwrap();
        Self::serve(folder, store, time, ahead_ms).await
    }

    async fn serve(folder: tempfile::TempDir, store: TestStore, time: TimeSource, ahead_ms: Arc<AtomicU64>) -> Self {
        let operator = Identity::load(&folder.path().join("operator")).unwrap().unwrap();
        let server = start(folder.path(), &store, &time).await;
        let (plane, endpoints) = (Arc::clone(server.plane()), server.endpoints().clone());
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(server.run_until(async { drop(stopped.await) }));
        Self {
            plane,
            endpoints,
            time,
            operator,
            ahead_ms,
            stop: Some(stop),
            served,
            folder,
            store,
        }
    }

    /// The store, to look at.
    pub fn shared_store(&self) -> &TestStore {
        &self.store
    }

    /// Drains the controller; its folder and its store stay.
    pub async fn stand_still(&mut self) {
        self.drain().await;
    }

    /// The store, for tests that take it away.
    pub fn store(&mut self) -> &mut TestStore {
        &mut self.store
    }

    /// The folder of the fleet.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts the clock forward.
    pub fn pass(&self, time: Duration) {
        self.ahead_ms
            .fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Drains the controller, and waits for its end.
    pub async fn stop(mut self) {
        self.drain().await;
    }

    async fn drain(&mut self) {
        drop(self.stop.take());
        tokio::time::timeout(PATIENCE, &mut self.served)
            .await
            .expect("it ends in time")
            .unwrap()
            .unwrap();
    }

    /// Drains the controller, and starts another one on the same store. It listens elsewhere: everybody connects anew.
    pub async fn restart(self) -> Self {
        self.restart_after(async |_| {}).await
    }

    /// As [`Fleet::restart`], with something done to the store in between.
    pub async fn restart_after(mut self, change: impl AsyncFnOnce(&Store)) -> Self {
        self.drain().await;
        let store = Store::open(&self.store.location(self.folder())).await.unwrap();
        change(&store).await;
        store.close().await.unwrap();
        let Self {
            folder,
            store,
            time,
            ahead_ms,
            plane,
            ..
        } = self;
        // The store is closed with the last of it.
        drop(plane);
        Self::serve(folder, store, time, ahead_ms).await
    }

    /// Backs the fleet up while its controller runs, as `fieldfare-controller backup` does.
    pub async fn backup(&self, to: &Path) -> anyhow::Result<backup::Made> {
        self.backup_with(to, &[]).await
    }

    /// As [`Fleet::backup`], with more words on its command line.
    pub async fn backup_with(&self, to: &Path, more: &[&str]) -> anyhow::Result<backup::Made> {
        let (dir, to) = (self.folder().to_str().unwrap(), to.to_str().unwrap());
        let store = self.store.arguments();
        let words = ["backup", "--dir", dir, "--to", to].into_iter();
        let words = words
            .chain(store.iter().map(String::as_str))
            .chain(more.iter().copied());
        let Command::Backup(options) = command(&words.collect::<Vec<_>>()) else {
            unreachable!("the words say backup")
        };
        backup::backup(&options, &self.time).await
    }

    /// Makes the online keys that the next root may name.
    pub fn make_next_online_keys(&self) {
        let Command::NextOnlineKeys(options) = command(&["next-online-keys", "--dir", self.folder().to_str().unwrap()])
        else {
            unreachable!("the words say next-online-keys")
        };
        next_online_keys(&options, &self.time).unwrap();
    }

    /// Drains the controller, and has another one serve what a backup holds, in a new folder and on this store.
    pub async fn restored_on(mut self, from: &Path, store: TestStore) -> (Self, backup::Restored) {
        self.drain().await;
        let folder = tempfile::tempdir().unwrap();
        let restored = restore(from, folder.path(), &store, &self.time).await.unwrap();
        let (time, ahead_ms) = (self.time.clone(), Arc::clone(&self.ahead_ms));
        (Self::serve(folder, store, time, ahead_ms).await, restored)
    }

    /// A connection of somebody with this identity.
    pub async fn channel(&self, identity: &Identity) -> Channel {
        let trust = ServerTrust::by(identity, ExpectedServer::Controller);
        let handle = IdentityHandle::new(identity.clone());
        let endpoint: Endpoint = self.endpoints.grpc.parse().unwrap();
        fieldfare_tls::connect(&endpoint, Some(&handle), &trust, &self.time)
            .await
            .unwrap()
            .channel()
    }

    /// A connection of somebody with this identity, who answers pings and lets no byte of any answer come.
    pub async fn unread(&self, identity: &Identity) -> Channel {
        let trust = ServerTrust::by(identity, ExpectedServer::Controller);
        let handle = IdentityHandle::new(identity.clone());
        let mut tls = fieldfare_tls::https_config(Some(&handle), &trust, &self.time).unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let endpoint: Endpoint = self.endpoints.grpc.parse().unwrap();
        let stream = connect(&endpoint, tls).await;
        let mut only = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_: http::Uri| {
            let stream = only.take().ok_or_else(|| std::io::Error::other("it connects once"));
            std::future::ready(stream)
        });
        tonic::transport::Endpoint::from_shared(format!("http://{}", endpoint.authority()))
            .unwrap()
            .initial_stream_window_size(0)
            .connect_with_connector(connector)
            .await
            .unwrap()
    }

    /// The first operator, connected.
    pub async fn operator(&self) -> OperatorClient<Channel> {
        OperatorClient::new(self.channel(&self.operator).await)
    }

    /// A channel of somebody who knows the fleet's authority and nothing else.
    pub async fn stranger(&self) -> Channel {
        let pin = self.operator.bundle().authorities()[0].digest();
        let endpoint: Endpoint = self.endpoints.grpc.parse().unwrap();
        fieldfare_tls::connect(&endpoint, None, &ServerTrust::PinnedAuthority(pin), &self.time)
            .await
            .unwrap()
            .channel()
    }

    /// A join token, and its secret.
    pub async fn token(&self, request: CreateTokenRequest) -> (JoinSecret, Token) {
        let secret = JoinSecret::from_random(clock::random_bytes().unwrap());
        let secret_hash = secret.hash().as_bytes().to_vec();
        let request = CreateTokenRequest {
            secret_hash,
            name: "token".into(),
            ..request
        };
        let token = self
            .operator()
            .await
            .create_token(request)
            .await
            .unwrap()
            .into_inner()
            .token
            .unwrap();
        (secret, token)
    }

    /// Enrols a Raspberry Pi 5 of this name, at the site of the same name, with a key.
    pub async fn enrol(&self, secret: &JoinSecret, key: &PrivateKey, name: &str) -> Result<Enrolled, Status> {
        let start = EnrolStart {
            token_secret: secret.as_bytes().to_vec(),
            csr_der: key.certificate_request().unwrap(),
            display_name: name.into(),
            profile: Some(crate::device::profile("raspberry-pi-5", 8 << 30)),
            labels: [("site".to_owned(), name.to_owned())].into(),
        };
        enrol_with(self.stranger().await, start, key).await
    }

    /// A principal with a one-time token of its own.
    pub async fn join(&self, role: TokenRole, name: &str) -> Identity {
        let (secret, _) = self
            .token(CreateTokenRequest {
                role: role.into(),
                ..CreateTokenRequest::default()
            })
            .await;
        match self
            .enrol(&secret, &PrivateKey::generate().unwrap(), name)
            .await
            .unwrap()
        {
            Enrolled::Issued(identity) => *identity,
            Enrolled::Pending => panic!("{name} must wait for approval"),
        }
    }

    /// One HTTPS request to the artifact server.
    pub async fn http(&self, identity: &Identity, request: http::Request<Bytes>) -> http::Response<Bytes> {
        let trust = ServerTrust::by(identity, ExpectedServer::Controller);
        let handle = IdentityHandle::new(identity.clone());
        let tls = fieldfare_tls::https_config(Some(&handle), &trust, &self.time).unwrap();
        let endpoint: Endpoint = self.endpoints.artifacts.parse().unwrap();
        let stream = connect(&endpoint, tls).await;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let driver = tokio::spawn(connection);
        let (mut head, body) = request.into_parts();
        head.headers
            .insert(http::header::HOST, endpoint.authority().parse().unwrap());
        let response = sender
            .send_request(http::Request::from_parts(head, Full::new(body)))
            .await
            .unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        driver.abort();
        http::Response::from_parts(head, body)
    }
}

/// What an enrolment came to.
#[derive(Debug)]
pub enum Enrolled {
    /// A certificate.
    Issued(Box<Identity>),
    /// It waits for somebody's approval.
    Pending,
}

/// Walks the challenge stream as an honest newcomer does.
pub async fn enrol_with(channel: Channel, start: EnrolStart, key: &PrivateKey) -> Result<Enrolled, Status> {
    let (steps, stream) = mpsc::channel(2);
    let step = |step| EnrolRequest { step: Some(step) };
    steps.send(step(enrol_request::Step::Start(start))).await.unwrap();
    let mut answers = EnrolmentClient::new(channel)
        .enrol(ReceiverStream::new(stream))
        .await?
        .into_inner();
    let challenge = answers.message().await?.and_then(|answer| answer.step);
    assert!(matches!(challenge, Some(enrol_response::Step::Challenge(c)) if c.nonce.len() == 32));
    let none = Evidence {
        kind: Some(evidence::Kind::None(NoEvidence {})),
    };
    steps.send(step(enrol_request::Step::Evidence(none))).await.unwrap();
    match answers.message().await?.and_then(|answer| answer.step) {
        Some(enrol_response::Step::Issued(issued)) => {
            let chain = issued.chain_der.into_iter().map(Into::into).collect();
            let bundle = TrustBundle::from_der(issued.authorities_der).unwrap();
            let key = PrivateKey::from_pem(&key.to_pem()).unwrap();
            let identity = Identity::new(key, chain, bundle).unwrap();
            assert_eq!(identity.principal().to_string(), issued.spiffe_id);
            Ok(Enrolled::Issued(Box::new(identity)))
        }
        Some(enrol_response::Step::Pending(_)) => Ok(Enrolled::Pending),
        other => panic!("neither a certificate nor a delay: {other:?}"),
    }
}

/// The refusal's code and text, for assertions that show both when they fail.
pub fn refusal<T: std::fmt::Debug>(outcome: Result<T, Status>) -> (Code, String) {
    let status = outcome.expect_err("it is refused");
    (status.code(), status.message().to_owned())
}

/// One TLS connection to an endpoint.
async fn connect(
    endpoint: &Endpoint,
    tls: rustls::ClientConfig,
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let stream = tokio::net::TcpStream::connect((endpoint.host(), endpoint.port()))
        .await
        .unwrap();
    let name = rustls::pki_types::ServerName::try_from(endpoint.host().to_owned()).unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    connector.connect(name, stream).await.unwrap()
}
