//! The engine (candle) and training (burn) compute the same logits from the same F32 weights, and training takes the
//! memory that was predicted.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests fail by panicking and say what they skip"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fieldfare_lm::adapter::{LoraAdapter, LoraFactors};
use fieldfare_lm::config::{Architecture, DecoderConfig, Rope, RopePairing};
use fieldfare_lm::engine::{Engine, Mapping};
use fieldfare_lm::quantize::{Precision, quantize};
use fieldfare_lm::tokenizer::ControlTokens;
use fieldfare_lm::train::memory::{PhysicalBatch, training_bytes};
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

/// A decoder large enough for its activations to outweigh the process: 7 million parameters.
fn measured_config() -> DecoderConfig {
    DecoderConfig {
        architecture: Architecture::Llama,
        width: 288,
        layers: 6,
        heads: 6,
        kv_heads: 6,
        head_width: 48,
        feed_forward: 768,
        vocabulary: 2_000,
        context: 256,
        norm_epsilon: 1e-5,
        rope: Rope {
            theta: 10_000.0,
            dimensions: 48,
            position_divisor: 1.0,
            pairing: RopePairing::Interleaved,
        },
        tied_embeddings: true,
    }
}

const MEASURED_SPEC: LoraSpec = LoraSpec {
    rank: 8,
    alpha: 16.0,
    seed: 3,
};

/// Examples at once, and tokens of each.
const MEASURED_BATCHES: [(usize, usize); 3] = [(1, 32), (8, 64), (8, 128)];

/// Runs in a process of its own, for the test below: trains one batch and prints the peak of resident bytes.
#[test]
#[ignore = "measures the whole process, so it needs one of its own"]
#[allow(
    clippy::disallowed_methods,
    reason = "the parent says by the environment which batch to train"
)]
fn child_trains_one_batch() {
    let batch: usize = std::env::var("FIELDFARE_TEST_BATCH").unwrap().parse().unwrap();
    let (examples, length) = MEASURED_BATCHES[batch];
    let weights = DecoderWeights::initialise(measured_config(), 1);
    let decoder = LoraDecoder::new(FrozenDecoder::new(&weights), MEASURED_SPEC);
    drop(weights);
    let tokens = |seed: usize| (0..length).map(|index| ((seed + index * 13) % 2_000) as u32).collect();
    let examples: Vec<TrainingExample> = (0..examples)
        .map(|seed| TrainingExample::new(tokens(seed), length / 2, length).unwrap())
        .collect();
    let borrowed: Vec<&TrainingExample> = examples.iter().collect();
    let state = vec![0.01; decoder.trained_parameters()];
    for _ in 0..2 {
        assert_eq!(decoder.per_example_gradients(&state, &borrowed).len(), examples.len());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    println!("{peak}");
}

/// The peak of a child process that trains one of the measured batches.
fn measured_peak(batch: usize) -> u64 {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_trains_one_batch", "--ignored", "--nocapture"])
        .env("FIELDFARE_TEST_BATCH", batch.to_string())
        .env("RAYON_NUM_THREADS", "1")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.split_once("VmHWM:"))
        .unwrap_or_else(|| panic!("no peak in {text:?}"))
        .1;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

#[test]
#[cfg(target_os = "linux")]
fn training_takes_at_most_the_predicted_memory_and_at_least_half_of_it() {
    for (batch, (examples, length)) in MEASURED_BATCHES.into_iter().enumerate() {
        let predicted = training_bytes(&measured_config(), &MEASURED_SPEC, PhysicalBatch::new(examples), length);
        let measured = measured_peak(batch);
        println!("{examples} examples of {length} tokens: predicted {predicted}, measured {measured}");
        assert!(
            measured <= predicted,
            "{examples} of {length} tokens take {measured} bytes, {predicted} were predicted"
        );
        assert!(
            measured * 2 >= predicted,
            "{examples} of {length} tokens take {measured} bytes only, of {predicted}"
        );
    }
}
