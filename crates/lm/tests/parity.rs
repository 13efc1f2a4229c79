//! The engine (candle) and training (burn) compute the same logits from the same F32 weights.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fieldfare_lm::adapter::{LoraAdapter, LoraFactors};
use fieldfare_lm::engine::{Engine, Mapping};
use fieldfare_lm::quantize::{Precision, quantize};
use fieldfare_lm::tokenizer::ControlTokens;
use fieldfare_lm::train::{DecoderWeights, FrozenDecoder, LoraDecoder, LoraSpec, TrainingExample};

/// Largest distance of two logits, relative to the largest logit of their row.
const TOLERANCE: f32 = 1e-4;

/// A file of the shared test data; `None` where it is missing, which is a failure with `CI=true`.
#[allow(clippy::disallowed_methods, reason = "tests are configured by the environment")]
fn shared(path: &str) -> Option<PathBuf> {
    let folder = std::env::var("FIELDFARE_TEST_DATA").map_or_else(
        |_| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")),
        PathBuf::from,
    );
    let file = folder.join(path);
    if file.exists() {
        return Some(file);
    }
    assert_ne!(
        std::env::var("CI").as_deref(),
        Ok("true"),
        "test data are missing: {}",
        file.display()
    );
    println!("skipped: {} is missing", file.display());
    None
}

/// The file with all weights in F32.
fn in_f32(path: &Path) -> Vec<u8> {
    let source = Arc::new(Mapping::open(path).unwrap());
    let mut file = Vec::new();
    quantize(&source, Precision::F32, &mut file).unwrap();
    file
}

fn assert_rows_agree(engine: &[Vec<f32>], trained: &[f32], vocabulary: usize) {
    assert_eq!(engine.len() * vocabulary, trained.len());
    for (position, (engine, trained)) in engine.iter().zip(trained.chunks_exact(vocabulary)).enumerate() {
        let largest = engine.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        for (token, (left, right)) in engine.iter().zip(trained).enumerate() {
            let distance = (left - right).abs() / largest;
            assert!(
                distance <= TOLERANCE,
                "position {position}, token {token}: {left} and {right} are {distance} apart"
            );
        }
    }
}

/// B factors of a size that changes the logits visibly.
fn some_b(length: usize) -> Vec<f32> {
    (0..length)
        .map(|index| 0.1 * ((index * 29 % 83) as f32 / 41.0 - 1.0))
        .collect()
}

/// The engine's adapter with the factors that training would use.
fn adapter(decoder: &LoraDecoder, flat_b: &[f32]) -> LoraAdapter {
    let (spec, config) = (decoder.spec(), decoder.decoder().config());
    let factors = spec.places(config).into_iter().map(|place| {
        let a = spec.factor_a(place.layer, place.projection, config);
        let b = flat_b[place.offset..place.offset + place.length].to_vec();
        (
            (place.layer, place.projection),
            LoraFactors {
                d_in: place.d_in,
                d_out: place.d_out,
                a,
                b,
            },
        )
    });
    LoraAdapter {
        rank: spec.rank,
        alpha: spec.alpha,
        factors: factors.collect(),
    }
}

fn assert_parity(path: &Path, text: &str) {
    let file = in_f32(path);
    let mut engine = Engine::from_bytes(&file).unwrap();
    let tokens = engine.tokenizer().encode_prompt(text, ControlTokens::AsText).unwrap();
    assert!(
        tokens.len() > 20,
        "{} tokens are too few to judge attention by",
        tokens.len()
    );
    let weights = DecoderWeights::from_mapping(&Arc::new(Mapping::from_bytes(&file))).unwrap();
    let frozen = FrozenDecoder::new(&weights);
    let vocabulary = frozen.config().vocabulary;
    assert_rows_agree(&engine.logits(&tokens).unwrap(), &frozen.logits(&tokens), vocabulary);

    let spec = LoraSpec {
        rank: 4,
        alpha: 8.0,
        seed: 21,
    };
    let lora = LoraDecoder::new(frozen, spec);
    let flat_b = some_b(lora.trained_parameters());
    let before = engine.logits(&tokens).unwrap();
    engine.set_adapter(Some(&adapter(&lora, &flat_b))).unwrap();
    let with_adapter = engine.logits(&tokens).unwrap();
    assert_rows_agree(&with_adapter, &lora.logits(&flat_b, &tokens), vocabulary);
    let moved = with_adapter
        .iter()
        .flatten()
        .zip(before.iter().flatten())
        .map(|(a, b)| (a - b).abs());
    assert!(
        moved.fold(0.0, f32::max) > 0.1,
        "the adapter must change what is compared"
    );

    let example = TrainingExample::new(tokens.clone(), tokens.len() / 2, 256).unwrap();
    let score = lora.score(&flat_b, std::slice::from_ref(&example), 1)[0];
    let expected = mean_loss(&with_adapter, &example);
    assert!(
        (score.loss - expected).abs() < 1e-3 * expected,
        "{} and {expected}",
        score.loss
    );
}

/// The mean loss of an example's scored tokens, from the engine's logits.
fn mean_loss(logits: &[Vec<f32>], example: &TrainingExample) -> f32 {
    let losses = (example.scored_from()..example.tokens().len()).map(|position| {
        let row = &logits[position - 1];
        let top = row.iter().copied().fold(f32::MIN, f32::max);
        let sum: f32 = row.iter().map(|value| (value - top).exp()).sum();
        sum.ln() + top - row[example.tokens()[position] as usize]
    });
    losses.sum::<f32>() / example.scored() as f32
}

#[test]
fn stories260k_has_the_same_logits_in_both() {
    let Some(path) = shared("models/stories260K/stories260K-f32.gguf") else {
        return;
    };
    assert_parity(
        &path,
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.",
    );
}

#[test]
fn the_shipped_model_has_the_same_logits_in_both() {
    let path = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../models/farm-alert/farm-alert-f16.gguf"
    ));
    assert_parity(
        path,
        "At mill-lane the soil moisture of the maize in zone 3 is too low, 12 %, severe.\nMoisture low in Zone 3",
    );
}
