//! The key-value cache of one sequence.

use crate::config::DecoderConfig;

/// Positions by which the cache grows: not by doubling, so that memory stays near what is used and predicted.
const GROWTH_POSITIONS: usize = 256;

/// Keys and values of the tokens seen so far, by layer. Memory grows with the tokens that are there.
#[derive(Debug)]
pub(crate) struct KvCache {
    layers: Vec<LayerCache>,
    kv_width: usize,
    length: usize,
}

#[derive(Debug, Default)]
struct LayerCache {
    /// `[position, kv_width]`.
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl KvCache {
    pub(crate) fn new(config: &DecoderConfig) -> Self {
        let layers = (0..config.layers).map(|_| LayerCache::default()).collect();
        Self {
            layers,
            kv_width: config.kv_width(),
            length: 0,
        }
    }

    /// Tokens whose computation is complete.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Appends keys and values, `[tokens, kv_width]` each, to a layer.
    pub(crate) fn append(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        let step = GROWTH_POSITIONS * self.kv_width;
        let LayerCache {
            keys: old_keys,
            values: old_values,
        } = &mut self.layers[layer];
        for (old, new) in [(old_keys, keys), (old_values, values)] {
            if old.capacity() - old.len() < new.len() {
                old.reserve_exact(new.len().next_multiple_of(step));
            }
            old.extend_from_slice(new);
        }
    }

    /// Counts tokens that every layer has appended.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.length += tokens;
    }

    /// Key of head `head` at each position.
    pub(crate) fn keys(&self, layer: usize, head: usize, head_width: usize) -> impl Iterator<Item = &[f32]> {
        let start = head * head_width;
        self.layers[layer]
            .keys
            .chunks_exact(self.kv_width)
            .map(move |row| &row[start..start + head_width])
    }

    /// Value of head `head` at each position.
    pub(crate) fn values(&self, layer: usize, head: usize, head_width: usize) -> impl Iterator<Item = &[f32]> {
        let start = head * head_width;
        self.layers[layer]
            .values
            .chunks_exact(self.kv_width)
            .map(move |row| &row[start..start + head_width])
    }
}
