//! Vocabularies and chat templates of a GGUF header, and texts for them. What follows the header is the text.

use fieldfare_lm::gguf::{Array, Gguf, Metadata, Value};
use fieldfare_lm::tokenizer::{ChatMessage, ChatTemplate, ControlTokens, Detokenizer, Position, Tokenizer};

use super::failed;
use crate::{Bound, Target};

pub(super) const TARGET: Target = Target {
    name: "tokenizer",
    seeds: || {
        let texts = ["hello low  lower\n", "</s>a<|im_end|>\u{1F999} \u{2581}\0 naïve 12345"];
        let vocabularies = [sentence_piece(), byte_level()];
        let with =
            |metadata: &Metadata, text: &str| [super::gguf::file(metadata, &[]), text.as_bytes().to_vec()].concat();
        vocabularies
            .iter()
            .flat_map(|metadata| texts.map(|text| with(metadata, text)))
            .collect()
    },
    invent: None,
    take,
    // An expression compiles to a megabyte or two, and what a template makes costs it its fuel.
    bound: Bound {
        base: (8 << 20) + 64 * fieldfare_lm::limits::MAX_TEMPLATE_FUEL as usize,
        per_byte: 256,
    },
    words: &[
        b"tokenizer.ggml.tokens",
        b"tokenizer.ggml.merges",
        b"<0x0A>",
        b"</s>",
        "\u{2581}".as_bytes(),
        b"{% for m in messages %}",
        b"{% endfor %}",
        b"{{ messages[0].content }}",
        b"{{ messages | length }}",
        b" * 99999999",
        b"{{ range(99999999) }}",
        b"{% set a = a ~ a %}",
        b".split('')",
        b" | batch(99999999999)",
        b" | slice(99999999999)",
        b" | tojson",
        b" | join(',')",
        b" | replace('', 'll')",
        b" | string",
        b" | selectattr('role', 'equalto', 'user')",
        b" | map(attribute='content') | list",
        b"{% set ns = namespace(a=messages) %}",
        b"{% set ns.a = [ns.a, ns.a] %}",
    ],
    inputs: 8_000,
};

fn texts(tokens: &[&str]) -> Value {
    Value::Array(Array::String(tokens.iter().map(|token| (*token).to_owned()).collect()))
}

fn sentence_piece() -> Metadata {
    let mut metadata = Metadata::new();
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    tokens.extend((0..=255_u8).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(
        [
            "\u{2581}",
            "l",
            "o",
            "lo",
            "low",
            "\u{2581}low",
            "e",
            "r",
            "er",
            "h",
            "<|im_end|>",
        ]
        .map(str::to_owned),
    );
    let kinds = (0..tokens.len()).map(|id| match id {
        0 => 2,
        1 | 2 => 3,
        3..=258 => 6,
        id if id + 1 == tokens.len() => 4,
        _ => 1,
    });
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds.collect())));
    metadata.set(
        "tokenizer.ggml.scores",
        Value::Array(Array::F32((0..tokens.len()).map(|id| id as f32).collect())),
    );
    metadata.set("tokenizer.ggml.model", Value::String("llama".to_owned()));
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
    metadata.set("tokenizer.ggml.bos_token_id", Value::U32(1));
    metadata.set("tokenizer.ggml.eos_token_id", Value::U32(2));
    let template = "{% for message in messages %}{{ message.role | capitalize }}: {{ message.content.strip() }}{{ eos_token }}\
                    {% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}";
    metadata.set("tokenizer.chat_template", Value::String(template.to_owned()));
    metadata
}

fn byte_level() -> Metadata {
    let mut metadata = Metadata::new();
    metadata.set("tokenizer.ggml.model", Value::String("gpt2".to_owned()));
    metadata.set("tokenizer.ggml.pre", Value::String("llama-bpe".to_owned()));
    metadata.set(
        "tokenizer.ggml.tokens",
        texts(&[
            "h",
            "e",
            "l",
            "o",
            "w",
            "r",
            "\u{120}",
            "\u{10a}",
            "lo",
            "low",
            "\u{120}low",
            "er",
        ]),
    );
    metadata.set("tokenizer.ggml.merges", texts(&["l o", "lo w", "\u{120} low", "e r"]));
    metadata
}

fn take(bytes: &[u8]) -> String {
    let gguf = match Gguf::parse(bytes) {
        Ok(gguf) => gguf,
        Err(_) => return "no header".to_owned(),
    };
    let tokenizer = match Tokenizer::from_metadata(&gguf.metadata) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return failed(&error),
    };
    let vocabulary = tokenizer.vocabulary();
    let text = String::from_utf8_lossy(bytes.get(gguf.data_offset as usize..).unwrap_or_default()).into_owned();
    let mut outcome = String::new();
    for control in [ControlTokens::AsText, ControlTokens::Parse] {
        match tokenizer.encode(&text, control, Position::Start) {
            Ok(tokens) => {
                assert!(tokens.iter().all(|token| (*token as usize) < vocabulary.len()));
                let mut stream = Detokenizer::new();
                let mut streamed: String = tokens.iter().map(|token| stream.push(&tokenizer, *token)).collect();
                streamed.push_str(&stream.finish());
                assert_eq!(streamed, tokenizer.decode_continuation(&tokens));
                let _ = tokenizer.decode(&tokens);
                outcome.push_str("tokens ");
            }
            Err(error) => outcome.push_str(&failed(&error)),
        }
    }
    match ChatTemplate::from_metadata(&gguf.metadata, vocabulary) {
        Ok(template) => {
            let message = ChatMessage {
                role: "user".to_owned(),
                content: text.chars().take(100).collect(),
            };
            match template.render(&[message]) {
                Ok(_) => outcome.push_str("a prompt"),
                Err(error) => outcome.push_str(&failed(&error)),
            }
        }
        Err(error) => outcome.push_str(&failed(&error)),
    }
    outcome
}
