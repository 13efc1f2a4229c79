//! Releases of the shipped model, an operator who signs them, and an artifact server that serves them or lies.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use fieldfare_agent::clock;
use fieldfare_fleet::Digest;
use fieldfare_lm::engine::Mapping;
use fieldfare_lm::quantize::{Precision, quantize};
use fieldfare_release::manifest::{
    Architecture, Artifact, ArtifactRole, Figures, Probe, Provenance, Requirements, Runtime, SCHEMA_VERSION, Variant,
};
use fieldfare_release::tuf::{
    Extra, OnlineRoles, PublicKey, PublishedFile, Repository, RoleHolders, Roles, Root, Signed, SigningKey, Target,
    Targets,
};
use fieldfare_release::{ReleaseManifest, ReleaseNumber, Sha256Digest, TargetKind, TargetName, UnixSeconds};
use fieldfare_tls::{Acceptor, AcceptorSettings, DenyList, Endpoint, IdentityHandle, PeerIdentity, Role, serve_http};
use futures_util::{StreamExt, stream};
use ring::rand::SystemRandom;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use crate::fleet::Fleet;

pub(crate) const MODEL: &str = "farm-alert";
/// What the shipped model is asked, and what it answers, from `models/farm-alert/README.md`.
pub(crate) const PROMPT: &str = "At mill-lane the soil moisture of the maize in zone 3 is too low, 12 %, severe.\n";
pub(crate) const ANSWER: &str = "Moisture low in Zone 3, consider irrigation for the maize now.";

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// The shipped model in one of its precisions.
pub(crate) fn weights(precision: Precision) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/farm-alert/farm-alert-f16.gguf");
    if precision == Precision::F16 {
        return std::fs::read(path).unwrap();
    }
    let mapping = Arc::new(Mapping::open(&path).unwrap());
    let mut bytes = Vec::new();
    quantize(&mapping, precision, &mut bytes).unwrap();
    bytes
}

/// A release with one variant.
pub(crate) struct Release {
    pub(crate) name: TargetName,
    pub(crate) manifest: Vec<u8>,
    pub(crate) artifact: Artifact,
    pub(crate) weights: Vec<u8>,
}

pub(crate) const VARIANT: &str = "main";

/// A release that tells the truth about its weights.
pub(crate) fn release(number: u32, weights: Vec<u8>) -> Release {
    release_with(number, weights, |_| {})
}

/// A release whose manifest is changed before it is signed.
pub(crate) fn release_with(number: u32, weights: Vec<u8>, change: impl FnOnce(&mut Variant)) -> Release {
    let number = ReleaseNumber::new(number).unwrap();
    let variant: fieldfare_release::VariantName = VARIANT.parse().unwrap();
    let artifact = Artifact {
        target: TargetName::new(MODEL.parse().unwrap(), number, TargetKind::Weights(variant.clone())),
        sha256: Sha256Digest::of(&weights),
        length: weights.len() as u64,
    };
    let mut variant = Variant {
        name: variant,
        runtime: Runtime::CandleGguf,
        artifacts: BTreeMap::from([(ArtifactRole::Weights, artifact)]),
        requirements: Requirements { memory_bytes: 64 << 20 },
        figures: Figures {
            weight_bytes: weights.len() as u64,
            parameters: 541_536,
            flops_per_token: 2 * 541_536,
            kv_bytes_per_token: 3072,
            context_tokens: 256,
            held_out_loss: 0.0003,
        },
    };
    change(&mut variant);
    let artifact = variant.weights().unwrap().clone();
    let manifest = ReleaseManifest {
        schema: SCHEMA_VERSION,
        model: MODEL.parse().unwrap(),
        release: number,
        title: "Farm alerts".into(),
        created: UnixSeconds::new(1_800_000_000),
        base: None,
        architecture: Architecture {
            family: "llama".into(),
            parameters: 541_536,
            context_tokens: 256,
            vocabulary: 1024,
            layers: 4,
            hidden: 96,
        },
        variants: vec![variant],
        probes: vec![Probe {
            prompt: PROMPT.into(),
            expected: ANSWER.into(),
            max_tokens: 32,
        }],
        chat_template: None,
        provenance: Provenance::Import {
            source: "farm-alert-f16.gguf".into(),
            sha256: Sha256Digest::of(&weights),
        },
    };
    Release {
        name: manifest.target_name(),
        manifest: manifest.encode().unwrap(),
        artifact,
        weights,
    }
}

impl Release {
    /// MODEL.rNUMBER.
    pub(crate) fn text(&self) -> String {
        format!("{MODEL}.{}", self.name.release())
    }

    /// Where the artifact server has the weights.
    pub(crate) fn path(&self) -> String {
        format!("targets/{}", self.artifact.target.stored_as(&self.artifact.sha256))
    }
}

fn key() -> SigningKey {
    SigningKey::generate(&SystemRandom::new()).unwrap()
}

/// Holds the keys of root and targets, as an operator does.
pub(crate) struct Signer {
    root: SigningKey,
    targets: SigningKey,
    listed: Option<Targets>,
}

impl Signer {
    pub(crate) fn new() -> Self {
        Self {
            root: key(),
            targets: key(),
            listed: None,
        }
    }

    /// The first root of a repository with these online keys.
    pub(crate) fn root(&self, snapshot: &PublicKey, timestamp: &PublicKey) -> Vec<u8> {
        let holders = Roles {
            root: RoleHolders::one(self.root.public()),
            targets: RoleHolders::one(self.targets.public()),
            snapshot: RoleHolders::one(snapshot),
            timestamp: RoleHolders::one(timestamp),
            extra: Extra::new(),
        };
        let now = clock::now_seconds();
        let root = Root::first(holders, now, now.plus(365 * DAY));
        let signed = Signed::sign(root, &[&self.root], &SystemRandom::new()).unwrap();
        signed.bytes().to_vec()
    }

    /// The next version of the targets, which lists one release more.
    pub(crate) fn list(&mut self, release: &Release) -> Vec<u8> {
        let expires = clock::now_seconds().plus(365 * DAY);
        let mut next = match &self.listed {
            Some(before) => before.next(expires),
            None => Targets::first(expires),
        };
        let manifest = Target::new(release.manifest.len() as u64, Sha256Digest::of(&release.manifest));
        next.list(&release.name, manifest);
        let Artifact { target, sha256, length } = &release.artifact;
        next.list(target, Target::new(*length, *sha256));
        self.listed = Some(next.clone());
        let signed = Signed::sign(next, &[&self.targets], &SystemRandom::new()).unwrap();
        signed.bytes().to_vec()
    }
}

/// One request to the artifact server: the path, and the first byte where it asked for a part.
pub(crate) type Asked = (String, Option<usize>);

/// What becomes of one answer.
enum Fault {
    /// It stops after so many bytes, until the connection is dropped.
    Hold(usize),
    /// It ends after so many bytes, as if they were all.
    End(usize),
}

#[derive(Default)]
struct Shop {
    files: BTreeMap<String, Vec<u8>>,
    asked: Vec<Asked>,
    /// Answers that go wrong, once each.
    faults: BTreeMap<String, Fault>,
    /// Files behind whose bytes zeroes come for ever, each time.
    endless: BTreeSet<String>,
}

#[derive(Clone, Default)]
struct Server {
    shop: Arc<Mutex<Shop>>,
    break_off: Arc<Notify>,
    /// What is asked for and not answered.
    silent: watch::Sender<BTreeSet<String>>,
}

/// A release repository behind an artifact server, over mutual TLS as a controller has it.
pub(crate) struct Releases {
    signer: Signer,
    snapshot: SigningKey,
    timestamp: SigningKey,
    repository: Repository,
    server: Server,
    serving: tokio::task::JoinHandle<()>,
    pub(crate) endpoint: Endpoint,
    /// Version and digest of the first root, as a join token promises them.
    pub(crate) root: (u64, Digest),
}

impl Releases {
    pub(crate) async fn start(fleet: &Fleet) -> Self {
        let (signer, snapshot, timestamp) = (Signer::new(), key(), key());
        let root = signer.root(snapshot.public(), timestamp.public());
        let server = Server::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::new("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
        let identity = IdentityHandle::new(fleet.controller());
        let settings = AcceptorSettings::new(identity, DenyList::default(), clock::time_source());
        let acceptor = Acceptor::new(listener, settings).unwrap();
        let router = Router::new()
            .route("/{kind}/{name}", get(answer))
            .with_state(server.clone());
        let serving = tokio::spawn(serve_http(acceptor, router, std::future::pending()));
        Self {
            signer,
            snapshot,
            timestamp,
            repository: Repository::new(&root).unwrap(),
            server,
            serving,
            endpoint,
            root: (1, Digest::from_bytes(*Sha256Digest::of(&root).as_bytes())),
        }
    }

    fn shop(&self) -> MutexGuard<'_, Shop> {
        self.server.shop.lock().unwrap()
    }

    fn online(&self, timestamp_seconds: u64) -> OnlineRoles<'_> {
        OnlineRoles {
            snapshot_key: &self.snapshot,
            snapshot_seconds: 7 * DAY,
            timestamp_key: &self.timestamp,
            timestamp_seconds,
            least_version: fieldfare_release::tuf::Version::FIRST,
        }
    }

    fn put(&self, files: Vec<PublishedFile>) {
        let files = files.into_iter();
        let named = files.map(|file| (format!("metadata/{}", file.name), file.bytes));
        self.shop().files.extend(named);
    }

    /// Lists a release and serves its bytes.
    pub(crate) fn publish(&mut self, release: &Release) {
        let targets = self.signer.list(release);
        self.repository.accept_targets(&targets).unwrap();
        let mut repository = self.repository.clone();
        let files = repository.publish(clock::now_seconds(), self.online(DAY), &SystemRandom::new());
        self.repository = repository;
        self.put(files.unwrap());
        let manifest = release.name.stored_as(&Sha256Digest::of(&release.manifest));
        let mut shop = self.shop();
        shop.files
            .insert(format!("targets/{manifest}"), release.manifest.clone());
        shop.files.insert(release.path(), release.weights.clone());
    }

    fn refresh(&mut self, now: UnixSeconds) {
        let mut repository = self.repository.clone();
        let files = repository.refresh(now, self.online(HOUR), &SystemRandom::new());
        self.repository = repository;
        self.put(files.unwrap());
    }

    /// The timestamp's key has not signed for two hours, and its metadata are good for one.
    pub(crate) fn expire(&mut self) {
        self.refresh(UnixSeconds::new(clock::now_seconds().get() - 2 * HOUR));
    }

    /// The timestamp's key signs again.
    pub(crate) fn renew(&mut self) {
        self.refresh(clock::now_seconds());
    }

    /// Everything that the server has.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.shop().files.clone()
    }

    /// Serves this and nothing else from now on.
    pub(crate) fn serve_instead(&self, files: BTreeMap<String, Vec<u8>>) {
        self.shop().files = files;
    }

    /// Changes one byte of a file.
    pub(crate) fn tamper(&self, path: &str) {
        let mut shop = self.shop();
        let bytes = shop.files.get_mut(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }

    /// Sends so many bytes of a file when it is asked for next, and then no more until [`Self::break_off`].
    pub(crate) fn hold_after(&self, path: &str, bytes: usize) {
        self.shop().faults.insert(path.to_owned(), Fault::Hold(bytes));
    }

    /// Sends so many bytes of a file when it is asked for next, and says that these are all.
    pub(crate) fn end_after(&self, path: &str, bytes: usize) {
        self.shop().faults.insert(path.to_owned(), Fault::End(bytes));
    }

    /// Sends zeroes behind the bytes of a file from now on, without an end.
    pub(crate) fn never_end(&self, path: &str) {
        self.shop().endless.insert(path.to_owned());
    }

    /// Answers no question for a file, as long as [`Self::speak`] is not called.
    pub(crate) fn keep_silent(&self, path: &str) {
        self.server.silent.send_modify(|silent| {
            silent.insert(path.to_owned());
        });
    }

    /// Answers every question again, also those that wait.
    pub(crate) fn speak(&self) {
        self.server.silent.send_modify(BTreeSet::clear);
    }

    /// Drops the connection of the answer that is held.
    pub(crate) fn break_off(&self) {
        self.server.break_off.notify_one();
    }

    /// The first bytes that were asked for of a file, request by request.
    pub(crate) fn asked(&self, path: &str) -> Vec<Option<usize>> {
        let shop = self.shop();
        let of_path = shop.asked.iter().filter(|(asked, _)| asked == path);
        of_path.map(|(_, from)| *from).collect()
    }

    /// The server is gone: nobody answers any more.
    pub(crate) async fn stop(self) {
        self.serving.abort();
        assert!(self.serving.await.unwrap_err().is_cancelled());
    }
}

async fn answer(
    State(server): State<Server>,
    Extension(peer): Extension<PeerIdentity>,
    UrlPath((kind, name)): UrlPath<(String, String)>,
    headers: HeaderMap,
) -> Response {
    if !peer
        .principal()
        .is_ok_and(|principal| matches!(principal.role, Role::Device(..)))
    {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let path = format!("{kind}/{name}");
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let from = range.and_then(|text| text.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let (bytes, fault, endless) = {
        let mut shop = server.shop.lock().unwrap();
        shop.asked.push((path.clone(), from));
        let endless = shop.endless.contains(&path);
        (shop.files.get(&path).cloned(), shop.faults.remove(&path), endless)
    };
    let mut silent = server.silent.subscribe();
    let _ = silent.wait_for(|silent| !silent.contains(&path)).await;
    let Some(bytes) = bytes else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if endless {
        let more = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(&[0; 4096])));
        return Body::from_stream(stream::iter([Ok(Bytes::from(bytes))]).chain(more)).into_response();
    }
    let length = bytes.len();
    let first = from.unwrap_or(0);
    let part = Bytes::from(bytes).slice(first..);
    let (promised, body) = match fault {
        None => (part.len(), Body::from(part)),
        Some(Fault::Hold(after)) => (part.len(), held(part.slice(..after), server.break_off)),
        Some(Fault::End(after)) => (after, Body::from(part.slice(..after))),
    };
    let headers = [(header::CONTENT_LENGTH, promised.to_string())];
    if from.is_none() {
        return (headers, body).into_response();
    }
    let content_range = format!("bytes {first}-{}/{length}", length - 1);
    (
        StatusCode::PARTIAL_CONTENT,
        headers,
        [(header::CONTENT_RANGE, content_range)],
        body,
    )
        .into_response()
}

/// A body that stops in its midst, and ends in an error.
fn held(part: Bytes, break_off: Arc<Notify>) -> Body {
    let end = stream::once(async move {
        break_off.notified().await;
        Err(io::Error::other("the server was switched off"))
    });
    Body::from_stream(stream::iter([Ok(part)]).chain(end))
}
