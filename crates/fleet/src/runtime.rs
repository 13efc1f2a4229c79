//! What executes a variant, and in which arithmetic.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Program that executes a variant. Every runtime is a child process of the agent behind one local protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Runtime {
    /// candle on the CPU, with weights in GGUF.
    CandleGguf,
}

/// A text names no runtime that this build knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown runtime {text:?}; this build knows candle-gguf")]
pub struct UnknownRuntime {
    /// The refused text.
    pub text: String,
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::CandleGguf => "candle-gguf",
        })
    }
}

impl FromStr for Runtime {
    type Err = UnknownRuntime;
    fn from_str(text: &str) -> Result<Self, UnknownRuntime> {
        match text {
            "candle-gguf" => Ok(Self::CandleGguf),
            _ => Err(UnknownRuntime { text: text.to_owned() }),
        }
    }
}

/// Arithmetic in which a variant's matrix products run, which decides the compute rate that bounds its speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arithmetic {
    /// Products of 32-bit floats; 16-bit weights are widened first.
    F32,
    /// Products of 8-bit integers: quantised weights times activations quantised on the way.
    Int8,
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
        })
    }
}
