//! The decoder in burn: the same definition as the engine's, with gradients.

use burn::tensor::{Device, Tensor, TensorData, activation};

use super::batch::Batch;
use super::lora::LoraLeaves;

use crate::adapter::Projection;
use crate::config::{DecoderConfig, Rope, RopePairing};

/// Two norms and the projections.
const TENSORS_PER_LAYER: usize = 2 + Projection::ALL.len();

/// A decoder's tensors on an autodiff device, in the order of [`super::DecoderWeights::places`], each `[rows, columns]`;
/// constants unless somebody made them require gradients.
#[derive(Debug, Clone)]
pub(super) struct DecoderTensors {
    tensors: Vec<Tensor<2>>,
    layers: usize,
}

impl DecoderTensors {
    pub(super) fn new(tensors: Vec<Tensor<2>>, layers: usize) -> Self {
        Self { tensors, layers }
    }

    /// The same tensors as leaves that receive gradients.
    pub(super) fn trained(self) -> Self {
        Self {
            tensors: self.tensors.into_iter().map(Tensor::require_grad).collect(),
            ..self
        }
    }

    pub(super) fn all(&self) -> &[Tensor<2>] {
        &self.tensors
    }

    fn embedding(&self) -> &Tensor<2> {
        &self.tensors[0]
    }

    fn layer(&self, index: usize) -> &[Tensor<2>] {
        let start = 1 + index * TENSORS_PER_LAYER;
        &self.tensors[start..start + TENSORS_PER_LAYER]
    }

    fn last_norm(&self) -> &Tensor<2> {
        &self.tensors[1 + self.layers * TENSORS_PER_LAYER]
    }

    /// Index of the output head `[vocabulary, width]`: the last tensor, or the embedding where they are tied.
    pub(super) fn head_index(&self) -> usize {
        let untied = 2 + self.layers * TENSORS_PER_LAYER;
        if self.tensors.len() > untied { untied } else { 0 }
    }

    /// The output head.
    pub(super) fn head(&self) -> &Tensor<2> {
        &self.tensors[self.head_index()]
    }

    /// The hidden states after the last norm, flattened to `[examples * length, width]`.
    pub(super) fn hidden(&self, config: &DecoderConfig, batch: &Batch, lora: Option<&LoraLeaves<'_>>) -> Tensor<2> {
        let positions = Positions::new(config, batch.length, &self.embedding().device());
        let ids = batch.tokens.clone().reshape([batch.examples * batch.length]);
        let mut state = self.embedding().clone().select(0, ids);
        for index in 0..self.layers {
            let tensors = self.layer(index);
            let project = |projection: Projection, input: &Tensor<2>| {
                let base = input
                    .clone()
                    .matmul(tensors[2 + projection as usize].clone().transpose());
                match lora {
                    Some(leaves) => base + leaves.delta(index, projection, input, batch.examples),
                    None => base,
                }
            };
            let normed = rms_norm(&state, &tensors[0], config.norm_epsilon);
            state = state + attention(config, batch, &positions, &normed, &project);
            let normed = rms_norm(&state, &tensors[1], config.norm_epsilon);
            let gate = activation::silu(project(Projection::Gate, &normed));
            let inner = gate * project(Projection::Up, &normed);
            state = state + project(Projection::Down, &inner);
        }
        rms_norm(&state, self.last_norm(), config.norm_epsilon)
    }
}

fn rms_norm(input: &Tensor<2>, weight: &Tensor<2>, epsilon: f32) -> Tensor<2> {
    let mean_square = input.clone().square().mean_dim(1);
    let scale = mean_square.add_scalar(epsilon).sqrt().recip();
    input.clone() * scale * weight.clone()
}

/// What a batch's forward pass needs beside the weights: rotary factors and the causal mask.
struct Positions {
    /// `[1, 1, length, rotating pairs]`.
    cosine: Tensor<4>,
    sine: Tensor<4>,
    /// `[1, 1, group * length, length]`: 0 where a query may look, a large negative number elsewhere.
    mask: Tensor<4>,
}

/// Finite, so that no arithmetic makes a NaN of it; its exponential is 0 in F32.
const MASKED: f32 = -1e30;

impl Positions {
    fn new(config: &DecoderConfig, length: usize, device: &Device) -> Self {
        let pairs = config.rope.dimensions / 2;
        let factors = |function: fn(f64) -> f64| {
            let values: Vec<f32> = (0..length * pairs)
                .map(|index| function(angle(&config.rope, index / pairs, index % pairs)) as f32)
                .collect();
            Tensor::from_data(TensorData::new(values, [1, 1, length, pairs]), device)
        };
        let group = config.heads / config.kv_heads;
        let mask: Vec<f32> = (0..group * length * length)
            .map(|index| (index / length % length, index % length))
            .map(|(query, key)| if key <= query { 0.0 } else { MASKED })
            .collect();
        Self {
            cosine: factors(f64::cos),
            sine: factors(f64::sin),
            mask: Tensor::from_data(TensorData::new(mask, [1, 1, group * length, length]), device),
        }
    }
}

/// The angle by which a pair of elements turns at a position.
fn angle(rope: &Rope, position: usize, pair: usize) -> f64 {
    let exponent = 2.0 * pair as f64 / rope.dimensions as f64;
    position as f64 / f64::from(rope.position_divisor) / f64::from(rope.theta).powf(exponent)
}

/// Causal attention with grouped heads: the queries of one group share a key head as further rows of one product.
fn attention(
    config: &DecoderConfig,
    batch: &Batch,
    positions: &Positions,
    input: &Tensor<2>,
    project: &impl Fn(Projection, &Tensor<2>) -> Tensor<2>,
) -> Tensor<2> {
    let (examples, length, width) = (batch.examples, batch.length, config.head_width);
    let group_rows = config.heads / config.kv_heads * length;
    let heads = |projection: Projection, count: usize| {
        project(projection, input)
            .reshape([examples, length, count, width])
            .swap_dims(1, 2)
    };
    let queries = rotate(heads(Projection::Query, config.heads), &config.rope, positions);
    let queries = queries.mul_scalar((width as f32).sqrt().recip());
    let queries = queries.reshape([examples, config.kv_heads, group_rows, width]);
    let keys = rotate(heads(Projection::Key, config.kv_heads), &config.rope, positions);
    let values = heads(Projection::Value, config.kv_heads);
    let scores = queries.matmul(keys.swap_dims(2, 3)) + positions.mask.clone();
    let mixed = activation::softmax(scores, 3).matmul(values);
    let mixed = mixed.reshape([examples, config.heads, length, width]).swap_dims(1, 2);
    project(
        Projection::Output,
        &mixed.reshape([examples * length, config.query_width()]),
    )
}

/// Rotary embedding of `[examples, heads, length, head_width]`.
///
/// The result has its pairs in two halves, whatever they were before: queries and keys meet in dot products only, which
/// do not care about the order of elements as long as it is the same for both.
fn rotate(heads: Tensor<4>, rope: &Rope, positions: &Positions) -> Tensor<4> {
    let [examples, count, length, width] = heads.dims();
    let pairs = rope.dimensions / 2;
    let turning = heads.clone().narrow(3, 0, rope.dimensions);
    let (first, second) = match rope.pairing {
        RopePairing::Halves => (turning.clone().narrow(3, 0, pairs), turning.narrow(3, pairs, pairs)),
        RopePairing::Interleaved => {
            let turning = turning.reshape([examples, count, length, pairs, 2]);
            let part = |index| {
                turning
                    .clone()
                    .narrow(4, index, 1)
                    .reshape([examples, count, length, pairs])
            };
            (part(0), part(1))
        }
    };
    let (cosine, sine) = (&positions.cosine, &positions.sine);
    let mut parts = vec![
        first.clone() * cosine.clone() - second.clone() * sine.clone(),
        first * sine.clone() + second * cosine.clone(),
    ];
    if rope.dimensions < width {
        parts.push(heads.narrow(3, rope.dimensions, width - rope.dimensions));
    }
    Tensor::cat(parts, 3)
}
