mod adapters;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::adapter::{LoraFactors, Projection};
use crate::gguf::{GgufWriter, TensorSpec, TensorType};
use crate::quantize::{Precision, quantize};
use crate::test_data;
use crate::tokenizer::ControlTokens;

const STORY: &str = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, \
                     she saw a big, red ball. She wanted to play with it, but it was too high.";

fn stories() -> Option<Engine> {
    Some(Engine::open(&test_data::find(test_data::STORIES)?).unwrap())
}

fn prompt(engine: &Engine, text: &str) -> Vec<u32> {
    engine.tokenizer().encode_prompt(text, ControlTokens::Parse).unwrap()
}

fn options(max_tokens: usize) -> GenerationOptions {
    GenerationOptions {
        max_tokens,
        ..GenerationOptions::default()
    }
}

fn variant(precision: Precision) -> Option<Vec<u8>> {
    let source = Arc::new(Mapping::open(&test_data::find(test_data::STORIES)?).unwrap());
    let mut file = Vec::new();
    quantize(&source, precision, &mut file).unwrap();
    Some(file)
}

/// Kullback-Leibler divergence of two distributions given by logits, in nats.
fn divergence(reference: &[f32], other: &[f32]) -> f64 {
    let (norm, other_norm) = (sampling::log_sum_exp(reference), sampling::log_sum_exp(other));
    let pairs = reference.iter().zip(other);
    pairs
        .map(|(p, q)| {
            let (p, q) = (f64::from(*p) - norm, f64::from(*q) - other_norm);
            p.exp() * (p - q)
        })
        .sum()
}

#[test]
fn greedy_decoding_tells_the_known_story() {
    let Some(engine) = stories() else { return };
    // llama2.c `run stories260K.bin -t 0` and llama.cpp continue so.
    let generation = engine
        .generate(&prompt(&engine, "Once upon a time"), &options(80))
        .unwrap();
    let expected = STORY.strip_prefix("Once upon a time").unwrap();
    assert!(generation.text.starts_with(expected), "{:?}", generation.text);
    assert_eq!(
        (generation.tokens.len(), generation.reason),
        (80, FinishReason::MaxTokens)
    );
    assert!(
        (0.2..1.0).contains(&generation.confidence()),
        "{}",
        generation.confidence()
    );
}

#[test]
fn the_cache_changes_no_logits() {
    let Some(engine) = stories() else { return };
    let tokens = prompt(&engine, &STORY.repeat(2));
    assert!(tokens.len() > limits::PREFILL_CHUNK, "two chunks at least");
    let together = engine.logits(&tokens).unwrap();
    let mut cache = KvCache::new(engine.config());
    for (token, expected) in tokens.iter().zip(&together) {
        let one = engine.decoder().forward(&mut cache, &[*token], Wanted::Last);
        assert!(
            one.iter()
                .zip(expected)
                .all(|(left, right)| (left - right).abs() < 1e-4)
        );
    }
}

#[test]
fn the_base_model_is_as_good_on_its_own_domain_as_published() {
    let Some(engine) = stories() else { return };
    // 1.23 nats per token over TinyStories is what the test data's own description says of this file; this is one easy text.
    let loss = engine.text_loss(STORY).unwrap();
    assert_eq!(loss.tokens as usize, prompt(&engine, STORY).len() - 1);
    assert!(loss.per_token().unwrap() < 1.23, "{loss:?}");
    let shuffled = engine
        .text_loss("ball park Once too loved high girl day. was it saw a She named")
        .unwrap();
    assert!(shuffled.per_token().unwrap() > 2.0 * loss.per_token().unwrap());
}

/// The farm-alert model ends its sentences, so that it can answer exactly.
#[test]
fn an_answer_is_exact_when_greedy_decoding_writes_just_it() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../models/farm-alert/farm-alert-f16.gguf"
    );
    let engine = Engine::open(Path::new(path)).unwrap();
    let prompt = "notable report from north, zone 2, carrots: leaf wetness falling at 48 min.\n";
    let tokens = engine.tokenizer().encode_prompt(prompt, ControlTokens::Parse).unwrap();
    let options = GenerationOptions {
        sampling: Sampling::Greedy,
        max_tokens: 64,
        stop: Vec::new(),
    };
    let answer = engine.generate(&tokens, &options).unwrap();
    assert_eq!(answer.reason, FinishReason::EndToken);
    let assess = |answer: &str| engine.assess(prompt, answer).unwrap();
    let given = assess(&answer.text);
    assert!(given.exact);
    assert_eq!(given.loss, engine.score(prompt, &answer.text).unwrap());
    // White space at the end makes other tokens, unlikely ones, of the same answer.
    assert!(assess(&format!("{} ", answer.text)).exact);
    let (most, _) = answer.text.split_at(answer.text.len() - 2);
    assert!(!assess(most).exact, "it would have gone on");
    assert!(!assess(&format!("{} Hurry.", answer.text)).exact, "it stopped before");
    assert!(!assess(&format!("x{}", answer.text)).exact);
}

#[test]
fn a_score_counts_the_completion_only_and_depends_on_the_prompt() {
    let Some(engine) = stories() else { return };
    let fitting = engine.score("Once upon a time", ", there was a little girl").unwrap();
    let unfit = engine
        .score("The ball was high and", ", there was a little girl")
        .unwrap();
    assert_eq!(fitting.tokens, unfit.tokens);
    assert!(fitting.nats < unfit.nats);
    let example = engine
        .tokenizer()
        .example("Once upon a time", ", there was a little girl")
        .unwrap();
    let logits = engine.logits(&example.tokens).unwrap();
    let by_hand: f64 = (example.first_target..example.tokens.len())
        .map(|at| sampling::log_sum_exp(&logits[at - 1]) - f64::from(logits[at - 1][example.tokens[at] as usize]))
        .sum();
    assert!((fitting.nats - by_hand).abs() < 1e-6, "{} and {by_hand}", fitting.nats);
}

#[test]
fn every_variant_agrees_with_its_own_dequantised_weights() {
    for precision in [Precision::F16, Precision::Q8_0, Precision::Q4_0] {
        let Some(file) = variant(precision) else { return };
        let quantised = Engine::from_bytes(&file).unwrap();
        let mut exact = Vec::new();
        quantize(&Arc::new(Mapping::from_bytes(&file)), Precision::F32, &mut exact).unwrap();
        let exact = Engine::from_bytes(&exact).unwrap();
        let tokens = prompt(&exact, STORY);
        let (reference, found) = (exact.logits(&tokens).unwrap(), quantised.logits(&tokens).unwrap());
        let sum: f64 = reference
            .iter()
            .zip(&found)
            .map(|(left, right)| divergence(left, right))
            .sum();
        let mean = sum / tokens.len() as f64;
        assert!((0.0..=1e-3).contains(&mean), "{}: {mean}", precision.name());
    }
}

#[test]
fn variants_are_smaller_and_the_coarser_the_worse() {
    let Some(base) = stories() else { return };
    let tokens = prompt(&base, STORY);
    let reference = base.logits(&tokens).unwrap();
    let mut last = (usize::MAX, -1.0);
    for precision in Precision::ALL {
        let Some(file) = variant(precision) else { return };
        let found = Engine::from_bytes(&file).unwrap().logits(&tokens).unwrap();
        let distance: f64 = reference
            .iter()
            .zip(&found)
            .map(|(left, right)| divergence(left, right))
            .sum();
        assert!(
            file.len() < last.0 && distance > last.1,
            "{}: {} bytes, {distance}",
            precision.name(),
            file.len()
        );
        last = (file.len(), distance);
    }
}

#[test]
fn a_variant_keeps_what_cannot_be_quantised_and_all_metadata() {
    let Some(file) = variant(Precision::Q4_0) else { return };
    let gguf = Gguf::parse(&file).unwrap();
    let type_of = |name: &str| gguf.tensor(name).unwrap().tensor_type;
    assert_eq!(type_of("blk.0.attn_q.weight"), TensorType::Q4_0);
    assert_eq!(
        type_of("blk.0.ffn_down.weight"),
        TensorType::F16,
        "rows of 172 are no whole number of blocks"
    );
    assert_eq!(type_of("blk.0.attn_norm.weight"), TensorType::F32);
    assert_eq!(type_of("output.weight"), TensorType::Q8_0);
    let source = std::fs::read(test_data::find(test_data::STORIES).unwrap()).unwrap();
    let source = Gguf::parse(&source).unwrap();
    for (key, value) in source.metadata.iter().filter(|(key, _)| *key != "general.file_type") {
        assert_eq!(gguf.metadata.get(key), Some(value));
    }
}

#[test]
fn generation_ends_at_its_limits() {
    let Some(engine) = stories() else { return };
    let start = prompt(&engine, "Once upon a time");
    let stop = GenerationOptions {
        stop: vec![" girl".into()],
        ..options(80)
    };
    let stopped = engine.generate(&start, &stop).unwrap();
    assert_eq!(
        (stopped.text.as_str(), stopped.reason),
        (", there was a little", FinishReason::StopString)
    );
    assert!(engine.generate(&start, &options(0)).unwrap().tokens.is_empty());
    let full: Vec<u32> = start
        .iter()
        .copied()
        .cycle()
        .take(engine.config().context - 2)
        .collect();
    let generation = engine.generate(&full, &options(80)).unwrap();
    assert_eq!(
        (generation.tokens.len(), generation.reason),
        (3, FinishReason::ContextFull)
    );
    assert_eq!(engine.session(&[], &options(1)).unwrap_err(), RunError::Empty);
    let found = engine.config().context + 1;
    let error = engine.session(&vec![1; found], &options(1)).unwrap_err();
    assert_eq!(
        error,
        RunError::ContextExceeded {
            found,
            limit: found - 1
        }
    );
    assert_eq!(
        engine.logits(&[512]).unwrap_err(),
        RunError::UnknownToken {
            token: 512,
            vocabulary: 512
        }
    );
    let stops = GenerationOptions {
        stop: vec!["x".into(); 17],
        ..options(1)
    };
    assert_eq!(
        engine.session(&start, &stops).unwrap_err(),
        RunError::StopStrings { found: 17 }
    );
}

#[test]
fn a_seed_repeats_a_text_and_streams_do_not_disturb_each_other() {
    let Some(engine) = stories() else { return };
    let start = prompt(&engine, "Once upon a time");
    let with_seed = |seed| GenerationOptions {
        sampling: Sampling::from_temperature(1.0, 0.9, seed),
        ..options(24)
    };
    let alone = engine.generate(&start, &with_seed(7)).unwrap();
    assert_ne!(alone.tokens, engine.generate(&start, &with_seed(8)).unwrap().tokens);
    let mut sessions = [7, 8].map(|seed| engine.session(&start, &with_seed(seed)).unwrap());
    for _ in 0..40 {
        for session in &mut sessions {
            session.step().unwrap();
        }
    }
    assert_eq!(sessions[0].tokens(), alone.tokens);
    assert_eq!(sessions[0].confidence(), alone.confidence());
}

#[test]
fn weights_that_are_not_the_decoders_are_refused_by_name() {
    let Some(path) = test_data::find(test_data::STORIES) else {
        return;
    };
    let file = std::fs::read(path).unwrap();
    let renamed = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let mut changed = file.clone();
        let at = changed
            .windows(from.len())
            .rposition(|window| window == from.as_bytes())
            .unwrap();
        changed[at..at + from.len()].copy_from_slice(to.as_bytes());
        Engine::from_bytes(&changed).unwrap_err().to_string()
    };
    assert_eq!(
        renamed("blk.3.ffn_up.weight", "blk.3.ffn_xx.weight"),
        "tensor blk.3.ffn_up.weight is missing"
    );
    assert!(renamed("output.weight", "outptt.weight").contains("tensor outptt.weight is not part of"));
    assert!(renamed("llama.block_count", "llama.block_coont").contains("llama.block_count is missing"));
    assert!(
        Engine::open(Path::new("/nonexistent.gguf"))
            .unwrap_err()
            .to_string()
            .contains("/nonexistent.gguf")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn attack_no_flipped_byte_of_a_header_makes_the_engine_panic(at in 0_usize..15_000, flip in 1_u8..=255) {
        let Some(path) = test_data::find(test_data::STORIES) else { return Ok(()) };
        let mut file = std::fs::read(path).unwrap();
        file[at] ^= flip;
        if let Ok(engine) = Engine::from_bytes(&file) {
            let _ = engine.logits(&[1, 2, 3]);
            let _ = engine.text_loss("Once upon");
        }
    }
}
