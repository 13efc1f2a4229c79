//! How fast a device generates with a variant.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::correction::Correction;
use super::variant::VariantSpec;
use crate::{ByteSize, Capacity, TokensPerSecond};

/// What bounds the speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bottleneck {
    /// Reading weights and cache.
    MemoryBandwidth,
    /// Arithmetic.
    Compute,
}

impl fmt::Display for Bottleneck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::MemoryBandwidth => "memory bandwidth",
            Self::Compute => "compute",
        })
    }
}

/// What a variant would take and give on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Prediction {
    /// Speed of generation at batch 1 with a full context.
    pub tokens_per_second: TokensPerSecond,
    /// What bounds it.
    pub bottleneck: Bottleneck,
    /// Memory: weights, cache of the asked-for context and working memory.
    pub memory: ByteSize,
}

/// Predicts speed and memory of one stream of a variant with this context.
///
/// The bandwidth bound is `bandwidth / (weights read per token + cache of the full context)`, the compute bound is
/// `rate in the variant's arithmetic / operations per token`; the lower one, times the correction, is the prediction.
pub fn predict(capacity: &Capacity, variant: &VariantSpec, context: u32, correction: Correction) -> Prediction {
    let cache = variant.kv_bytes_per_token.saturating_mul(u64::from(context));
    let bytes = variant.bytes_per_token.saturating_add(cache).get().max(1);
    let by_bandwidth = capacity.memory_bandwidth.get() as f64 / bytes as f64;
    let rate = capacity.compute.rate(variant.arithmetic).get() as f64;
    let by_compute = rate / variant.flops_per_token.max(1) as f64;
    let (bound, bottleneck) = if by_bandwidth <= by_compute {
        (by_bandwidth, Bottleneck::MemoryBandwidth)
    } else {
        (by_compute, Bottleneck::Compute)
    };
    Prediction {
        tokens_per_second: TokensPerSecond::clamped(bound * correction.get()),
        bottleneck,
        memory: variant.memory_needed(context),
    }
}
