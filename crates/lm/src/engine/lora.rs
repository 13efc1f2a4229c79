//! An adapter beside the weights: `y += scale * B (A x)`, whatever the format of the weights.

use super::float::dot;
use crate::adapter::{AdapterMismatch, LoraAdapter, LoraFactors, Projection};
use crate::config::DecoderConfig;

/// An adapter that fits the decoder, arranged for look-up.
#[derive(Debug)]
pub(crate) struct AppliedAdapter {
    /// By layer, then by projection.
    sites: Vec<[Option<LoraFactors>; Projection::ALL.len()]>,
    rank: usize,
    scale: f32,
}

impl AppliedAdapter {
    pub(crate) fn new(adapter: &LoraAdapter, config: &DecoderConfig) -> Result<Self, AdapterMismatch> {
        adapter.check(config)?;
        let mut sites: Vec<[Option<LoraFactors>; 7]> = (0..config.layers).map(|_| Default::default()).collect();
        for (&(layer, projection), factors) in &adapter.factors {
            sites[layer][projection as usize] = Some(factors.clone());
        }
        Ok(Self {
            sites,
            rank: adapter.rank,
            scale: adapter.scale(),
        })
    }

    /// Adds what the adapter changes: `inputs` is `[tokens, d_in]`, `out` is `[tokens, d_out]`.
    pub(crate) fn add(&self, layer: usize, projection: Projection, inputs: &[f32], out: &mut [f32]) {
        let Some(factors) = &self.sites[layer][projection as usize] else {
            return;
        };
        let mut narrow = vec![0.0; self.rank];
        for (input, output) in inputs
            .chunks_exact(factors.d_in)
            .zip(out.chunks_exact_mut(factors.d_out))
        {
            for (value, row) in narrow.iter_mut().zip(factors.a.chunks_exact(factors.d_in)) {
                *value = self.scale * dot(row, input);
            }
            for (element, row) in output.iter_mut().zip(factors.b.chunks_exact(self.rank)) {
                *element += row.iter().zip(&narrow).map(|(b, value)| b * value).sum::<f32>();
            }
        }
    }
}
