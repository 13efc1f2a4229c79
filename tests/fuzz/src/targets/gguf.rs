//! GGUF headers, and the shape of a decoder that their metadata claim.

use fieldfare_lm::config::DecoderConfig;
use fieldfare_lm::gguf::{Array, Gguf, GgufWriter, Metadata, TensorSpec, TensorType, Value};
use fieldfare_lm::limits::MAX_FILE_BYTES;
use fieldfare_lm::memory::{Footprint, ServingMemory};

use super::failed;
use crate::dice::Dice;
use crate::{Bound, Target};

pub(super) const TARGET: Target = Target {
    name: "gguf",
    seeds: || {
        vec![
            small(&Metadata::new(), &[]),
            file(&decoder(), &tensors()),
            file(&all_kinds(), &[]),
        ]
    },
    invent: Some(claims),
    take,
    // A string of one byte takes nine in the file, and a header and its own allocation in memory; the writer holds the whole once more.
    bound: Bound {
        base: 64 << 10,
        per_byte: 32,
    },
    words: &[
        b"GGUF",
        b"\x07\0\0\0\0\0\0\0",
        b"general.alignment",
        b"general.architecture",
        b"llama.block_count",
        b"\x08\0\0\0",
        b"\x09\0\0\0",
        b"\x0a\0\0\0",
    ],
    inputs: 40_000,
};

/// A file of these metadata and tensors, whose bytes are zeroes.
pub fn file(metadata: &Metadata, tensors: &[TensorSpec]) -> Vec<u8> {
    let mut writer = GgufWriter::new(Vec::new(), metadata, tensors).unwrap();
    for tensor in tensors {
        writer.tensor(&vec![0; tensor.bytes().unwrap() as usize]).unwrap();
    }
    writer.finish().unwrap()
}

fn small(metadata: &Metadata, tensors: &[TensorSpec]) -> Vec<u8> {
    file(metadata, tensors)
}

/// A decoder of one layer, four wide.
pub fn decoder() -> Metadata {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String("llama".to_owned()));
    for (key, value) in SIZES.into_iter().zip([32, 4, 1, 8, 2, 1, 2, 2, 16]) {
        metadata.set(format!("llama.{key}"), Value::U32(value));
    }
    metadata.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    metadata
}

const SIZES: [&str; 9] = [
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "rope.dimension_count",
    "vocab_size",
];

fn tensors() -> Vec<TensorSpec> {
    let tensor = |name: &str, dimensions: &[u64], tensor_type| TensorSpec {
        name: name.to_owned(),
        dimensions: dimensions.to_vec(),
        tensor_type,
    };
    vec![
        tensor("token_embd.weight", &[4, 16], TensorType::F16),
        tensor("output_norm.weight", &[4], TensorType::F32),
        tensor("blk.0.ffn_up.weight", &[32, 2], TensorType::Q4_0),
    ]
}

fn all_kinds() -> Metadata {
    let mut metadata = Metadata::new();
    let values = [
        Value::U8(1),
        Value::I8(-1),
        Value::U16(2),
        Value::I16(-2),
        Value::I32(-3),
        Value::F32(0.5),
        Value::Bool(true),
        Value::String("text".to_owned()),
        Value::U64(u64::MAX),
        Value::I64(i64::MIN),
        Value::F64(-0.25),
        Value::Array(Array::String(vec!["a".to_owned(), String::new()])),
        Value::Array(Array::Array(vec![Array::U8(vec![1]), Array::Bool(vec![false])])),
        Value::Array(Array::I32(vec![1, 2, 3])),
    ];
    for (index, value) in values.into_iter().enumerate() {
        metadata.set(format!("key.{index}"), value);
    }
    metadata.set("general.alignment", Value::U32(8));
    metadata
}

/// A decoder that claims sizes at which sums and products go wrong.
fn claims(dice: &mut Dice) -> Vec<u8> {
    let mut metadata = decoder();
    let family = *dice.one(&["llama", "qwen2", "qwen3", "phi2", "phi3", "gemma", "gemma2"]);
    metadata.set("general.architecture", Value::String(family.to_owned()));
    metadata.set(format!("{family}.attention.layer_norm_rms_epsilon"), Value::F32(1e-5));
    for (index, key) in SIZES.into_iter().enumerate() {
        let value = match dice.below(4) {
            0 => [32, 4, 1, 8, 2, 1, 2, 2, 16][index],
            1 => dice.edge(),
            // Powers of two pass the checks on multiples.
            _ => 1 << dice.below(32),
        };
        metadata.set(format!("{family}.{key}"), Value::U64(value));
    }
    if dice.below(2) == 0 {
        let (heads, width) = (1_u64 << dice.below(11), 1_u64 << dice.below(31));
        metadata.set(format!("{family}.attention.head_count"), Value::U64(heads));
        metadata.set(format!("{family}.attention.head_count_kv"), Value::U64(heads));
        metadata.set(format!("{family}.attention.key_length"), Value::U64(width));
        metadata.set(format!("{family}.embedding_length"), Value::U64(heads * width));
        metadata.set(format!("{family}.rope.dimension_count"), Value::U64(2));
    }
    file(&metadata, &[])
}

fn take(bytes: &[u8]) -> String {
    let parsed = Gguf::parse(bytes);
    // A prefix says the same as the whole, or asks for more.
    let cut = bytes.len() * 2 / 3;
    match (Gguf::parse_header(&bytes[..cut], bytes.len() as u64), &parsed) {
        (Err(error), _) if error.needs_more_bytes() => {}
        (prefix, whole) => assert_eq!(format!("{prefix:?}"), format!("{whole:?}"), "the first {cut} bytes"),
    }
    // Whoever serves a file may claim any length of it.
    for length in [u64::MAX, MAX_FILE_BYTES, 1 << 40] {
        if let Ok(claimed) = Gguf::parse_header(bytes, length) {
            let _ = (shape(&claimed), Footprint::of(&claimed));
        }
    }
    let gguf = match parsed {
        Ok(gguf) => gguf,
        Err(error) => return failed(&error),
    };
    for tensor in &gguf.tensors {
        assert!(
            gguf.tensor_bytes(bytes, tensor).is_some(),
            "{tensor:?} is not in the file"
        );
        assert!(tensor.elements() > 0);
    }
    // What was read is written, read again, and written in the same bytes.
    let header = |gguf: &Gguf| {
        let spec = |tensor: &fieldfare_lm::gguf::TensorInfo| TensorSpec {
            name: tensor.name.clone(),
            dimensions: tensor.dimensions.clone(),
            tensor_type: tensor.tensor_type,
        };
        let specs: Vec<TensorSpec> = gguf.tensors.iter().map(spec).collect();
        let mut written = Vec::new();
        GgufWriter::new(&mut written, &gguf.metadata, &specs).unwrap();
        written
    };
    let written = header(&gguf);
    let again = Gguf::parse_header(&written, MAX_FILE_BYTES).unwrap();
    assert_eq!(header(&again), written);
    assert_eq!(again.tensors.len(), gguf.tensors.len());
    shape(&gguf)
}

/// Everything that is computed from a header before its weights are looked at.
fn shape(gguf: &Gguf) -> String {
    let footprint = Footprint::of(gguf);
    assert!(footprint.bytes_per_token <= footprint.weight_bytes);
    match DecoderConfig::from_gguf(gguf) {
        Ok(config) => {
            let context = config.context as u64;
            let memory = ServingMemory::predict(&config, footprint.weight_bytes, context);
            assert!(memory.total() >= memory.kv_cache);
            assert!(config.parameters() >= config.multiplied_parameters());
            assert!(config.flops_per_token(context) > 0);
            "a decoder".to_owned()
        }
        Err(error) => failed(&error),
    }
}
