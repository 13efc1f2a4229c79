//! What a pretrained model can do, in numbers.

use fieldfare_lm::tokenizer::Tokenizer;
use fieldfare_lm::train::{ExampleScore, FrozenDecoder};
use serde::Serialize;

use super::{PretrainError, Recipe, tokenise};
use crate::farm::Example;
use crate::farm::corpus;
use crate::farm::datasets::{DatasetSizes, FarmDatasets};

/// Mean loss and exact matches over some examples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Score {
    /// Examples.
    pub examples: usize,
    /// Mean over the examples of each one's mean loss per token of its alert, in nats.
    pub loss: f64,
    /// Part of the examples whose alert greedy decoding reproduces to the last character, from 0 to 1.
    pub exact_match: f64,
}

impl Score {
    /// The means of some scores; zeros for none.
    pub fn of(scores: &[ExampleScore]) -> Self {
        let count = scores.len().max(1) as f64;
        Self {
            examples: scores.len(),
            loss: scores.iter().map(|score| f64::from(score.loss)).sum::<f64>() / count,
            exact_match: scores.iter().filter(|score| score.exact).count() as f64 / count,
        }
    }
}

/// The evaluation that stands beside the shipped model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// How the model was made.
    pub recipe: Recipe,
    /// Parameters of the model.
    pub parameters: u64,
    /// Known sensors and sites in combinations that no training text holds.
    pub held_out: Score,
    /// The novel sensor at the devices' sites, which no pretraining text mentions.
    pub novelty: Score,
}

/// Examples that are scored in one pass.
const AT_ONCE: usize = 25;

impl Evaluation {
    pub(super) fn run(decoder: &FrozenDecoder, tokenizer: &Tokenizer, recipe: &Recipe) -> Result<Self, PretrainError> {
        let score = |examples: &[Example]| -> Result<Score, PretrainError> {
            Ok(Score::of(&decoder.score(&tokenise(tokenizer, examples)?, AT_ONCE)))
        };
        let novelty = FarmDatasets::generate(recipe.novelty_seed(), DatasetSizes::default());
        let novel: Vec<Example> = novelty.devices.into_iter().flat_map(|device| device.held_out).collect();
        Ok(Self {
            recipe: recipe.clone(),
            parameters: decoder.config().parameters(),
            held_out: score(&corpus::held_out(recipe.held_out_examples, recipe.held_out_seed()))?,
            novelty: score(&novel)?,
        })
    }
}
