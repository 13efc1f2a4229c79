//! A model of about 50,000 parameters that knows nothing, and examples for it.

use std::path::Path;

use fieldfare_lm::gguf::{Gguf, GgufWriter, TensorSpec, TensorType, Value};

const WIDTH: u64 = 32;
const FEED_FORWARD: u64 = 128;
const VOCABULARY: u64 = 1024;

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

/// Writes a GGUF file with one layer of random weights and the tokenizer of the shipped model.
pub fn write(path: &Path, seed: u64) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/farm-alert/farm-alert-f16.gguf");
    let bytes = std::fs::read(shipped).unwrap();
    let mut metadata = Gguf::parse(&bytes).unwrap().metadata;
    for (key, value) in [
        ("embedding_length", WIDTH),
        ("block_count", 1),
        ("feed_forward_length", FEED_FORWARD),
        ("attention.head_count", 1),
        ("attention.head_count_kv", 1),
        ("attention.key_length", WIDTH),
        ("attention.value_length", WIDTH),
        ("rope.dimension_count", WIDTH),
    ] {
        metadata.set(format!("llama.{key}"), Value::U32(u32::try_from(value).unwrap()));
    }
    let matrix = |name: &str, inputs: u64, outputs: u64| (name.to_owned(), vec![inputs, outputs]);
    let block = |name: &str| format!("blk.0.{name}.weight");
    let shapes = vec![
        matrix("token_embd.weight", WIDTH, VOCABULARY),
        (block("attn_norm"), vec![WIDTH]),
        matrix(&block("attn_q"), WIDTH, WIDTH),
        matrix(&block("attn_k"), WIDTH, WIDTH),
        matrix(&block("attn_v"), WIDTH, WIDTH),
        matrix(&block("attn_output"), WIDTH, WIDTH),
        (block("ffn_norm"), vec![WIDTH]),
        matrix(&block("ffn_gate"), WIDTH, FEED_FORWARD),
        matrix(&block("ffn_up"), WIDTH, FEED_FORWARD),
        matrix(&block("ffn_down"), FEED_FORWARD, WIDTH),
        ("output_norm.weight".to_owned(), vec![WIDTH]),
    ];
    let spec = |(name, dimensions): &(String, Vec<u64>)| TensorSpec {
        name: name.clone(),
        dimensions: dimensions.clone(),
        tensor_type: TensorType::F32,
    };
    let specs: Vec<TensorSpec> = shapes.iter().map(spec).collect();
    let mut writer = GgufWriter::new(Vec::new(), &metadata, &specs).unwrap();
    let mut random = Random(seed);
    for (_, dimensions) in &shapes {
        let is_norm = dimensions.len() == 1;
        let mut weight = || match is_norm {
            true => 1.0_f32,
            false => (random.below(2001) as f32 - 1000.0) / 10_000.0,
        };
        let values = (0..dimensions.iter().product::<u64>()).flat_map(|_| weight().to_le_bytes());
        writer.tensor(&values.collect::<Vec<u8>>()).unwrap();
    }
    std::fs::write(path, writer.finish().unwrap()).unwrap();
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
