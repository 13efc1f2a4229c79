use std::convert::Infallible;
use std::sync::atomic::AtomicBool;

use super::memory::PhysicalBatch;
use super::*;
use crate::adapter::Projection;
use crate::config::{Architecture, DecoderConfig, Rope, RopePairing};

/// Grouped heads, partly rotating, so that no special case hides behind equal numbers.
fn small_config() -> DecoderConfig {
    DecoderConfig {
        architecture: Architecture::Llama,
        width: 32,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_width: 8,
        feed_forward: 48,
        vocabulary: 40,
        context: 64,
        norm_epsilon: 1e-5,
        rope: Rope {
            theta: 10_000.0,
            dimensions: 6,
            position_divisor: 1.0,
            pairing: RopePairing::Interleaved,
        },
        tied_embeddings: true,
    }
}

const SPEC: LoraSpec = LoraSpec {
    rank: 3,
    alpha: 6.0,
    seed: 11,
};

fn lora_decoder() -> LoraDecoder {
    LoraDecoder::new(FrozenDecoder::new(&DecoderWeights::initialise(small_config(), 5)), SPEC)
}

/// Examples of different lengths and prompts, so that padding and masks take part.
fn examples() -> Vec<TrainingExample> {
    let lengths = [(9, 3), (5, 4), (14, 6), (7, 1), (11, 10)];
    let token = |seed: usize, index: usize| ((seed * 7 + index * index * 3 + index) % 40) as u32;
    lengths
        .iter()
        .enumerate()
        .map(|(seed, (length, scored_from))| {
            let tokens = (0..*length).map(|index| token(seed, index)).collect();
            TrainingExample::new(tokens, *scored_from, 64).unwrap()
        })
        .collect()
}

/// B factors away from zero, so that gradients through A take part.
fn some_state(length: usize) -> Vec<f32> {
    (0..length)
        .map(|index| 0.05 * ((index * 37 % 101) as f32 / 50.0 - 1.0))
        .collect()
}

fn norm(vector: impl Iterator<Item = f32>) -> f32 {
    vector.map(|value| value * value).sum::<f32>().sqrt()
}

fn relative_distance(left: &[f32], right: &[f32]) -> f32 {
    norm(left.iter().zip(right).map(|(a, b)| a - b)) / norm(right.iter().copied())
}

#[test]
fn per_example_gradients_equal_batch_of_one_passes_and_differ_from_each_other() {
    let (decoder, examples) = (lora_decoder(), examples());
    let state = some_state(decoder.trained_parameters());
    let borrowed: Vec<&TrainingExample> = examples.iter().collect();
    let together = decoder.per_example_gradients(&state, &borrowed);
    for (index, example) in examples.iter().enumerate() {
        let alone = &decoder.per_example_gradients(&state, &[example])[0];
        let distance = relative_distance(&together[index], alone);
        assert!(distance < 1e-5, "example {index} is {distance} away from its own pass");
        let other = &together[(index + 1) % examples.len()];
        assert!(
            relative_distance(other, alone) > 0.3,
            "another example's gradient passes for that of {index}"
        );
    }
}

#[test]
fn gradients_agree_with_finite_differences_of_the_loss() {
    let (decoder, examples) = (lora_decoder(), examples());
    let state = some_state(decoder.trained_parameters());
    let gradient = &decoder.per_example_gradients(&state, &[&examples[2]])[0];
    let loss = |state: &[f32]| decoder.score(state, &examples[2..3], 1)[0].loss;
    // One direction per place, so that an error in any projection of any layer shows.
    for place in SPEC.places(decoder.decoder().config()) {
        let part = &gradient[place.offset..place.offset + place.length];
        let size = norm(part.iter().copied());
        let moved = |distance: f32| {
            let mut state = state.clone();
            for (value, slope) in state[place.offset..].iter_mut().zip(part) {
                *value += distance * slope / size;
            }
            loss(&state)
        };
        let slope = (moved(0.02) - moved(-0.02)) / 0.04;
        let (layer, projection) = (place.layer, place.projection);
        // The loss is F32 near 4: its last bit over the distance is 1e-5.
        assert!(
            (slope - size).abs() < 0.02 * size + 5e-5,
            "layer {layer} {projection:?}: {slope} against {size}"
        );
    }
}

#[test]
fn an_adapter_of_zeros_changes_nothing_and_another_one_does() {
    let (decoder, examples) = (lora_decoder(), examples());
    let base = decoder.decoder().score(&examples, 2);
    assert_eq!(
        decoder.score(&vec![0.0; decoder.trained_parameters()], &examples, 2),
        base
    );
    let changed = decoder.score(&some_state(decoder.trained_parameters()), &examples, 2);
    assert!(
        changed
            .iter()
            .zip(&base)
            .all(|(changed, base)| changed.loss != base.loss)
    );
}

#[test]
fn padding_and_neighbours_do_not_change_a_score() {
    let (decoder, examples) = (lora_decoder(), examples());
    let alone: Vec<ExampleScore> = decoder.decoder().score(&examples, 1);
    for (alone, together) in alone.iter().zip(decoder.decoder().score(&examples, examples.len())) {
        assert!((alone.loss - together.loss).abs() < 1e-5 && alone.exact == together.exact);
    }
}

#[test]
fn the_rows_of_a_are_orthonormal_and_follow_from_the_seed() {
    let (rank, d_in) = (4, 96);
    let rows = orthonormal_a(3, 1, rank, d_in);
    let row = |index: usize| &rows[index * d_in..(index + 1) * d_in];
    for (left, right) in (0..rank).flat_map(|left| (0..rank).map(move |right| (left, right))) {
        let product: f32 = row(left).iter().zip(row(right)).map(|(a, b)| a * b).sum();
        let expected = f32::from(u8::from(left == right));
        assert!((product - expected).abs() < 1e-6, "rows {left} and {right}: {product}");
    }
    assert_eq!(rows, orthonormal_a(3, 1, rank, d_in));
    assert_ne!(rows, orthonormal_a(3, 2, rank, d_in));
    assert_ne!(rows, orthonormal_a(4, 1, rank, d_in));
    assert_eq!(
        orthonormal_a(3, 1, 4, 2)[4..],
        [0.0; 4],
        "a rank above the width has no more rows"
    );
}

#[test]
fn places_cover_the_flat_vector_without_gaps() {
    let config = small_config();
    let places = SPEC.places(&config);
    assert_eq!(places.len(), config.layers * Projection::ALL.len());
    let end = places.iter().fold(0, |end, place| {
        assert_eq!(place.offset, end);
        end + place.length
    });
    assert_eq!(end, SPEC.trained_parameters(&config));
}

#[test]
fn full_training_learns_its_examples() {
    let weights = DecoderWeights::initialise(small_config(), 9);
    assert_eq!(weights.values().len() as u64, small_config().parameters());
    let mut trainer = FullTrainer::new(weights, AdamConfig::default(), PromptWeight::new(0.5));
    let examples = examples();
    let borrowed: Vec<&TrainingExample> = examples.iter().collect();
    let first = trainer.step(&borrowed, 0.01);
    for _ in 0..60 {
        trainer.step(&borrowed, 0.01);
    }
    let scores = FrozenDecoder::new(trainer.weights()).score(&examples, 8);
    let last = scores.iter().map(|score| score.loss).sum::<f32>() / scores.len() as f32;
    assert!(first > 3.0 && last < 0.1, "loss went from {first} to {last}");
    assert!(scores.iter().all(|score| score.exact));
}

/// A mechanism without privacy: the mean over fixed batches.
struct PlainMean {
    sum: Vec<f32>,
    batches: Vec<Vec<usize>>,
}

impl GradientMechanism for PlainMean {
    type Error = Infallible;

    fn batch(&mut self, step: u64, examples: usize) -> Vec<usize> {
        assert_eq!(examples, 5);
        self.batches[step as usize % self.batches.len()].clone()
    }

    fn add(&mut self, gradient: &[f32]) -> Result<(), Infallible> {
        self.sum
            .iter_mut()
            .zip(gradient)
            .for_each(|(sum, value)| *sum += value / 5.0);
        Ok(())
    }

    fn finish(&mut self, _step: u64) -> Result<Vec<f32>, Infallible> {
        let fresh = vec![0.0; self.sum.len()];
        Ok(std::mem::replace(&mut self.sum, fresh))
    }
}

fn run_round(
    physical_batch: usize,
    batches: Vec<Vec<usize>>,
    cancelled: &AtomicBool,
) -> Result<Vec<f32>, LocalRoundError<Infallible>> {
    let decoder = lora_decoder();
    let length = decoder.trained_parameters();
    let config = LocalRoundConfig {
        steps: 30,
        learning_rate: 0.02,
        adam: AdamConfig::default(),
        physical_batch: PhysicalBatch::new(physical_batch),
    };
    let round = LocalRound {
        decoder: &decoder,
        examples: &examples(),
        config,
        cancelled,
    };
    round.run(
        &vec![0.0; length],
        &mut PlainMean {
            sum: vec![0.0; length],
            batches,
        },
        |_| (),
    )
}

#[test]
fn a_local_round_lowers_the_loss_and_the_physical_batch_does_not_matter() {
    let running = AtomicBool::new(false);
    let all = vec![vec![0, 1, 2, 3, 4]];
    let state = run_round(16, all.clone(), &running).unwrap();
    let pieces = run_round(2, all, &running).unwrap();
    assert!(relative_distance(&state, &pieces) < 1e-2);
    let (decoder, examples) = (lora_decoder(), examples());
    let mean = |scores: Vec<ExampleScore>| scores.iter().map(|score| score.loss).sum::<f32>() / scores.len() as f32;
    let (before, after) = (
        mean(decoder.decoder().score(&examples, 8)),
        mean(decoder.score(&state, &examples, 8)),
    );
    assert!(after < before - 1.0, "loss went from {before} to {after}");
}

#[test]
fn an_empty_batch_is_a_step_and_a_set_flag_ends_the_round() {
    let state = run_round(4, vec![vec![]], &AtomicBool::new(false)).unwrap();
    assert!(
        state.iter().all(|value| *value == 0.0),
        "without gradients nothing moves"
    );
    let ended = run_round(4, vec![vec![0]], &AtomicBool::new(true));
    assert!(matches!(ended, Err(LocalRoundError::Cancelled { steps: 0 })));
}

#[test]
fn a_state_of_another_length_is_refused() {
    let decoder = lora_decoder();
    let config = LocalRoundConfig {
        steps: 1,
        learning_rate: 0.1,
        adam: AdamConfig::default(),
        physical_batch: PhysicalBatch::new(4),
    };
    let round = LocalRound {
        decoder: &decoder,
        examples: &examples(),
        config,
        cancelled: &AtomicBool::new(false),
    };
    let error = round
        .run(
            &[0.0; 3],
            &mut PlainMean {
                sum: Vec::new(),
                batches: vec![vec![]],
            },
            |_| (),
        )
        .unwrap_err();
    assert!(matches!(error, LocalRoundError::StateLength { found: 3, .. }));
}
