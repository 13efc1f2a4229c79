//! Why a variant is refused.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::roofline::Bottleneck;
use crate::{ByteSize, NatsPerToken, Runtime, TokensPerSecond, TrustTier};

/// Why a device cannot run a variant, with what is needed and what there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Reason {
    /// The device cannot start the variant's runtime.
    RuntimeMissing {
        /// Runtime of the variant.
        needed: Runtime,
        /// Runtimes of the device.
        available: BTreeSet<Runtime>,
    },
    /// The device is not trusted enough.
    TrustTooLow {
        /// Least tier.
        needed: TrustTier,
        /// The device's tier.
        available: TrustTier,
    },
    /// The variant's context is too short for the deployment.
    ContextTooShort {
        /// Tokens asked for.
        needed: u32,
        /// Tokens of the variant.
        available: u32,
    },
    /// The device lets the model use too little memory.
    MemoryTooSmall {
        /// Weights, cache and working memory together.
        needed: ByteSize,
        /// What the owner lets the model use.
        available: ByteSize,
    },
    /// The deployment allows less memory than the variant takes.
    MemoryNotAllowed {
        /// Weights, cache and working memory together.
        needed: ByteSize,
        /// What the deployment allows.
        allowed: ByteSize,
    },
    /// The variant does not fit on the disk.
    DiskTooSmall {
        /// Bytes of the variant.
        needed: ByteSize,
        /// Free bytes.
        available: ByteSize,
    },
    /// The variant would be too slow.
    TooSlow {
        /// Least speed.
        needed: TokensPerSecond,
        /// Predicted speed.
        predicted: TokensPerSecond,
        /// What bounds it.
        bottleneck: Bottleneck,
    },
    /// The variant's answers are too bad.
    LossTooHigh {
        /// Highest acceptable loss.
        allowed: NatsPerToken,
        /// Held-out loss of the variant.
        measured: NatsPerToken,
    },
    /// The deployment bounds the loss, and the variant's has not been measured.
    LossNotMeasured {
        /// Highest acceptable loss.
        allowed: NatsPerToken,
    },
    /// The variant's own figures are impossible.
    Impossible {
        /// The field.
        field: String,
        /// What it says.
        value: u64,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RuntimeMissing { needed, available } if available.is_empty() => {
                write!(f, "needs the runtime {needed}, the device has none")
            }
            Self::RuntimeMissing { needed, available } => {
                let names: Vec<String> = available.iter().map(ToString::to_string).collect();
                write!(f, "needs the runtime {needed}, the device has {}", names.join(", "))
            }
            Self::TrustTooLow { needed, available } => {
                write!(f, "needs a device that is {needed}, this one is {available}")
            }
            Self::ContextTooShort { needed, available } => {
                write!(f, "context of {needed} tokens asked for, the variant has {available}")
            }
            Self::MemoryTooSmall { needed, available } => {
                write!(f, "needs {needed} of memory, the device lets a model use {available}")
            }
            Self::MemoryNotAllowed { needed, allowed } => {
                write!(f, "needs {needed} of memory, the deployment allows {allowed}")
            }
            Self::DiskTooSmall { needed, available } => write!(f, "needs {needed} of disk, {available} are free"),
            Self::TooSlow {
                needed,
                predicted,
                bottleneck,
            } => {
                write!(f, "predicted {predicted}, needed {needed}; bounded by {bottleneck}")
            }
            Self::LossTooHigh { allowed, measured } => write!(f, "held-out loss {measured}, at most {allowed} allowed"),
            Self::LossNotMeasured { allowed } => write!(f, "loss not measured, at most {allowed} allowed"),
            Self::Impossible { field, value } => write!(f, "impossible figure: {field} is {value}"),
        }
    }
}
