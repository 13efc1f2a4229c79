use super::*;
use crate::gguf::Value;

/// Llama-2-7B as its GGUF describes it.
pub(crate) fn llama_2_7b() -> Gguf {
    let mut metadata = Metadata::new();
    for (key, value) in [
        ("context_length", 4096),
        ("embedding_length", 4096),
        ("block_count", 32),
        ("feed_forward_length", 11008),
        ("attention.head_count", 32),
        ("attention.head_count_kv", 32),
        ("rope.dimension_count", 128),
        ("vocab_size", 32000),
    ] {
        metadata.set(format!("llama.{key}"), Value::U32(value));
    }
    metadata.set("general.architecture", Value::String("llama".to_owned()));
    metadata.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    Gguf {
        version: 3,
        alignment: 32,
        metadata,
        tensors: Vec::new(),
        data_offset: 0,
    }
}

#[test]
fn llama_2_7b_has_the_published_size() {
    let mut config = DecoderConfig::from_gguf(&llama_2_7b()).unwrap();
    config.tied_embeddings = false;
    // 6,738,415,616: sum over the safetensors index of meta-llama/Llama-2-7b-hf.
    assert_eq!(config.parameters(), 6_738_415_616);
    assert_eq!(config.kv_bytes_per_token(), 2 * 32 * 4096 * 4);
    assert_eq!(
        config.flops_per_token(0),
        2 * (6_738_415_616 - 32000 * 4096 - 65 * 4096) + 4 * 32 * 4096
    );
}

#[test]
fn written_metadata_are_read_back() {
    let gguf = llama_2_7b();
    let config = DecoderConfig::from_gguf(&gguf).unwrap();
    let mut metadata = Metadata::new();
    config.write_metadata(&mut metadata);
    assert_eq!(DecoderConfig::from_gguf(&Gguf { metadata, ..gguf }).unwrap(), config);
}

#[test]
fn the_largest_shape_is_counted_and_one_more_is_refused() {
    let of = |changes: &[(&str, u64)]| {
        let mut gguf = llama_2_7b();
        gguf.metadata
            .set("general.architecture", Value::String("qwen3".to_owned()));
        gguf.metadata
            .set("qwen3.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
        let largest = [
            ("context_length", limits::MAX_CONTEXT),
            ("embedding_length", limits::MAX_WIDTH),
            ("block_count", limits::MAX_LAYERS),
            ("feed_forward_length", limits::MAX_WIDTH),
            ("attention.head_count", limits::MAX_HEADS),
            ("attention.key_length", limits::MAX_WIDTH / limits::MAX_HEADS),
            ("vocab_size", limits::MAX_VOCABULARY as u64),
        ];
        for (key, value) in largest.iter().chain(changes) {
            gguf.metadata.set(format!("qwen3.{key}"), Value::U64(*value));
        }
        DecoderConfig::from_gguf(&gguf)
    };
    let config = of(&[]).unwrap();
    let memory = crate::memory::ServingMemory::predict(&config, limits::MAX_FILE_BYTES, limits::MAX_CONTEXT);
    assert!(memory.total() > memory.kv_cache && config.flops_per_token(limits::MAX_CONTEXT) > config.parameters());
    for (key, limit) in [
        ("context_length", limits::MAX_CONTEXT),
        ("embedding_length", limits::MAX_WIDTH),
        ("block_count", limits::MAX_LAYERS),
        ("feed_forward_length", limits::MAX_WIDTH),
        ("attention.head_count", limits::MAX_HEADS),
        ("attention.key_length", limits::MAX_WIDTH / limits::MAX_HEADS),
        ("vocab_size", limits::MAX_VOCABULARY as u64),
    ] {
        let error = of(&[(key, limit + 1)]).unwrap_err();
        assert!(matches!(error, ConfigError::OutOfRange { .. }), "{key}: {error}");
    }
}

#[test]
fn impossible_shapes_are_refused_with_the_key() {
    let cases = [
        ("llama.embedding_length", Value::U32(0), "embedding_length is 0"),
        (
            "llama.embedding_length",
            Value::U64(u64::MAX),
            "embedding_length is 18446744073709551615",
        ),
        ("llama.embedding_length", Value::U32(4095), "do not make the width 4095"),
        ("llama.expert_count", Value::U32(8), "expert_count: it is 8"),
        (
            "llama.block_count",
            Value::U32(5000),
            "block_count is 5000, expected 1 to 1024",
        ),
        (
            "llama.attention.head_count_kv",
            Value::U32(5),
            "5 key-value heads do not divide 32",
        ),
        (
            "llama.attention.layer_norm_rms_epsilon",
            Value::F32(f32::NAN),
            "layer_norm_rms_epsilon: it is NaN",
        ),
        (
            "llama.rope.dimension_count",
            Value::U32(129),
            "expected an even number of at most 128",
        ),
        ("llama.rope.freq_base", Value::F32(-1.0), "rope.freq_base: it is -1"),
        (
            "llama.rope.scaling.type",
            Value::String("yarn".into()),
            "\"yarn\", expected",
        ),
        (
            "llama.context_length",
            Value::String("long".into()),
            "context_length has the type String",
        ),
        (
            "general.architecture",
            Value::String("mamba".into()),
            "general.architecture is \"mamba\"",
        ),
    ];
    for (key, value, expected) in cases {
        let mut gguf = llama_2_7b();
        gguf.metadata.set(key, value);
        let error = DecoderConfig::from_gguf(&gguf).unwrap_err().to_string();
        assert!(error.contains(expected), "{key}: {error}");
    }
}
