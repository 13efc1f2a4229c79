//! Adapters between Fieldfare and PEFT: from the files that we write, Hugging Face's Llama with PEFT computes the engine's
//! logits, and we read what PEFT saves.
//!
//! Reference programs, from PyPI: torch 2.15.0, transformers 5.23.0, peft 0.21.2, gguf 0.19.0. `./test --deep`
//! installs them.
#![cfg(feature = "engine")]
// `allow-unwrap-in-tests` and `allow-print-in-tests` cover test functions, and not what they share.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use fieldfare_lm::adapter::{LoraAdapter, LoraFactors, Projection, peft, permute_rows_from_hf};
use fieldfare_lm::config::DecoderConfig;
use fieldfare_lm::engine::{Engine, Mapping};
use fieldfare_lm::quantize::{Precision, quantize};
use fieldfare_lm::tokenizer::ControlTokens;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Largest distance of two logits, relative to the largest logit of their row.
const TOLERANCE: f32 = 1e-4;

/// Distance by which adapters must move the logits for agreement within the tolerance to say anything.
const VISIBLE: f32 = 0.05;

/// Logits of one sequence: `[tokens][vocabulary]`.
type Logits = Vec<Vec<f32>>;

/// What `peers/peft_logits.py` prints: for each sequence, without and with each adapter.
#[derive(serde::Deserialize)]
struct Reference {
    base: Vec<Logits>,
    adapters: Vec<Vec<Logits>>,
}

/// The environment's word on what to do without data or packages: nothing is skipped with `CI=true`.
#[allow(clippy::disallowed_methods, reason = "tests are configured by the environment")]
fn skip(reason: &str) {
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{reason}");
    println!("skipped: {reason}");
}

/// A file of the shared test data.
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
    skip(&format!("{} is missing", file.display()));
    None
}

/// The interpreter that has the reference programs: `FIELDFARE_PYTHON`, or that of the environment which `./test --deep` makes.
#[allow(clippy::disallowed_methods, reason = "tests are configured by the environment")]
fn python() -> Option<PathBuf> {
    let in_cache = || {
        let cache = std::env::var("XDG_CACHE_HOME").or_else(|_| std::env::var("HOME").map(|home| home + "/.cache"));
        PathBuf::from(cache.unwrap_or_default()).join("fieldfare/venv-deep/bin/python")
    };
    let python = std::env::var("FIELDFARE_PYTHON").map_or_else(|_| in_cache(), PathBuf::from);
    let look = "import sys; from importlib.util import find_spec; \
                sys.exit(' '.join(name for name in sys.argv[1:] if find_spec(name) is None) or 0)";
    let found = Command::new(&python)
        .args(["-c", look, "torch", "transformers", "peft", "gguf"])
        .output();
    let reason = match found {
        Ok(output) if output.status.success() => return Some(python),
        Ok(output) => format!("it lacks {}", String::from_utf8_lossy(&output.stderr).trim()),
        Err(error) => error.to_string(),
    };
    skip(&format!("{}: {reason}", python.display()));
    None
}

/// What transformers and PEFT compute, each adapter from its folder.
fn ask_peft(python: &Path, gguf: &Path, sequences: &[Vec<u32>], folders: &[PathBuf]) -> Reference {
    let output = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/peft_logits.py"))
        .arg(gguf)
        .arg(serde_json::to_string(sequences).unwrap())
        .args(folders)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let reference: Reference = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(reference.adapters.len(), folders.len());
    reference
}

/// Factors on every projection, all elements uniform: A in ±1/√d_in, so that `A x` is of the size of `x`, and B in ±0.1.
fn random_adapter(config: &DecoderConfig, seed: u64) -> LoraAdapter {
    let (rank, mut generator) = (4, ChaCha20Rng::seed_from_u64(seed));
    let mut uniform = |length: usize, bound: f32| -> Vec<f32> {
        (0..length)
            .map(|_| bound * (generator.next_u32() as f32 / (u32::MAX / 2) as f32 - 1.0))
            .collect()
    };
    let mut factors = BTreeMap::new();
    for layer in 0..config.layers {
        for projection in Projection::ALL {
            let (d_in, d_out) = projection.shape(config);
            let a = uniform(rank * d_in, 1.0 / (d_in as f32).sqrt());
            let b = uniform(d_out * rank, 0.1);
            factors.insert((layer, projection), LoraFactors { d_in, d_out, a, b });
        }
    }
    LoraAdapter {
        rank,
        alpha: 8.0,
        factors,
    }
}

/// The adapter whose files hold the given adapter's rows in GGUF's order: what writing would give if it forgot the order.
fn with_rows_left_in_gguf_order(adapter: &LoraAdapter, config: &DecoderConfig) -> LoraAdapter {
    let mut mistaken = adapter.clone();
    for (&(_, projection), factors) in &mut mistaken.factors {
        factors.b = permute_rows_from_hf(&factors.b, adapter.rank, projection, config);
    }
    mistaken
}

fn write(adapter: &LoraAdapter, config: &DecoderConfig, folder: &Path) {
    let files = peft::write(adapter, config, "base").unwrap();
    std::fs::create_dir(folder).unwrap();
    std::fs::write(folder.join(peft::MODEL_FILE), files.model).unwrap();
    std::fs::write(folder.join(peft::CONFIG_FILE), files.config).unwrap();
}

fn read(folder: &Path, config: &DecoderConfig) -> LoraAdapter {
    let model = std::fs::read(folder.join(peft::MODEL_FILE)).unwrap();
    let json = std::fs::read_to_string(folder.join(peft::CONFIG_FILE)).unwrap();
    peft::read(&model, Some(&json), config).unwrap()
}

fn logits(engine: &Engine, sequences: &[Vec<u32>]) -> Vec<Logits> {
    sequences.iter().map(|tokens| engine.logits(tokens).unwrap()).collect()
}

/// The largest distance of two logits of the same token, relative to the largest logit of the left row.
fn distance(left: &[Logits], right: &[Logits]) -> f32 {
    assert_eq!(left.len(), right.len());
    let mut farthest = 0.0_f32;
    for (left, right) in left.iter().zip(right) {
        assert_eq!(left.len(), right.len());
        for (left, right) in left.iter().zip(right) {
            assert_eq!(left.len(), right.len());
            let largest = left.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            for (left, right) in left.iter().zip(right) {
                let apart = (left - right).abs() / largest;
                assert!(apart.is_finite(), "{left} and {right}, relative to {largest}");
                farthest = farthest.max(apart);
            }
        }
    }
    farthest
}

/// Short and long, one token alone, and one longer than what the engine computes at once.
fn sequences(engine: &Engine, text: &str) -> Vec<Vec<u32>> {
    let long = engine.tokenizer().encode_prompt(text, ControlTokens::AsText).unwrap();
    assert!(
        long.len() > fieldfare_lm::limits::PREFILL_CHUNK,
        "{} tokens are too few",
        long.len()
    );
    vec![long[..1].to_vec(), long[..long.len() / 3].to_vec(), long]
}

/// `model` is a Llama in GGUF, of any precision: both sides compute with its weights in F32.
fn assert_peft_agrees(model: &Path, text: &str, seed: u64) {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let gguf = folder.path().join("f32.gguf");
    let mut file = Vec::new();
    quantize(&Arc::new(Mapping::open(model).unwrap()), Precision::F32, &mut file).unwrap();
    std::fs::write(&gguf, &file).unwrap();
    let mut engine = Engine::from_bytes(&file).unwrap();
    let config = engine.config().clone();
    let sequences = sequences(&engine, text);

    let adapter = random_adapter(&config, seed);
    let mistaken = with_rows_left_in_gguf_order(&adapter, &config);
    let folders = ["adapter", "mistaken"].map(|name| folder.path().join(name));
    write(&adapter, &config, &folders[0]);
    write(&mistaken, &config, &folders[1]);
    let reference = ask_peft(&python, &gguf, &sequences, &folders);

    let base = logits(&engine, &sequences);
    engine.set_adapter(Some(&adapter)).unwrap();
    let adapted = logits(&engine, &sequences);
    let measured = [
        ("base", distance(&base, &reference.base)),
        ("adapter", distance(&adapted, &reference.adapters[0])),
        ("adapter against base", distance(&adapted, &reference.base)),
        ("rows left in GGUF's order", distance(&adapted, &reference.adapters[1])),
    ];
    println!("distances from transformers and PEFT: {measured:?}");
    let [base, adapted, moved, unpermuted] = measured.map(|(_, distance)| distance);
    assert!(base <= TOLERANCE, "without adapter, logits are {base} apart");
    assert!(adapted <= TOLERANCE, "with the adapter, logits are {adapted} apart");
    assert!(moved >= VISIBLE, "the adapter moves the logits by {moved} only");
    assert!(
        unpermuted >= VISIBLE,
        "the order of rows moves the logits by {unpermuted} only"
    );
    for (folder, written) in folders.iter().zip([&adapter, &mistaken]) {
        assert!(
            read(&folder.join("saved"), &config) == *written,
            "PEFT saved another adapter"
        );
    }
}

#[test]
#[ignore = "deep tier: needs torch, transformers and peft"]
fn peft_computes_our_logits_on_stories260k() {
    let Some(model) = shared("models/stories260K/stories260K-f32.gguf") else {
        return;
    };
    let text = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. \
                One day, she saw a big, red ball. She wanted to play with it, but it was too high. Lily asked her \
                friend Ben to help, and they found a long stick.";
    assert_peft_agrees(&model, text, 1);
}

#[test]
#[ignore = "deep tier: needs torch, transformers and peft"]
fn peft_computes_our_logits_on_the_shipped_model() {
    let model = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../models/farm-alert/farm-alert-f16.gguf"
    ));
    let text = "At mill-lane the soil moisture of the maize in zone 3 is too low, 12 %, severe.\nMoisture low in Zone 3\n\
                At hill-farm the water of the trough in yard 2 is too warm, 31 degrees, slight.\nTrough warm in Yard 2\n";
    assert_peft_agrees(model, text, 2);
}
