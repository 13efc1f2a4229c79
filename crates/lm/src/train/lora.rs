//! LoRA with a fixed factor A and one copy of factor B per example.
//!
//! The adapted product is `x W^T + scale * (x A^T) B^T`. A has orthonormal rows drawn from a seed and is never trained; B
//! starts wherever the job says. Every example of a batch multiplies with a copy of B of its own, so one backward pass
//! leaves in each copy the gradient of that example alone.

use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::loss::floats;

use crate::adapter::Projection;
use crate::config::DecoderConfig;

/// What a job fixes about its adapter, beside the values of B.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraSpec {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// The product is scaled by `alpha / rank`.
    pub alpha: f32,
    /// Seed of the A factors.
    pub seed: u64,
}

impl LoraSpec {
    /// The factor on the product of A and B.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank as f32
    }

    /// Length of the flat vector of all B factors.
    pub fn trained_parameters(&self, config: &DecoderConfig) -> usize {
        self.places(config).iter().map(|place| place.length).sum()
    }

    /// Where each B factor lies in the flat vector: layer by layer, in the order of [`Projection::ALL`], each factor
    /// row-major as `[d_out, rank]`, with the rows in the order of the GGUF tensor.
    pub fn places(&self, config: &DecoderConfig) -> Vec<Place> {
        let mut offset = 0;
        (0..config.layers)
            .flat_map(|layer| Projection::ALL.map(|projection| (layer, projection)))
            .map(|(layer, projection)| {
                let (d_in, d_out) = projection.shape(config);
                let place = Place {
                    layer,
                    projection,
                    d_in,
                    d_out,
                    offset,
                    length: d_out * self.rank,
                };
                offset += place.length;
                place
            })
            .collect()
    }

    /// The A factor of one projection, row-major `[rank, d_in]`.
    pub fn factor_a(&self, layer: usize, projection: Projection, config: &DecoderConfig) -> Vec<f32> {
        let stream = (layer * Projection::ALL.len() + projection as usize) as u64;
        orthonormal_a(self.seed, stream, self.rank, projection.shape(config).0)
    }
}

/// The place of one B factor in the flat vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The layer.
    pub layer: usize,
    /// The adapted matrix.
    pub projection: Projection,
    /// Columns of the matrix, and of A.
    pub d_in: usize,
    /// Rows of the matrix, and of B.
    pub d_out: usize,
    /// Index of the factor's first element.
    pub offset: usize,
    /// Its number of elements, `d_out * rank`.
    pub length: usize,
}

/// `rank` orthonormal rows of length `d_in`, row-major, from a seed: Gaussian rows, orthogonalised twice in F64.
///
/// The same arguments give the same bits on every machine of one floating-point standard: ChaCha20 and the arithmetic
/// below, sines and logarithms excepted, are exactly specified, and F32 rounding hides the last bits of those.
/// A rank above `d_in` has no orthonormal rows; the surplus rows are zero.
pub fn orthonormal_a(seed: u64, stream: u64, rank: usize, d_in: usize) -> Vec<f32> {
    let mut generator = ChaCha20Rng::seed_from_u64(seed);
    generator.set_stream(stream);
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(rank);
    while rows.len() < rank.min(d_in) {
        let mut row: Vec<f64> = (0..d_in).map(|_| gaussian(&mut generator)).collect();
        for _ in 0..2 {
            for earlier in &rows {
                let product = dot(&row, earlier);
                row.iter_mut()
                    .zip(earlier)
                    .for_each(|(value, other)| *value -= product * other);
            }
        }
        let norm = dot(&row, &row).sqrt();
        if norm > 1e-6 {
            rows.push(row.into_iter().map(|value| value / norm).collect());
        }
    }
    let mut flat: Vec<f32> = rows.into_iter().flatten().map(|value| value as f32).collect();
    flat.resize(rank * d_in, 0.0);
    flat
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(a, b)| a * b).sum()
}

/// A standard normal number by Box and Muller's method.
pub(super) fn gaussian(generator: &mut ChaCha20Rng) -> f64 {
    let unit = |bits: u64| ((bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    let radius = (-2.0 * unit(generator.next_u64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * unit(generator.next_u64())).cos()
}

/// The fixed A factors on the device.
#[derive(Debug, Clone)]
pub(super) struct LoraFactors {
    places: Vec<Place>,
    /// One `[d_in, rank]` a place, already scaled by `alpha / rank`.
    scaled_a: Vec<Tensor<2>>,
    rank: usize,
}

impl LoraFactors {
    pub(super) fn new(spec: &LoraSpec, config: &DecoderConfig, device: &Device) -> Self {
        let places = spec.places(config);
        let scaled_a = places
            .iter()
            .map(|place| {
                let rows = spec.factor_a(place.layer, place.projection, config);
                let factor = Tensor::<2>::from_data(TensorData::new(rows, [spec.rank, place.d_in]), device);
                factor.transpose().mul_scalar(spec.scale())
            })
            .collect();
        Self {
            places,
            scaled_a,
            rank: spec.rank,
        }
    }

    /// One copy of each B factor per example, ready to receive gradients.
    pub(super) fn leaves(&self, flat_b: &[f32], examples: usize, device: &Device) -> LoraLeaves<'_> {
        let LoraLeaves { factors, copies } = self.constants(flat_b, examples, device);
        LoraLeaves {
            factors,
            copies: copies.into_iter().map(Tensor::require_grad).collect(),
        }
    }

    /// One copy of each B factor per example, without gradients.
    ///
    /// # Panics
    /// If `flat_b` is not as long as the places say.
    pub(super) fn constants(&self, flat_b: &[f32], examples: usize, device: &Device) -> LoraLeaves<'_> {
        let expected = self.places.last().map_or(0, |place| place.offset + place.length);
        assert_eq!(
            flat_b.len(),
            expected,
            "the flat vector of B factors has another length than the adapter"
        );
        let copies = self
            .places
            .iter()
            .map(|place| {
                let factor = &flat_b[place.offset..place.offset + place.length];
                let data = TensorData::new(factor.repeat(examples), [examples, place.d_out, self.rank]);
                Tensor::<3>::from_data(data, device)
            })
            .collect();
        LoraLeaves { factors: self, copies }
    }
}

/// The copies of B of one batch.
#[derive(Debug)]
pub(super) struct LoraLeaves<'a> {
    factors: &'a LoraFactors,
    /// One `[examples, d_out, rank]` a place.
    copies: Vec<Tensor<3>>,
}

impl LoraLeaves<'_> {
    /// What the adapter adds to a projection of `input` `[examples * length, d_in]`.
    pub(super) fn delta(&self, layer: usize, projection: Projection, input: &Tensor<2>, examples: usize) -> Tensor<2> {
        let index = layer * Projection::ALL.len() + projection as usize;
        let [rows, _] = input.dims();
        let d_out = self.factors.places[index].d_out;
        let low = input.clone().matmul(self.factors.scaled_a[index].clone());
        let low = low.reshape([examples, rows / examples, self.factors.rank]);
        low.matmul(self.copies[index].clone().swap_dims(1, 2))
            .reshape([rows, d_out])
    }

    /// Takes the gradients out of a finished backward pass: one flat vector an example.
    pub(super) fn gradients(&self, gradients: &mut burn::tensor::Gradients, examples: usize) -> Vec<Vec<f32>> {
        let total = self
            .factors
            .places
            .last()
            .map_or(0, |place| place.offset + place.length);
        let mut flat = vec![vec![0.0; total]; examples];
        for (place, copy) in self.factors.places.iter().zip(&self.copies) {
            // A projection whose gradient is missing did not take part in the loss: its gradient is zero.
            let Some(gradient) = copy.grad_remove(gradients) else {
                continue;
            };
            for (example, values) in flat.iter_mut().zip(floats(gradient).chunks_exact(place.length)) {
                example[place.offset..place.offset + place.length].copy_from_slice(values);
            }
        }
        flat
    }
}
