//! The trained model as a GGUF file.

use std::io::Write;

use fieldfare_lm::gguf::{Array, GgufWriter, Metadata, TensorSpec, TensorType, Value, WriteError};
use fieldfare_lm::train::{DecoderWeights, WeightPlace};

use super::pieces::Pieces;

/// A conversation is its messages, one a line: the reading is the prompt, and what follows its line feed is the alert.
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ message['content'] | trim }}\n{% endfor %}";

/// How the matrices of an exported model are stored. Norms are always F32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// Four bytes a number.
    F32,
    /// Two bytes a number.
    F16,
}

/// The metadata of a model with this vocabulary: names, shape, tokenizer and chat template.
pub(super) fn metadata(config: &fieldfare_lm::config::DecoderConfig, pieces: &Pieces) -> Metadata {
    let mut metadata = Metadata::new();
    config.write_metadata(&mut metadata);
    let mut set = |key: &str, value: Value| metadata.set(key, value);
    set("general.name", Value::String("farm-alert".to_owned()));
    set("general.license", Value::String("apache-2.0".to_owned()));
    set("tokenizer.ggml.model", Value::String("llama".to_owned()));
    set("tokenizer.ggml.pre", Value::String("default".to_owned()));
    let pieces = pieces.as_slice();
    set(
        "tokenizer.ggml.tokens",
        array(pieces.iter().map(|piece| piece.text.clone()).collect(), Array::String),
    );
    set(
        "tokenizer.ggml.scores",
        array(pieces.iter().map(|piece| piece.score).collect(), Array::F32),
    );
    set(
        "tokenizer.ggml.token_type",
        array(pieces.iter().map(|piece| piece.kind as i32).collect(), Array::I32),
    );
    set("tokenizer.ggml.unknown_token_id", Value::U32(0));
    set("tokenizer.ggml.bos_token_id", Value::U32(Pieces::BEGIN));
    set("tokenizer.ggml.eos_token_id", Value::U32(Pieces::END));
    set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    set("tokenizer.ggml.add_eos_token", Value::Bool(false));
    set("tokenizer.ggml.add_space_prefix", Value::Bool(false));
    set("tokenizer.chat_template", Value::String(CHAT_TEMPLATE.to_owned()));
    metadata
}

fn array<T>(elements: Vec<T>, kind: fn(Vec<T>) -> Array) -> Value {
    Value::Array(kind(elements))
}

/// Writes the model.
///
/// # Errors
/// When `out` cannot be written.
pub(super) fn write(
    out: impl Write,
    metadata: &Metadata,
    weights: &DecoderWeights,
    storage: Storage,
) -> Result<(), WriteError> {
    let mut metadata = metadata.clone();
    metadata.set(
        "general.file_type",
        Value::U32(if storage == Storage::F16 { 1 } else { 0 }),
    );
    let specs: Vec<TensorSpec> = weights.places().iter().map(|place| spec(place, storage)).collect();
    let mut writer = GgufWriter::new(out, &metadata, &specs)?;
    for (place, spec) in weights.places().iter().zip(&specs) {
        let values = weights.tensor(place).iter();
        let bytes: Vec<u8> = match spec.tensor_type {
            TensorType::F16 => values
                .flat_map(|value| half::f16::from_f32(*value).to_le_bytes())
                .collect(),
            _ => values.flat_map(|value| value.to_le_bytes()).collect(),
        };
        writer.tensor(&bytes)?;
    }
    writer.finish()?;
    Ok(())
}

fn spec(place: &WeightPlace, storage: Storage) -> TensorSpec {
    let (rows, columns) = (place.rows as u64, place.columns as u64);
    let tensor_type = if storage == Storage::F16 && !place.is_norm() {
        TensorType::F16
    } else {
        TensorType::F32
    };
    let dimensions = if place.is_norm() {
        vec![columns]
    } else {
        vec![columns, rows]
    };
    TensorSpec {
        name: place.name.clone(),
        dimensions,
        tensor_type,
    }
}
