//! An operator with the offline keys, and releases to publish.

use std::collections::BTreeMap;

use bytes::Bytes;
use fieldfare_proto::v1::{GetFleetRequest, InstallRootRequest, PublishTargetsRequest};
use fieldfare_release::manifest::{
    Architecture, Artifact, ArtifactRole, Figures, Probe, Provenance, Requirements, Runtime, SCHEMA_VERSION, Variant,
};
use fieldfare_release::tuf::{
    Extra, PublicKey, Purpose, RoleHolders, Roles, Root, Signed, SigningKey, Target, Targets, TrustedState, Update,
};
use fieldfare_release::{ReleaseManifest, ReleaseNumber, Sha256Digest, TargetKind, TargetName, UnixSeconds};
use fieldfare_tls::Identity;
use http::{Method, Request, StatusCode};
use ring::rand::SystemRandom;
use tonic::Status;

use crate::fleet::Fleet;

/// The model whose releases these are.
pub const MODEL: &str = "farm-alert";

/// The size that these models claim.
const PARAMETERS: u64 = 1344;

/// Holds the keys of root and targets, as `fieldfare release` does.
#[derive(Debug)]
pub struct Signer {
    root: SigningKey,
    targets: SigningKey,
    /// What the next version lists.
    pub listed: Targets,
    signed: bool,
}

/// A new key.
pub fn key() -> SigningKey {
    SigningKey::generate(&SystemRandom::new()).unwrap()
}

fn now(fleet: &Fleet) -> UnixSeconds {
    UnixSeconds::new(fleet.time.now().unix_ms() / 1000)
}

impl Signer {
    /// New keys, which list nothing yet.
    pub fn new(fleet: &Fleet) -> Self {
        let listed = Targets::first(now(fleet).plus(365 * 86_400));
        Self {
            root: key(),
            targets: key(),
            listed,
            signed: false,
        }
    }

    /// Root version 1, signed.
    pub async fn root(&self, fleet: &Fleet) -> Vec<u8> {
        let online = fleet
            .operator()
            .await
            .get_fleet(GetFleetRequest {})
            .await
            .unwrap()
            .into_inner();
        let holder = |pem: &str| RoleHolders::one(&PublicKey::from_pem(pem).unwrap());
        let holders = Roles {
            root: RoleHolders::one(self.root.public()),
            targets: RoleHolders::one(self.targets.public()),
            snapshot: holder(&online.snapshot_public_key_pem),
            timestamp: holder(&online.timestamp_public_key_pem),
            extra: Extra::new(),
        };
        let issued = now(fleet);
        let root = Root::first(holders, issued, issued.plus(365 * 86_400));
        Signed::sign(root, &[&self.root], &SystemRandom::new())
            .unwrap()
            .bytes()
            .to_vec()
    }

    /// Hands the root to the controller.
    pub async fn install_root(&self, fleet: &Fleet) {
        let root = self.root(fleet).await;
        fleet
            .operator()
            .await
            .install_root(InstallRootRequest { root })
            .await
            .unwrap();
    }

    /// Signs the list as it stands as the next version.
    pub fn sign(&mut self) -> Vec<u8> {
        if self.signed {
            self.listed = self.listed.next(self.listed.header.expires);
        }
        self.signed = true;
        Signed::sign(self.listed.clone(), &[&self.targets], &SystemRandom::new())
            .unwrap()
            .bytes()
            .to_vec()
    }

    /// Uploads and publishes a release, listing whatever it needs.
    pub async fn publish(&mut self, fleet: &Fleet, release: &Release) -> Result<u64, Status> {
        for bytes in &release.artifacts {
            upload(fleet, bytes).await;
        }
        self.list(release);
        let targets = self.sign();
        let manifests = BTreeMap::from([(release.name.to_string(), release.manifest.clone())]);
        let answer = fleet
            .operator()
            .await
            .publish_targets(PublishTargetsRequest { targets, manifests })
            .await;
        answer.map(|answer| answer.into_inner().targets_version)
    }

    /// Takes a release back.
    pub async fn withdraw(&mut self, fleet: &Fleet, release: &Release) {
        assert!(self.listed.withdraw(&release.name));
        let request = PublishTargetsRequest {
            targets: self.sign(),
            manifests: BTreeMap::default(),
        };
        fleet.operator().await.publish_targets(request).await.unwrap();
    }

    /// Delegates the adapters of [`MODEL`] to a trainer's key.
    pub async fn delegate(&mut self, fleet: &Fleet) {
        let trainer = RoleHolders::one(key().public());
        self.listed.delegate_adapters(&MODEL.parse().unwrap(), trainer);
        let request = PublishTargetsRequest {
            targets: self.sign(),
            manifests: BTreeMap::default(),
        };
        fleet.operator().await.publish_targets(request).await.unwrap();
    }

    /// Lists a release and its artifacts.
    pub fn list(&mut self, release: &Release) {
        self.listed.list(&release.name, target(&release.manifest));
        let decoded = ReleaseManifest::decode(&release.name, &release.manifest).unwrap();
        for (name, artifact) in decoded.artifacts() {
            self.listed.list(name, Target::new(artifact.length, artifact.sha256));
        }
    }
}

/// These bytes as targets metadata lists them.
pub fn target(bytes: &[u8]) -> Target {
    Target::new(bytes.len() as u64, Sha256Digest::of(bytes))
}

/// Puts a blob into the artifact server.
pub async fn upload(fleet: &Fleet, bytes: &[u8]) -> Sha256Digest {
    let sha256 = Sha256Digest::of(bytes);
    let request = Request::builder()
        .method(Method::PUT)
        .uri(format!("/blobs/sha256/{sha256}"));
    let request = request.body(Bytes::copy_from_slice(bytes)).unwrap();
    assert_eq!(fleet.http(&fleet.operator, request).await.status(), StatusCode::CREATED);
    sha256
}

/// Brings what somebody trusts up to date, as a device does before it installs; without a state it begins with the first root.
///
/// # Panics
/// When the repository is not one that a device would install from.
pub async fn updated(fleet: &Fleet, identity: &Identity, state: Option<TrustedState>) -> TrustedState {
    let get = |name: &str| {
        let request = Request::builder().uri(format!("/metadata/{name}"));
        fleet.http(identity, request.body(Bytes::new()).unwrap())
    };
    let state = match state {
        Some(state) => state,
        None => TrustedState::from_root(get("1.root.json").await.body()).unwrap(),
    };
    let mut update = Update::begin(state, now(fleet), Purpose::Install);
    while let Some(file) = update.next_file() {
        let answer = get(&file.name).await;
        match answer.status() {
            StatusCode::OK => update.supply(answer.body()).unwrap(),
            _ => update.missing().unwrap(),
        }
    }
    update.state().clone()
}

/// A release: its manifest and what it names.
#[derive(Clone, Debug)]
pub struct Release {
    /// Target name of the manifest.
    pub name: TargetName,
    /// The manifest, encoded.
    pub manifest: Vec<u8>,
    /// The artifacts' bytes.
    pub artifacts: Vec<Vec<u8>>,
}

/// A release with one variant whose weights are a few bytes that claim to be a small model.
pub fn release(number: u32) -> Release {
    release_of(MODEL, number, &[("q8-0", 64 << 20, 1.5)])
}

/// A release of some model, with variants that need this much memory and have this loss.
pub fn release_of(model: &str, number: u32, variants: &[(&str, u64, f64)]) -> Release {
    let release = ReleaseNumber::new(number).unwrap();
    let model: fieldfare_release::ModelName = model.parse().unwrap();
    let made = variants.iter().map(|(name, memory_bytes, held_out_loss)| {
        let weights = format!("weights of {model} {number} {name}").repeat(64).into_bytes();
        let name: fieldfare_release::VariantName = name.parse().unwrap();
        let artifact = Artifact {
            target: TargetName::new(model.clone(), release, TargetKind::Weights(name.clone())),
            sha256: Sha256Digest::of(&weights),
            length: weights.len() as u64,
        };
        let variant = Variant {
            name,
            runtime: Runtime::CandleGguf,
            artifacts: BTreeMap::from([(ArtifactRole::Weights, artifact)]),
            requirements: Requirements {
                memory_bytes: *memory_bytes,
            },
            figures: Figures {
                weight_bytes: weights.len() as u64,
                parameters: PARAMETERS,
                flops_per_token: 2 * PARAMETERS,
                kv_bytes_per_token: 512,
                context_tokens: 256,
                held_out_loss: *held_out_loss,
            },
        };
        (variant, weights)
    });
    let (variants, artifacts) = made.unzip();
    let manifest = ReleaseManifest {
        schema: SCHEMA_VERSION,
        model: model.clone(),
        release,
        title: "Farm alerts".into(),
        created: UnixSeconds::new(1_800_000_000),
        base: None,
        architecture: Architecture {
            family: "llama".into(),
            parameters: PARAMETERS,
            context_tokens: 256,
            vocabulary: 512,
            layers: 5,
            hidden: 64,
        },
        variants,
        probes: vec![Probe {
            prompt: "dry".into(),
            expected: "water".into(),
            max_tokens: 8,
        }],
        chat_template: None,
        provenance: Provenance::Import {
            source: "farm.gguf".into(),
            sha256: Sha256Digest::of(b"farm"),
        },
    };
    Release {
        name: manifest.target_name(),
        manifest: manifest.encode().unwrap(),
        artifacts,
    }
}
