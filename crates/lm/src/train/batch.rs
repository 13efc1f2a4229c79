//! Token sequences as the trainer sees them, and batches of them padded to one length.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::frozen::ExampleScore;
use crate::tokenizer::TokenizedExample;

/// One tokenised example: one record in the sense of the privacy accounting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainingExample {
    /// All tokens, from the beginning-of-text token to the end-of-text token.
    tokens: Vec<u32>,
    /// Index of the first token that the loss counts, at least 1.
    scored_from: usize,
}

impl TrainingExample {
    /// An example whose loss counts the tokens from index `scored_from` on; index 0 is never predicted.
    ///
    /// Sequences longer than `limit` tokens lose their end; where that would leave nothing to score, they lose the
    /// beginning of the prompt instead. Returns `None` when no token is left to predict.
    pub fn new(mut tokens: Vec<u32>, scored_from: usize, limit: usize) -> Option<Self> {
        let mut scored_from = scored_from.max(1);
        if tokens.len() > limit && scored_from >= limit {
            let scored = (tokens.len() - scored_from).min(limit.saturating_sub(1));
            let end = scored_from + scored;
            let start = end.saturating_sub(limit);
            tokens = tokens[start..end].to_vec();
            scored_from -= start;
        }
        tokens.truncate(limit);
        (scored_from < tokens.len()).then_some(Self { tokens, scored_from })
    }

    /// The tokenizer's example, cut to `limit` tokens as in [`Self::new`].
    pub fn from_tokenized(example: TokenizedExample, limit: usize) -> Option<Self> {
        Self::new(example.tokens, example.first_target, limit)
    }

    /// All tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Index of the first token that the loss counts.
    pub fn scored_from(&self) -> usize {
        self.scored_from
    }

    /// How many tokens the loss counts; at least 1.
    pub fn scored(&self) -> usize {
        self.tokens.len() - self.scored_from
    }
}

/// How much a token of a prompt weighs in the loss, against 1 for a scored token; from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct PromptWeight(f32);

impl PromptWeight {
    /// Prompts are masked out of the loss.
    pub const ZERO: Self = Self(0.0);

    /// The weight, brought into the range from 0 to 1.
    pub fn new(weight: f32) -> Self {
        Self(if weight.is_finite() {
            weight.clamp(0.0, 1.0)
        } else {
            0.0
        })
    }
}

/// Examples padded at the end to the longest of them. Causal attention keeps padding out of every scored position.
#[derive(Debug)]
pub(super) struct Batch {
    /// `[examples, length]`.
    pub(super) tokens: Tensor<2, Int>,
    /// Rows of the flattened `[examples * length, width]` hidden states that predict a scored token.
    pub(super) rows: Tensor<1, Int>,
    /// The token that each row should predict.
    pub(super) targets: Vec<u32>,
    /// Each row's weight in the loss. For a scored token it is one over the number of scored tokens of its own example;
    /// for a token of a prompt, that times the prompt's weight.
    pub(super) weights: Vec<f32>,
    /// Example that each row belongs to.
    owners: Vec<usize>,
    /// Whether each row predicts a scored token, or else one of a prompt.
    scored: Vec<bool>,
    pub(super) examples: usize,
    pub(super) length: usize,
}

impl Batch {
    /// Pads the given examples; there must be at least one.
    ///
    /// Rows that predict tokens of prompts are left out where `prompt_weight` is zero.
    pub(super) fn new(examples: &[&TrainingExample], prompt_weight: PromptWeight, device: &Device) -> Self {
        let length = examples.iter().map(|example| example.tokens.len()).max().unwrap_or(1) - 1;
        let mut tokens = vec![0_i32; examples.len() * length];
        let (mut rows, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        let (mut owners, mut scored) = (Vec::new(), Vec::new());
        for (index, example) in examples.iter().enumerate() {
            let inputs = &example.tokens[..example.tokens.len() - 1];
            for (slot, token) in tokens[index * length..].iter_mut().zip(inputs) {
                *slot = *token as i32;
            }
            let first = if prompt_weight == PromptWeight::ZERO {
                example.scored_from
            } else {
                1
            };
            for position in first..example.tokens.len() {
                let counts = position >= example.scored_from;
                rows.push((index * length + position - 1) as i32);
                targets.push(example.tokens[position]);
                weights.push(if counts { 1.0 } else { prompt_weight.0 } / example.scored() as f32);
                owners.push(index);
                scored.push(counts);
            }
        }
        let count = rows.len();
        Self {
            tokens: Tensor::from_data(TensorData::new(tokens, [examples.len(), length]), device),
            rows: Tensor::from_data(TensorData::new(rows, [count]), device),
            targets,
            weights,
            owners,
            scored,
            examples: examples.len(),
            length,
        }
    }

    /// Weighs every token of the batch alike, whichever example it belongs to, so that the weights sum to 1.
    pub(super) fn weigh_tokens_equally(&mut self, prompt_weight: PromptWeight) {
        let weight = |scored: &bool| if *scored { 1.0 } else { prompt_weight.0 };
        let total: f32 = self.scored.iter().map(weight).sum();
        self.weights = self.scored.iter().map(|scored| weight(scored) / total).collect();
    }

    /// The mean loss of the scored tokens.
    pub(super) fn mean_scored_loss(&self, row_losses: &[f32]) -> f32 {
        let scored = self.scored.iter().zip(row_losses).filter(|(scored, _)| **scored);
        let (count, sum) = scored.fold((0, 0.0), |(count, sum), (_, loss)| (count + 1, sum + loss));
        sum / count.max(1) as f32
    }

    /// Each example's mean loss over its own tokens, and whether all of its rows hit.
    pub(super) fn per_example(&self, row_losses: &[f32], row_hits: &[bool]) -> Vec<ExampleScore> {
        let mut scores = vec![ExampleScore { loss: 0.0, exact: true }; self.examples];
        for (row, owner) in self.owners.iter().enumerate().filter(|(row, _)| self.scored[*row]) {
            scores[*owner].loss += self.weights[row] * row_losses[row];
            scores[*owner].exact &= row_hits[row];
        }
        scores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_keeps_something_to_score() {
        let tokens: Vec<u32> = (0..10).collect();
        let cases = [
            // (scored_from, limit) -> (tokens, scored_from)
            ((4, 20), Some((0..10, 4))),
            ((4, 6), Some((0..6, 4))),
            ((0, 6), Some((0..6, 1))),
            ((8, 6), Some((4..10, 4))),
            ((4, 3), Some((3..6, 1))),
            ((10, 20), None),
            ((10, 5), None),
            ((4, 1), None),
        ];
        for ((scored_from, limit), expected) in cases {
            let example = TrainingExample::new(tokens.clone(), scored_from, limit);
            let expected = expected.map(|(range, scored_from)| TrainingExample {
                tokens: range.collect(),
                scored_from,
            });
            assert_eq!(example, expected, "scored from {scored_from}, limit {limit}");
        }
    }
}
