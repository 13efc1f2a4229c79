//! LoRA adapters: low-rank factors on the projections of a decoder.
//!
//! A projection `W` with an adapter computes `W x + scale * B (A x)`. In memory, rows of `B` are in the order of the GGUF weights;
//! files are in Hugging Face's order, so that other tools read them right (module [`peft`]).

pub mod peft;
mod rows;

use std::collections::BTreeMap;

use crate::config::DecoderConfig;
use crate::limits;

pub use rows::{gguf_row_of, permute_rows_from_hf, permute_rows_to_hf};

/// A projection of a decoder layer that an adapter may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Projection {
    /// Attention queries.
    Query,
    /// Attention keys.
    Key,
    /// Attention values.
    Value,
    /// Attention output.
    Output,
    /// Feed-forward gate.
    Gate,
    /// Feed-forward up.
    Up,
    /// Feed-forward down.
    Down,
}

impl Projection {
    /// Every projection, in the order in which a layer computes them.
    pub const ALL: [Projection; 7] = {
        use Projection::*;
        [Query, Key, Value, Output, Gate, Up, Down]
    };

    /// The name in Hugging Face's Llama, such as `q_proj`.
    pub fn hf_name(self) -> &'static str {
        match self {
            Projection::Query => "q_proj",
            Projection::Key => "k_proj",
            Projection::Value => "v_proj",
            Projection::Output => "o_proj",
            Projection::Gate => "gate_proj",
            Projection::Up => "up_proj",
            Projection::Down => "down_proj",
        }
    }

    /// The block of Hugging Face's layer that holds it: `self_attn` or `mlp`.
    pub fn hf_block(self) -> &'static str {
        match self {
            Projection::Query | Projection::Key | Projection::Value | Projection::Output => "self_attn",
            Projection::Gate | Projection::Up | Projection::Down => "mlp",
        }
    }

    /// The name in GGUF, such as `attn_q`.
    pub fn gguf_name(self) -> &'static str {
        match self {
            Projection::Query => "attn_q",
            Projection::Key => "attn_k",
            Projection::Value => "attn_v",
            Projection::Output => "attn_output",
            Projection::Gate => "ffn_gate",
            Projection::Up => "ffn_up",
            Projection::Down => "ffn_down",
        }
    }

    /// `(d_in, d_out)` of this projection.
    pub fn shape(self, config: &DecoderConfig) -> (usize, usize) {
        match self {
            Projection::Query => (config.width, config.query_width()),
            Projection::Key | Projection::Value => (config.width, config.kv_width()),
            Projection::Output => (config.query_width(), config.width),
            Projection::Gate | Projection::Up => (config.width, config.feed_forward),
            Projection::Down => (config.feed_forward, config.width),
        }
    }
}

/// Where a factor pair applies: layer and projection. Ordered by layer first: the order in which contributions list them.
pub type Site = (usize, Projection);

/// The two factors on one projection.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraFactors {
    /// Width of the projection's input.
    pub d_in: usize,
    /// Width of the projection's output.
    pub d_out: usize,
    /// `[rank, d_in]`, row-major.
    pub a: Vec<f32>,
    /// `[d_out, rank]`, row-major, rows in the order of the GGUF weights.
    pub b: Vec<f32>,
}

/// A LoRA adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraAdapter {
    /// Inner width of all factors.
    pub rank: usize,
    /// The product is scaled by `alpha / rank`.
    pub alpha: f32,
    /// The factors by site.
    pub factors: BTreeMap<Site, LoraFactors>,
}

/// Why an adapter does not fit a decoder.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AdapterMismatch {
    /// The rank is 0 or too large.
    #[error("adapter: the rank is {found}, expected 1 to {}", limits::MAX_RANK)]
    Rank {
        /// The adapter's rank.
        found: usize,
    },
    /// Alpha is no positive number.
    #[error("adapter: alpha is {found}, expected a positive number")]
    Alpha {
        /// The adapter's alpha.
        found: f32,
    },
    /// The decoder has no such layer.
    #[error("adapter: layer {layer}, and the decoder has {layers}")]
    Layer {
        /// The layer that the adapter names.
        layer: usize,
        /// The decoder's layers.
        layers: usize,
    },
    /// A factor has another shape than the projection.
    #[error("adapter: layer {layer} {}: {factor} has {found} elements, expected {expected}", projection.hf_name())]
    Shape {
        /// The layer.
        layer: usize,
        /// The projection.
        projection: Projection,
        /// `A` or `B`.
        factor: &'static str,
        /// The elements found.
        found: usize,
        /// The elements that rank and projection call for.
        expected: usize,
    },
    /// A factor holds an infinity or a NaN, which would turn every answer into noise.
    #[error("adapter: layer {layer} {}: {factor} has an element that is no finite number", projection.hf_name())]
    NotFinite {
        /// The layer.
        layer: usize,
        /// The projection.
        projection: Projection,
        /// `A` or `B`.
        factor: &'static str,
    },
}

impl LoraAdapter {
    /// The factor of `B (A x)`: alpha divided by the rank.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank as f32
    }

    /// The number of elements of all factors.
    pub fn parameters(&self) -> usize {
        self.factors
            .values()
            .map(|factors| factors.a.len() + factors.b.len())
            .sum()
    }

    /// Checks that every factor fits the decoder and is finite.
    pub fn check(&self, config: &DecoderConfig) -> Result<(), AdapterMismatch> {
        if self.rank == 0 || self.rank > limits::MAX_RANK {
            return Err(AdapterMismatch::Rank { found: self.rank });
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(AdapterMismatch::Alpha { found: self.alpha });
        }
        for (&(layer, projection), factors) in &self.factors {
            if layer >= config.layers {
                return Err(AdapterMismatch::Layer {
                    layer,
                    layers: config.layers,
                });
            }
            let (d_in, d_out) = projection.shape(config);
            let both = [
                ("A", &factors.a, d_in, factors.d_in),
                ("B", &factors.b, d_out, factors.d_out),
            ];
            for (factor, elements, width, declared) in both {
                let (found, expected) = (elements.len(), width * self.rank);
                if found != expected || declared != width {
                    return Err(AdapterMismatch::Shape {
                        layer,
                        projection,
                        factor,
                        found,
                        expected,
                    });
                }
                if elements.iter().any(|element| !element.is_finite()) {
                    return Err(AdapterMismatch::NotFinite {
                        layer,
                        projection,
                        factor,
                    });
                }
            }
        }
        Ok(())
    }
}
