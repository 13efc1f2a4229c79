//! All parameters of a decoder in one flat vector, with a name and a place for each tensor.

use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use super::decoder::DecoderTensors;
use super::lora::gaussian;

use crate::adapter::Projection;
use crate::config::DecoderConfig;

/// One tensor of a decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightPlace {
    /// GGUF's name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Rows: 1 for a norm.
    pub rows: usize,
    /// Columns, the contiguous dimension.
    pub columns: usize,
    /// Index of the first element in the flat vector.
    pub offset: usize,
}

impl WeightPlace {
    /// Number of elements.
    pub fn length(&self) -> usize {
        self.rows * self.columns
    }

    /// Whether the tensor is the weight of a norm: one dimension in GGUF, and no decay in training.
    pub fn is_norm(&self) -> bool {
        self.name.ends_with("_norm.weight")
    }
}

/// A decoder's parameters in F32.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderWeights {
    config: DecoderConfig,
    places: Vec<WeightPlace>,
    values: Vec<f32>,
}

/// Why parameters could not be taken over.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("tensor {name} has {found} elements, expected {expected}")]
pub struct WrongLength {
    /// The tensor.
    pub name: String,
    /// What was given.
    pub found: usize,
    /// What the configuration says.
    pub expected: usize,
}

/// The tensors in the order of the flat vector: embedding, layers, last norm, and the head unless tied.
fn places(config: &DecoderConfig) -> Vec<WeightPlace> {
    let mut places: Vec<WeightPlace> = Vec::new();
    let mut push = |name: String, rows: usize, columns: usize| {
        let offset = places.last().map_or(0, |place| place.offset + place.length());
        places.push(WeightPlace {
            name,
            rows,
            columns,
            offset,
        });
    };
    push("token_embd.weight".to_owned(), config.vocabulary, config.width);
    for layer in 0..config.layers {
        push(format!("blk.{layer}.attn_norm.weight"), 1, config.width);
        push(format!("blk.{layer}.ffn_norm.weight"), 1, config.width);
        for projection in Projection::ALL {
            let (d_in, d_out) = projection.shape(config);
            push(format!("blk.{layer}.{}.weight", projection.gguf_name()), d_out, d_in);
        }
    }
    push("output_norm.weight".to_owned(), 1, config.width);
    if !config.tied_embeddings {
        push("output.weight".to_owned(), config.vocabulary, config.width);
    }
    places
}

/// Standard deviation of fresh embeddings: with a tied head, logits then begin near 0.5 in size.
const EMBEDDING_DEVIATION: f64 = 0.05;

/// Standard deviation of a fresh tensor's elements around its centre.
///
/// Matrices have `1 / sqrt(d_in)`; the two that write into the residual stream are smaller by `sqrt(2 * layers)`, so
/// that the stream's size does not grow with depth.
fn fresh_deviation(place: &WeightPlace, layers: usize) -> f64 {
    let plain = (place.columns as f64).sqrt().recip();
    let writes_residual = place.name.contains("attn_output") || place.name.contains("ffn_down");
    match place.name.as_str() {
        _ if place.is_norm() => 0.0,
        "token_embd.weight" => EMBEDDING_DEVIATION,
        _ if writes_residual => plain / (2.0 * layers as f64).sqrt(),
        _ => plain,
    }
}

impl DecoderWeights {
    /// Fresh weights from a seed: norms 1, everything else Gaussian around 0.
    pub fn initialise(config: DecoderConfig, seed: u64) -> Self {
        let mut generator = ChaCha20Rng::seed_from_u64(seed);
        let places = places(&config);
        let mut values = Vec::new();
        for place in &places {
            let deviation = fresh_deviation(place, config.layers);
            let centre = if place.is_norm() { 1.0 } else { 0.0 };
            values.extend((0..place.length()).map(|_| (centre + deviation * gaussian(&mut generator)) as f32));
        }
        Self { config, places, values }
    }

    /// Takes every tensor from `read`, which is given GGUF's name and returns the elements in row-major order.
    ///
    /// # Errors
    /// What `read` returns, or [`WrongLength`].
    pub fn load<E: From<WrongLength>>(
        config: DecoderConfig,
        mut read: impl FnMut(&str) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let places = places(&config);
        let mut values = Vec::new();
        for place in &places {
            let tensor = read(&place.name)?;
            if tensor.len() != place.length() {
                return Err(WrongLength {
                    name: place.name.clone(),
                    found: tensor.len(),
                    expected: place.length(),
                }
                .into());
            }
            values.extend(tensor);
        }
        Ok(Self { config, places, values })
    }

    /// The shape.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The tensors and their places, in the order of the flat vector.
    pub fn places(&self) -> &[WeightPlace] {
        &self.places
    }

    /// The flat vector.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The elements of one tensor, row-major.
    pub fn tensor(&self, place: &WeightPlace) -> &[f32] {
        &self.values[place.offset..place.offset + place.length()]
    }

    pub(super) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// The weights as constants on a device.
    pub(super) fn to_device(&self, device: &Device) -> DecoderTensors {
        let tensor = |place: &WeightPlace| {
            let data = TensorData::new(self.tensor(place).to_vec(), [place.rows, place.columns]);
            Tensor::<2>::from_data(data, device)
        };
        DecoderTensors::new(self.places.iter().map(tensor).collect(), self.config.layers)
    }
}
