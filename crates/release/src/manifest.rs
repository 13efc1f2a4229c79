//! The manifest of a release: what there is to run, what it needs, how to probe it, and how it was made.

mod decode;
mod provenance;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use decode::ManifestError;
pub use provenance::{
    Accountant, AggregationRule, Evaluation, Mechanism, PrivacyStatement, PrivacyUnit, Provenance, VariantEvaluation,
};

use crate::digest::Sha256Digest;
use crate::names::{ModelName, ReleaseNumber, TargetKind, TargetName, VariantName};
use crate::time::UnixSeconds;

/// The manifest version that this build writes, and the only one that it reads.
pub const SCHEMA_VERSION: u32 = 1;

/// An immutable version of a model, as signed. Read it with [`ReleaseManifest::decode`], which checks it against
/// the name it was listed under, and write it with [`ReleaseManifest::encode`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseManifest {
    /// Always [`SCHEMA_VERSION`].
    pub schema: u32,
    /// The model.
    pub model: ModelName,
    /// The number of this release within the model.
    pub release: ReleaseNumber,
    /// One line for people.
    pub title: String,
    /// When the release was built.
    pub created: UnixSeconds,
    /// The release that this one was made from. Always present after a federated job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseRelease>,
    /// The shape of the network.
    pub architecture: Architecture,
    /// What there is to run: at least one, names unique.
    pub variants: Vec<Variant>,
    /// What a device asks before it switches to the release.
    #[serde(default)]
    pub probes: Vec<Probe>,
    /// The chat template (Jinja), where the weights' own is missing or wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// How the release was made.
    pub provenance: Provenance,
}

/// The release that another one was made from, by content.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseRelease {
    /// The target name of its manifest.
    pub manifest: TargetName,
    /// The digest of its manifest.
    pub sha256: Sha256Digest,
}

/// The shape of the network.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// The `general.architecture` of GGUF, such as `llama`.
    pub family: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Longest context that the model was trained for, in tokens.
    pub context_tokens: u32,
    /// Vocabulary size, in tokens.
    pub vocabulary: u32,
    /// Number of decoder layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
}

/// One runnable form of a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Its name, unique within the release.
    pub name: VariantName,
    /// What runs it.
    pub runtime: Runtime,
    /// Its files by role. Weights are always present; an adapter, where present, is applied beside them.
    pub artifacts: BTreeMap<ArtifactRole, Artifact>,
    /// What is known about it.
    pub figures: Figures,
    /// What a device must have.
    pub requirements: Requirements,
}

impl Variant {
    /// The weights. A decoded manifest has them in every variant.
    pub fn weights(&self) -> Option<&Artifact> {
        self.artifacts.get(&ArtifactRole::Weights)
    }

    /// The LoRA factors to apply beside the weights.
    pub fn adapter(&self) -> Option<&Artifact> {
        self.artifacts.get(&ArtifactRole::Adapter)
    }
}

/// What runs a variant.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    /// The candle engine over a GGUF file.
    CandleGguf,
}

/// What an artifact is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArtifactRole {
    /// A GGUF file: weights, configuration and vocabulary.
    Weights,
    /// A PEFT safetensors file: LoRA factors.
    Adapter,
}

/// A file by name and content.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Its target name, which the repository's metadata must list with the same length and digest.
    pub target: TargetName,
    /// Its digest.
    pub sha256: Sha256Digest,
    /// Its length, in bytes.
    pub length: u64,
}

/// What is known about a variant. Placement decides from these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// Bytes read per generated token: the tensors as stored.
    pub weight_bytes: u64,
    /// Number of parameters, those of the adapter included.
    pub parameters: u64,
    /// Floating point operations per generated token.
    pub flops_per_token: u64,
    /// Bytes of key/value cache per token of context.
    pub kv_bytes_per_token: u64,
    /// The context that the figures and the requirements assume, in tokens.
    pub context_tokens: u32,
    /// Mean loss on the held-out text, in nats per token.
    pub held_out_loss: f64,
}

/// What a device must have to run a variant.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirements {
    /// Memory for weights, cache and working space together, in bytes.
    pub memory_bytes: u64,
}

/// A question with its known answer. Greedy decoding of the prompt starts with the expected text.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// The prompt, as the model sees it: no template is applied.
    pub prompt: String,
    /// How the completion starts.
    pub expected: String,
    /// Most tokens to generate.
    pub max_tokens: u32,
}

impl ReleaseManifest {
    /// The target name that the manifest is listed under: that of an adapter release, signed by a trainer's delegated
    /// key, if it came from a federated job, and that of a release signed by the operator otherwise.
    pub fn target_name(&self) -> TargetName {
        let kind = match self.provenance {
            Provenance::Import { .. } => TargetKind::Release,
            Provenance::Federated { .. } => TargetKind::AdapterRelease,
        };
        TargetName::new(self.model.clone(), self.release, kind)
    }

    /// The variant with this name.
    pub fn variant(&self, name: &VariantName) -> Option<&Variant> {
        self.variants.iter().find(|variant| variant.name == *name)
    }

    /// Every file of the release once, whichever variants share it, in the order of the target names.
    pub fn artifacts(&self) -> BTreeMap<&TargetName, &Artifact> {
        let artifacts = self.variants.iter().flat_map(|variant| variant.artifacts.values());
        artifacts.map(|artifact| (&artifact.target, artifact)).collect()
    }
}
