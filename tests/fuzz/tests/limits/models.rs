//! GGUF, vocabularies, templates and adapters.

use std::collections::BTreeMap;
use std::io::Read;

use fieldfare_fuzz::memory;
use fieldfare_fuzz::sample::{decoder, gguf};
use fieldfare_lm::adapter::peft::{AdapterError, read, write};
use fieldfare_lm::adapter::{AdapterMismatch, LoraAdapter, LoraFactors, Projection};
use fieldfare_lm::config::DecoderConfig;
use fieldfare_lm::gguf::{Array, Gguf, GgufError, GgufWriter, HeaderError, Metadata, TensorSpec, TensorType, Value};
use fieldfare_lm::limits::*;
use fieldfare_lm::tokenizer::{
    ChatMessage, ChatTemplate, ControlTokens, EncodeError, Position, TemplateError, Tokenizer, TokenizerError,
};

/// What the reader says of a header whose tensors lie in a file as long as may be.
fn header(metadata: &Metadata, tensors: &[TensorSpec]) -> Result<Gguf, GgufError> {
    let mut bytes = Vec::new();
    GgufWriter::new(&mut bytes, metadata, tensors).unwrap();
    Gguf::parse_header(&bytes, MAX_FILE_BYTES)
}

fn with(entries: impl IntoIterator<Item = (String, Value)>) -> Metadata {
    let mut metadata = Metadata::new();
    for (key, value) in entries {
        metadata.set(key, value);
    }
    metadata
}

fn tensor(name: &str, dimensions: &[u64]) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        dimensions: dimensions.to_vec(),
        tensor_type: TensorType::I8,
    }
}

#[track_caller]
fn too_large(parsed: Result<Gguf, GgufError>, limit: u64) {
    match parsed {
        Err(GgufError::TooLarge { found, limit: said, .. }) => assert_eq!((found > said, said), (true, limit)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn metadata() {
    // The writer sorts and sets one by one, so a header of many entries is put together by hand.
    let entries = |count: u64| {
        let mut bytes = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        bytes.extend(count.to_le_bytes());
        for index in 0..count {
            bytes.extend(
                [
                    &8_u64.to_le_bytes()[..],
                    format!("{index:08}").as_bytes(),
                    &0_u32.to_le_bytes(),
                    &[1],
                ]
                .concat(),
            );
        }
        Gguf::parse_header(&bytes, MAX_FILE_BYTES)
    };
    assert_eq!(
        entries(MAX_METADATA_ENTRIES).unwrap().metadata.len() as u64,
        MAX_METADATA_ENTRIES
    );
    too_large(entries(MAX_METADATA_ENTRIES + 1), MAX_METADATA_ENTRIES);

    let one = |key: &str, value: Value| header(&with([(key.to_owned(), value)]), &[]);
    let text = |length: u64| "x".repeat(length as usize);
    for (extra, is_read) in [(0, true), (1, false)] {
        let cases = [
            (one(&text(MAX_KEY_BYTES + extra), Value::U8(1)), MAX_KEY_BYTES),
            (
                one("k", Value::String(text(MAX_STRING_BYTES + extra))),
                MAX_STRING_BYTES,
            ),
            (
                one(
                    "k",
                    Value::Array(Array::U8(vec![0; (MAX_ARRAY_ELEMENTS + extra) as usize])),
                ),
                MAX_ARRAY_ELEMENTS,
            ),
            (
                one("general.alignment", Value::U64(MAX_ALIGNMENT << extra)),
                MAX_ALIGNMENT,
            ),
        ];
        for (parsed, limit) in cases {
            match is_read {
                true => assert!(parsed.is_ok(), "{limit}"),
                false => too_large(parsed, limit),
            }
        }
    }
    let nested = |depth: u32| (1..depth).fold(Array::U8(vec![1]), |inside, _| Array::Array(vec![inside]));
    assert!(one("k", Value::Array(nested(MAX_ARRAY_NESTING))).is_ok());
    too_large(
        one("k", Value::Array(nested(MAX_ARRAY_NESTING + 1))),
        MAX_ARRAY_NESTING.into(),
    );
}

#[test]
fn tensors() {
    let many = |count: u64| {
        let specs: Vec<TensorSpec> = (0..count).map(|index| tensor(&index.to_string(), &[1])).collect();
        header(&Metadata::new(), &specs)
    };
    assert_eq!(many(MAX_TENSORS).unwrap().tensors.len() as u64, MAX_TENSORS);
    too_large(many(MAX_TENSORS + 1), MAX_TENSORS);
    let one = |name: &str, dimensions: &[u64]| header(&Metadata::new(), &[tensor(name, dimensions)]);
    let name = "x".repeat(MAX_TENSOR_NAME_BYTES as usize);
    assert!(one(&name, &[1]).is_ok());
    too_large(one(&format!("{name}x"), &[1]), MAX_TENSOR_NAME_BYTES);
    assert!(one("t", &[1; MAX_TENSOR_DIMENSIONS as usize]).is_ok());
    too_large(
        one("t", &[1; MAX_TENSOR_DIMENSIONS as usize + 1]),
        MAX_TENSOR_DIMENSIONS.into(),
    );
    assert!(one("t", &[MAX_DIMENSION]).is_ok());
    too_large(one("t", &[MAX_DIMENSION + 1]), MAX_DIMENSION);
    let file = gguf(&decoder(), &[]);
    assert!(Gguf::parse_header(&file, MAX_FILE_BYTES).is_ok());
    too_large(Gguf::parse_header(&file, MAX_FILE_BYTES + 1), MAX_FILE_BYTES);
}

#[test]
fn the_prefix_of_a_file_that_is_read_for_its_header() {
    // Arrays of four million bytes each but the last.
    let of = |length: u64| {
        let mut bytes = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        let array = 8 + 2 + 4 + 4 + 8;
        let whole = (length - 24) / (array + MAX_ARRAY_ELEMENTS);
        let rest = (length - 24) % (array + MAX_ARRAY_ELEMENTS);
        bytes.extend((whole + 1).to_le_bytes());
        for (index, elements) in (0..whole).map(|_| MAX_ARRAY_ELEMENTS).chain([rest - array]).enumerate() {
            bytes.extend(
                [
                    &2_u64.to_le_bytes()[..],
                    format!("{index:02}").as_bytes(),
                    &9_u32.to_le_bytes(),
                ]
                .concat(),
            );
            bytes.extend([&0_u32.to_le_bytes()[..], &elements.to_le_bytes()].concat());
            bytes.resize(bytes.len() + elements as usize, 0);
        }
        assert_eq!(bytes.len() as u64, length);
        bytes
    };
    let read = |bytes: &[u8]| Gguf::read_header(&mut bytes.chain(std::io::repeat(0)), MAX_FILE_BYTES);
    assert!(read(&of(MAX_GGUF_HEADER_BYTES)).is_ok());
    let beyond = read(&of(MAX_GGUF_HEADER_BYTES + 1));
    assert!(
        matches!(
            beyond,
            Err(HeaderError::Gguf(GgufError::Truncated {
                at: MAX_GGUF_HEADER_BYTES,
                ..
            }))
        ),
        "{beyond:?}"
    );
}

fn vocabulary(tokens: usize) -> Metadata {
    let names = (0..tokens).map(|token| if token == 0 { "x".to_owned() } else { String::new() });
    with([
        ("tokenizer.ggml.model".to_owned(), Value::String("llama".to_owned())),
        (
            "tokenizer.ggml.tokens".to_owned(),
            Value::Array(Array::String(names.collect())),
        ),
        ("tokenizer.ggml.add_space_prefix".to_owned(), Value::Bool(false)),
    ])
}

#[test]
fn vocabularies_and_texts() {
    assert!(Tokenizer::from_metadata(&vocabulary(MAX_VOCABULARY)).is_ok());
    let beyond = Tokenizer::from_metadata(&vocabulary(MAX_VOCABULARY + 1)).unwrap_err();
    assert!(matches!(beyond, TokenizerError::Invalid { .. }), "{beyond}");
    let tokenizer = Tokenizer::from_metadata(&vocabulary(2)).unwrap();
    let encode = |length: usize| tokenizer.encode(&"x".repeat(length), ControlTokens::AsText, Position::Start);
    assert_eq!(encode(MAX_TEXT_BYTES).unwrap().len(), MAX_TEXT_BYTES);
    assert_eq!(
        encode(MAX_TEXT_BYTES + 1),
        Err(EncodeError::TooLong {
            found: MAX_TEXT_BYTES + 1
        })
    );
}

/// The length of the prompt that a template makes of one message of a kibibyte.
fn render(template: &str) -> Result<usize, TemplateError> {
    let mut metadata = vocabulary(2);
    metadata.set("tokenizer.chat_template", Value::String(template.to_owned()));
    let tokenizer = Tokenizer::from_metadata(&metadata).unwrap();
    let template = ChatTemplate::from_metadata(&metadata, tokenizer.vocabulary()).unwrap();
    let message = ChatMessage {
        role: "user".to_owned(),
        content: "x".repeat(1024),
    };
    template.render(&[message]).map(|prompt| prompt.len())
}

#[test]
fn templates() {
    // An empty turn of a loop takes at least one step.
    let turns = |outer: u64| {
        format!("{{% for a in range({outer}) %}}{{% for b in range(10000) %}}{{% endfor %}}{{% endfor %}}")
    };
    assert_eq!(render(&turns(10)).unwrap(), 0);
    assert!(render(&turns(MAX_TEMPLATE_FUEL / 10_000)).is_err());
    let copies = |count: usize| format!("{{% for a in range({count}) %}}{{{{ messages[0].content }}}}{{% endfor %}}");
    assert_eq!(render(&copies(MAX_TEXT_BYTES / 1024)).unwrap(), MAX_TEXT_BYTES);
    assert!(render(&copies(MAX_TEXT_BYTES / 1024 + 1)).is_err());
}

#[test]
fn attack_templates_that_grow_without_end_take_bounded_memory() {
    let begin = "{% set ns = namespace(s=messages[0].content, x=[messages[0].content]) %}";
    let often = |step: &str, end: &str| format!("{begin}{{% for i in range(60) %}}{step}{{% endfor %}}{end}");
    let laughs = "{% set ns.x = [ns.x, ns.x] %}";
    let megabyte = "(messages[0].content * 1000)";
    let templates = [
        "{{ [1] | batch(1000000000000) }}".to_owned(),
        "{{ [1] | batch(1000000000000, 2) }}".to_owned(),
        "{{ [1] | slice(9223372036854775807) }}".to_owned(),
        "{{ 'a' | indent(1000000000000, true) }}".to_owned(),
        "{{ '%999999999999d' | format(1) }}".to_owned(),
        "{{ messages | tojson(indent=1000000000000) }}".to_owned(),
        "{{ messages[0].content * 99999999 }}".to_owned(),
        "{% for i in range(1000000000000) %}{% endfor %}".to_owned(),
        often("{% set ns.s = ns.s ~ ns.s %}", "{{ ns.s | length }}"),
        often("{% set ns.s = ns.s + ns.s %}", "{{ ns.s | length }}"),
        often("{% set ns.s = ns.s * 2 %}", "{{ ns.s | length }}"),
        often("{% set ns.s = ns.s.replace('x', 'xx') %}", "{{ ns.s | length }}"),
        often("{% set ns.s = ns.s | replace('', ns.s) %}", "{{ ns.s | length }}"),
        often("{% set ns.s = [ns.s, ns.s] | join %}", "{{ ns.s | length }}"),
        often(
            "{% set t %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = t %}",
            "{{ ns.s | length }}",
        ),
        often(laughs, "{{ ns.x }}"),
        often(laughs, "{% set t %}{{ ns.x }}{% endset %}{{ t | length }}"),
        often(laughs, "{{ ns.x | string | length }}"),
        often(laughs, "{{ ns.x | join | length }}"),
        often(laughs, "{{ ns.x | tojson | length }}"),
        often(laughs, "{{ ns.x | pprint | length }}"),
        format!("{{{{ ([{megabyte}] * 100000) | join | length }}}}"),
        format!("{{{{ ([{megabyte}] * 100000) | sum | length }}}}"),
        format!("{{{{ ([{megabyte}] * 100000000) | string | length }}}}"),
        format!("{{{{ ([{megabyte}] * 100000000) | tojson | length }}}}"),
    ];
    for template in templates {
        let (rendered, bytes) = memory::of(|| render(&template));
        assert!(rendered.is_err(), "{template}: {rendered:?}");
        let most = MAX_TEMPLATE_FUEL as usize * 64 + MAX_TEXT_BYTES * 8;
        assert!(bytes > 0 && bytes <= most, "{template}: {bytes} bytes, at most {most}");
    }
}

#[test]
fn adapters() {
    let mut metadata = decoder();
    for key in ["embedding_length", "attention.key_length"] {
        metadata.set(format!("llama.{key}"), Value::U32(512));
    }
    for key in ["attention.head_count", "attention.head_count_kv"] {
        metadata.set(format!("llama.{key}"), Value::U32(1));
    }
    let config = DecoderConfig::from_gguf(&Gguf::parse(&gguf(&metadata, &[])).unwrap()).unwrap();
    let of = |rank: usize| {
        let (d_in, d_out) = Projection::Query.shape(&config);
        let (a, b) = (vec![0.5; rank * d_in], vec![0.5; rank * d_out]);
        let factors = BTreeMap::from([((0, Projection::Query), LoraFactors { d_in, d_out, a, b })]);
        let adapter = LoraAdapter {
            rank,
            alpha: 1.0,
            factors,
        };
        write(&adapter, &config, "farm")
    };
    let files = of(MAX_RANK).unwrap();
    assert_eq!(read(&files.model, None, &config).unwrap().rank, MAX_RANK);
    assert!(matches!(
        of(MAX_RANK + 1),
        Err(AdapterError::Mismatch(AdapterMismatch::Rank { .. }))
    ));
    let claimed = files
        .config
        .replace(&format!("\"r\": {MAX_RANK}"), &format!("\"r\": {}", MAX_RANK + 1));
    assert!(read(&files.model, Some(&claimed), &config).is_err());

    let padded = |length: usize| files.config.clone() + &" ".repeat(length - files.config.len());
    assert!(read(&files.model, Some(&padded(MAX_ADAPTER_CONFIG_BYTES)), &config).is_ok());
    let beyond = read(&files.model, Some(&padded(MAX_ADAPTER_CONFIG_BYTES + 1)), &config);
    assert!(matches!(
        beyond,
        Err(AdapterError::TooLarge {
            limit: MAX_ADAPTER_CONFIG_BYTES,
            ..
        })
    ));

    // Zeroes that nobody touches take no memory.
    let model = vec![0; MAX_ADAPTER_BYTES + 1];
    let at = read(&model[1..], Some(&files.config), &config);
    assert!(matches!(at, Err(AdapterError::Safetensors(_))), "{at:?}");
    let beyond = read(&model, Some(&files.config), &config);
    assert!(
        matches!(
            beyond,
            Err(AdapterError::TooLarge {
                limit: MAX_ADAPTER_BYTES,
                ..
            })
        ),
        "{beyond:?}"
    );
}
