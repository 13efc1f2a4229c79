//! What placement knows about a variant, and what a deployment asks of it.

use std::cmp::Reverse;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_CONTEXT_TOKENS, MAX_MEMORY_BYTES};
use crate::{Arithmetic, ByteSize, NatsPerToken, Runtime, TokensPerSecond, TrustTier, VariantName};

/// Mean bits of storage per weight, in thousandths (4.5 bits are 4500).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BitsPerWeight(pub u32);

impl fmt::Display for BitsPerWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.2} bits", f64::from(self.0) / 1000.0))
    }
}

/// How good a variant's answers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Measured on held-out text.
    Known(NatsPerToken),
    /// Not measured: variants are ordered by precision, more bits being better.
    OrderedByPrecision(BitsPerWeight),
}

impl Loss {
    /// Order of preference, the best first: measured losses from low to high, then the rest by falling precision.
    pub(crate) fn rank(self) -> LossRank {
        match self {
            Self::Known(loss) => LossRank::Known(loss),
            Self::OrderedByPrecision(bits) => LossRank::Unmeasured(Reverse(bits)),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(loss) => write!(f, "loss {loss}"),
            Self::OrderedByPrecision(bits) => write!(f, "{bits} per weight (loss not measured)"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LossRank {
    Known(NatsPerToken),
    Unmeasured(Reverse<BitsPerWeight>),
}

/// One variant of a release, as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct VariantSpec {
    /// Name within the release.
    pub name: VariantName,
    /// Runtime that executes it.
    pub runtime: Runtime,
    /// Arithmetic of its matrix products.
    pub arithmetic: Arithmetic,
    /// Bytes of all its artifacts: what is downloaded, stored and held in memory.
    pub weight_bytes: ByteSize,
    /// Bytes of weights read to generate one token; less than `weight_bytes` where an embedding table is only looked up.
    pub bytes_per_token: ByteSize,
    /// Bytes that one token adds to the key-value cache.
    pub kv_bytes_per_token: ByteSize,
    /// Bytes of memory beside weights and cache: activations, buffers, the process.
    pub working_memory: ByteSize,
    /// Longest context in tokens.
    pub context: u32,
    /// Operations to generate one token, without attention over the cache; one multiply-add counts as two.
    pub flops_per_token: u64,
    /// Number of parameters.
    pub params: u64,
    /// How good its answers are.
    pub loss: Loss,
    /// Least trust tier of a device that may have it.
    pub min_trust: TrustTier,
}

/// An impossible variant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("variant {variant}: field `{field}` is {value}; possible is {least} to {most}")]
pub struct VariantSpecError {
    /// The variant.
    pub variant: VariantName,
    /// The field.
    pub field: &'static str,
    /// What it says.
    pub value: u64,
    /// Least possible value.
    pub least: u64,
    /// Greatest possible value.
    pub most: u64,
}

impl VariantSpec {
    /// Memory that serving one stream with this context takes.
    pub fn memory_needed(&self, context: u32) -> ByteSize {
        let cache = self.kv_bytes_per_token.saturating_mul(u64::from(context));
        self.weight_bytes
            .saturating_add(cache)
            .saturating_add(self.working_memory)
    }

    /// Refuses figures that cannot be.
    ///
    /// # Errors
    /// [`VariantSpecError`] names the field.
    pub fn validate(&self) -> Result<(), VariantSpecError> {
        let checks = [
            ("weight_bytes", self.weight_bytes.get(), 1, MAX_MEMORY_BYTES),
            (
                "bytes_per_token",
                self.bytes_per_token.get(),
                1,
                self.weight_bytes.get(),
            ),
            ("kv_bytes_per_token", self.kv_bytes_per_token.get(), 0, MAX_MEMORY_BYTES),
            ("working_memory", self.working_memory.get(), 0, MAX_MEMORY_BYTES),
            ("context", u64::from(self.context), 1, u64::from(MAX_CONTEXT_TOKENS)),
            ("flops_per_token", self.flops_per_token, 1, MAX_MEMORY_BYTES),
            ("params", self.params, 1, MAX_MEMORY_BYTES),
        ];
        match checks
            .into_iter()
            .find(|(_, value, least, most)| !(least..=most).contains(&value))
        {
            None => Ok(()),
            Some((field, value, least, most)) => Err(VariantSpecError {
                variant: self.name.clone(),
                field,
                value,
                least,
                most,
            }),
        }
    }
}

/// What a deployment asks of the variant that a device runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Requirements {
    /// Least speed of generation at batch 1.
    pub min_tokens_per_second: TokensPerSecond,
    /// Context in tokens that must fit.
    pub context: u32,
    /// Most memory that the model may take, whatever the device allows.
    pub max_memory: Option<ByteSize>,
    /// Highest acceptable held-out loss.
    pub max_loss: Option<NatsPerToken>,
}
