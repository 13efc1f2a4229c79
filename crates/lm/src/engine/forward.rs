//! One pass through the decoder: tokens in, logits out.

use super::cache::KvCache;
use super::float::dot;
use super::lora::AppliedAdapter;
use super::weights::{LayerWeights, Weights};
use crate::adapter::Projection;
use crate::config::{DecoderConfig, RopePairing};

/// Which tokens' logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Of none: the tokens only fill the cache.
    None,
    /// Of the last token.
    Last,
    /// Of every token.
    All,
}

/// What a pass computes with.
#[derive(Clone, Copy)]
pub(crate) struct Decoder<'a> {
    pub(crate) config: &'a DecoderConfig,
    pub(crate) weights: &'a Weights,
    pub(crate) adapter: Option<&'a AppliedAdapter>,
}

impl Decoder<'_> {
    /// Appends `tokens` to the sequence in `cache` and gives the wanted logits, `[wanted, vocabulary]`.
    ///
    /// Tokens have to be in the vocabulary, and the sequence within the context: [`super::Engine`] checks both.
    pub(crate) fn forward(&self, cache: &mut KvCache, tokens: &[u32], wanted: Wanted) -> Vec<f32> {
        let width = self.config.width;
        let mut hidden = vec![0.0; tokens.len() * width];
        for (token, row) in tokens.iter().zip(hidden.chunks_exact_mut(width)) {
            self.weights.embedding.row(*token as usize, row);
        }
        for (index, layer) in self.weights.layers.iter().enumerate() {
            self.attention(cache, index, layer, &mut hidden);
            self.feed_forward(index, layer, &mut hidden);
        }
        cache.advance(tokens.len());
        let rows = match wanted {
            Wanted::None => return Vec::new(),
            Wanted::Last => &hidden[hidden.len() - width..],
            Wanted::All => &hidden,
        };
        let normed = rms_norm(rows, &self.weights.output_norm, self.config.norm_epsilon);
        let mut logits = vec![0.0; normed.len() / width * self.config.vocabulary];
        self.weights.head().multiply(&normed, &mut logits);
        logits
    }

    fn project(&self, index: usize, layer: &LayerWeights, projection: Projection, inputs: &[f32]) -> Vec<f32> {
        let matrix = layer.projection(projection);
        let mut out = vec![0.0; inputs.len() / matrix.d_in * matrix.d_out];
        matrix.multiply(inputs, &mut out);
        if let Some(adapter) = self.adapter {
            adapter.add(index, projection, inputs, &mut out);
        }
        out
    }

    fn attention(&self, cache: &mut KvCache, index: usize, layer: &LayerWeights, hidden: &mut [f32]) {
        let normed = rms_norm(hidden, &layer.attention_norm, self.config.norm_epsilon);
        let mut queries = self.project(index, layer, Projection::Query, &normed);
        let mut keys = self.project(index, layer, Projection::Key, &normed);
        let values = self.project(index, layer, Projection::Value, &normed);
        self.rotate(&mut queries, self.config.query_width(), cache.len());
        self.rotate(&mut keys, self.config.kv_width(), cache.len());
        cache.append(index, &keys, &values);
        let mixed = self.attend(cache, index, &queries);
        add(hidden, &self.project(index, layer, Projection::Output, &mixed));
    }

    /// Rotates every head of every row of `rows` (`[tokens, row_width]`), the first of which is at `first_position`.
    fn rotate(&self, rows: &mut [f32], row_width: usize, first_position: usize) {
        let head_width = self.config.head_width;
        let frequencies = &self.weights.frequencies;
        for (offset, row) in rows.chunks_exact_mut(row_width).enumerate() {
            let position = (first_position + offset) as f32;
            let turns: Vec<(f32, f32)> = frequencies
                .iter()
                .map(|frequency| (position * frequency).sin_cos())
                .collect();
            for head in row.chunks_exact_mut(head_width) {
                rotate_head(head, &turns, self.config.rope.pairing);
            }
        }
    }

    /// Attention of every query (`[tokens, query_width]`, the last tokens of the cache) over the positions up to its own.
    fn attend(&self, cache: &KvCache, layer: usize, queries: &[f32]) -> Vec<f32> {
        let head_width = self.config.head_width;
        let group = self.config.heads / self.config.kv_heads;
        let scale = 1.0 / (head_width as f32).sqrt();
        let mut mixed = vec![0.0; queries.len()];
        let mut scores = Vec::new();
        let rows = queries.chunks_exact(self.config.query_width());
        for (offset, (row, out)) in rows.zip(mixed.chunks_exact_mut(self.config.query_width())).enumerate() {
            let seen = cache.len() + offset + 1;
            let heads = row.chunks_exact(head_width).zip(out.chunks_exact_mut(head_width));
            for (head, (query, out)) in heads.enumerate() {
                let kv_head = head / group;
                scores.clear();
                scores.extend(
                    cache
                        .keys(layer, kv_head, head_width)
                        .take(seen)
                        .map(|key| scale * dot(query, key)),
                );
                softmax(&mut scores);
                for (weight, value) in scores.iter().zip(cache.values(layer, kv_head, head_width)) {
                    for (element, value) in out.iter_mut().zip(value) {
                        *element += weight * value;
                    }
                }
            }
        }
        mixed
    }

    fn feed_forward(&self, index: usize, layer: &LayerWeights, hidden: &mut [f32]) {
        let normed = rms_norm(hidden, &layer.feed_forward_norm, self.config.norm_epsilon);
        let mut gated = self.project(index, layer, Projection::Gate, &normed);
        let up = self.project(index, layer, Projection::Up, &normed);
        for (gate, up) in gated.iter_mut().zip(&up) {
            *gate = *gate / (1.0 + (-*gate).exp()) * up;
        }
        add(hidden, &self.project(index, layer, Projection::Down, &gated));
    }
}

fn rotate_head(head: &mut [f32], turns: &[(f32, f32)], pairing: RopePairing) {
    for (pair, (sin, cos)) in turns.iter().enumerate() {
        let (left, right) = match pairing {
            RopePairing::Interleaved => (2 * pair, 2 * pair + 1),
            RopePairing::Halves => (pair, pair + turns.len()),
        };
        let (x, y) = (head[left], head[right]);
        head[left] = x * cos - y * sin;
        head[right] = x * sin + y * cos;
    }
}

/// `x / sqrt(mean(x^2) + epsilon) * gain` for each row.
fn rms_norm(rows: &[f32], gain: &[f32], epsilon: f32) -> Vec<f32> {
    let mut normed = Vec::with_capacity(rows.len());
    for row in rows.chunks_exact(gain.len()) {
        let mean_square = dot(row, row) / row.len() as f32;
        let factor = 1.0 / (mean_square + epsilon).sqrt();
        normed.extend(row.iter().zip(gain).map(|(element, gain)| element * factor * gain));
    }
    normed
}

fn add(left: &mut [f32], right: &[f32]) {
    for (left, right) in left.iter_mut().zip(right) {
        *left += right;
    }
}

/// Turns scores into weights that sum to 1.
pub(crate) fn softmax(scores: &mut [f32]) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - largest).exp();
        sum += *score;
    }
    for score in scores.iter_mut() {
        *score /= sum;
    }
}
