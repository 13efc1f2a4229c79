//! A model of about 50,000 parameters that knows nothing, and examples for it.

use std::path::Path;

use fieldfare_lm::gguf::{Gguf, GgufWriter, TensorSpec, TensorType, Value};

const WIDTH: u64 = 32;
const FEED_FORWARD: u64 = 128;
const VOCABULARY: u64 = 1024;
const EMBEDDING: &str = "token_embd.weight";

/// A SplitMix64 generator (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(
    /// The state: any number is a seed.
    pub u64,
);

impl Random {
    /// The next number.
    #[allow(clippy::should_implement_trait, reason = "it is no iterator: it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What a model is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One layer of random weights.
    Nonsense,
    /// Eight layers, each sixteen times as wide.
    Slow,
    /// Its first word is always that it has ended.
    Mute,
}

/// Writes a GGUF file with one layer of random weights and the tokenizer of the shipped model.
pub fn write(path: &Path, seed: u64) {
    write_kind(path, seed, Kind::Nonsense);
}

/// Writes a GGUF file of this kind with the tokenizer of the shipped model.
pub fn write_kind(path: &Path, seed: u64, kind: Kind) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/farm-alert/farm-alert-f16.gguf");
    let bytes = std::fs::read(shipped).unwrap();
    let mut metadata = Gguf::parse(&bytes).unwrap().metadata;
    let end = metadata.get("tokenizer.ggml.eos_token_id").unwrap();
    let end = match end {
        Value::U32(end) => usize::try_from(*end).unwrap(),
        other => panic!("an end of {other:?}"),
    };
    let (blocks, feed_forward) = match kind {
        Kind::Slow => (8, 16 * FEED_FORWARD),
        Kind::Nonsense | Kind::Mute => (1, FEED_FORWARD),
    };
    for (key, value) in [
        ("embedding_length", WIDTH),
        ("block_count", blocks),
        ("feed_forward_length", feed_forward),
        ("attention.head_count", 1),
        ("attention.head_count_kv", 1),
        ("attention.key_length", WIDTH),
        ("attention.value_length", WIDTH),
        ("rope.dimension_count", WIDTH),
    ] {
        metadata.set(format!("llama.{key}"), Value::U32(u32::try_from(value).unwrap()));
    }
    let mut shapes = vec![(EMBEDDING.to_owned(), vec![WIDTH, VOCABULARY])];
    for block in 0..blocks {
        let named = |name: &str| format!("blk.{block}.{name}.weight");
        shapes.extend([
            (named("attn_norm"), vec![WIDTH]),
            (named("attn_q"), vec![WIDTH, WIDTH]),
            (named("attn_k"), vec![WIDTH, WIDTH]),
            (named("attn_v"), vec![WIDTH, WIDTH]),
            (named("attn_output"), vec![WIDTH, WIDTH]),
            (named("ffn_norm"), vec![WIDTH]),
            (named("ffn_gate"), vec![WIDTH, feed_forward]),
            (named("ffn_up"), vec![WIDTH, feed_forward]),
            (named("ffn_down"), vec![feed_forward, WIDTH]),
        ]);
    }
    shapes.push(("output_norm.weight".to_owned(), vec![WIDTH]));
    let spec = |(name, dimensions): &(String, Vec<u64>)| TensorSpec {
        name: name.clone(),
        dimensions: dimensions.clone(),
        tensor_type: TensorType::F32,
    };
    let specs: Vec<TensorSpec> = shapes.iter().map(spec).collect();
    let mut writer = GgufWriter::new(Vec::new(), &metadata, &specs).unwrap();
    let mut random = Random(seed);
    for (name, dimensions) in &shapes {
        let is_norm = dimensions.len() == 1;
        let mut values: Vec<f32> = (0..dimensions.iter().product::<u64>())
            .map(|_| match is_norm {
                true => 1.0,
                false => (random.below(2001) as f32 - 1000.0) / 10_000.0,
            })
            .collect();
        if kind == Kind::Mute {
            silence(name, &mut values, end);
        }
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        writer.tensor(&bytes).unwrap();
    }
    std::fs::write(path, writer.finish().unwrap()).unwrap();
}

/// Every token points the same way, nothing turns it, and the end of the text lies farthest that way: the embedding is the output, too.
fn silence(name: &str, values: &mut [f32], end: usize) {
    let width = usize::try_from(WIDTH).unwrap();
    if name == EMBEDDING {
        for (token, row) in values.chunks_exact_mut(width).enumerate() {
            row[0] = if token == end { 4.0 } else { 1.0 };
        }
    } else if name.contains("attn_output") || name.contains("ffn_down") {
        values.fill(0.0);
    }
}

/// Examples as JSONL.
pub fn examples(count: usize) -> String {
    let line = |n: usize| {
        format!(
            "{{\"prompt\": \"soil {n} dry\", \"completion\": \"water field {}\"}}\n",
            n % 7
        )
    };
    (0..count).map(line).collect()
}
