use super::*;
use crate::gguf::{Array, Gguf, Value};
use crate::test_data;

fn load(path: &str) -> Option<(Metadata, Tokenizer)> {
    let file = std::fs::read(test_data::find(path)?).unwrap();
    let metadata = Gguf::parse(&file).unwrap().metadata;
    let tokenizer = Tokenizer::from_metadata(&metadata).unwrap();
    Some((metadata, tokenizer))
}

/// llama.cpp's own vectors (`tests/test-tokenizer-0.cpp`): every text must give exactly these tokens, and come back from them.
fn check_vectors(name: &str) {
    let path = format!("tokenizers/ggml-vocab-{name}.gguf");
    let Some((_, tokenizer)) = load(&path) else { return };
    let read = |suffix: &str| std::fs::read_to_string(test_data::find(&format!("{path}.{suffix}")).unwrap()).unwrap();
    let (texts, answers) = (read("inp"), read("out"));
    // Every text is followed by the separator, the last one too.
    let texts: Vec<&str> = texts.split_terminator("\n__ggml_vocab_test__\n").collect();
    let answers: Vec<&str> = answers.lines().collect();
    assert!(
        texts.len() > 40 && texts.len() == answers.len(),
        "{} texts, {} answers",
        texts.len(),
        answers.len()
    );
    for (text, answer) in texts.iter().zip(&answers) {
        let expected: Vec<u32> = answer.split_whitespace().map(|id| id.parse().unwrap()).collect();
        let tokens = tokenizer.encode(text, ControlTokens::AsText, Position::Start).unwrap();
        assert_eq!(tokens, expected, "{name}: {text:?}");
        assert_eq!(tokenizer.decode(&tokens), *text, "{name}");
    }
}

#[test]
fn llama_spm_gives_llama_cpps_tokens() {
    check_vectors("llama-spm");
}

#[test]
fn phi_3_gives_llama_cpps_tokens() {
    check_vectors("phi-3");
}

#[test]
fn gpt_2_gives_llama_cpps_tokens() {
    check_vectors("gpt-2");
}

#[test]
fn control_tokens_in_a_users_text_stay_text() {
    let Some((_, tokenizer)) = load("tokenizers/ggml-vocab-llama-spm.gguf") else {
        return;
    };
    let end = tokenizer.vocabulary().end().unwrap();
    let as_text = tokenizer
        .encode("a</s>b", ControlTokens::AsText, Position::Start)
        .unwrap();
    assert!(!as_text.contains(&end));
    assert_eq!(tokenizer.decode(&as_text), "a</s>b");
    let parsed = tokenizer
        .encode("a</s>b", ControlTokens::Parse, Position::Start)
        .unwrap();
    assert_eq!(parsed.iter().filter(|token| **token == end).count(), 1);
    assert!(tokenizer.vocabulary().ends_generation(end));
}

#[test]
fn an_example_counts_the_completion_and_its_end() {
    let Some((_, tokenizer)) = load("tokenizers/ggml-vocab-llama-spm.gguf") else {
        return;
    };
    let example = tokenizer.example("Hello", " world").unwrap();
    assert_eq!(example.tokens, [1, 15043, 3186, 2]);
    assert_eq!((example.first_target, example.targets()), (2, 2));
    assert_eq!(tokenizer.plain_text("Hello").unwrap().tokens, [1, 15043]);
    assert_eq!(tokenizer.example("", "Hello").unwrap().first_target, 1);
}

#[test]
fn the_phi_3_template_renders() {
    let Some((metadata, tokenizer)) = load("tokenizers/ggml-vocab-phi-3.gguf") else {
        return;
    };
    let template = ChatTemplate::from_metadata(&metadata, tokenizer.vocabulary()).unwrap();
    let prompt = template
        .render(&[ChatMessage {
            role: "user".into(),
            content: "Hi".into(),
        }])
        .unwrap();
    assert_eq!(prompt, "<s><|user|>\nHi<|end|>\n<|assistant|>\n");
    // The begin token is in the template already and must not come twice.
    let tokens = tokenizer.encode_prompt(&prompt, ControlTokens::Parse).unwrap();
    assert_eq!(tokens.iter().filter(|token| **token == 1).count(), 1);
}

/// A vocabulary of the 256 bytes and a few words.
fn tiny() -> Metadata {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["\u{2581}", "a", "b", "ab", "\u{2581}ab"].map(str::to_owned));
    let mut kinds = vec![2, 3, 3];
    kinds.extend([6; 256]);
    kinds.extend([1; 5]);
    let mut metadata = Metadata::new();
    metadata.set("tokenizer.ggml.model", Value::String("llama".into()));
    metadata.set(
        "tokenizer.ggml.scores",
        Value::Array(Array::F32((0..tokens.len()).map(|id| id as f32).collect())),
    );
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds)));
    metadata.set("tokenizer.ggml.bos_token_id", Value::U32(1));
    metadata.set("tokenizer.ggml.eos_token_id", Value::U32(2));
    metadata
}

proptest::proptest! {
    #[test]
    fn any_text_comes_back_from_its_tokens(text in ".{0,40}") {
        let tokenizer = Tokenizer::from_metadata(&tiny()).unwrap();
        let tokens = tokenizer.encode(&text, ControlTokens::AsText, Position::Start).unwrap();
        let expected = text.replace('\u{2581}', " ");
        proptest::prop_assert_eq!(tokenizer.decode(&tokens), expected);
    }
}

#[test]
fn a_vocabulary_that_contradicts_itself_is_refused_with_the_key() {
    let cases: [(&str, Value, &str); 7] = [
        (
            "tokenizer.ggml.model",
            Value::String("bert".into()),
            "tokenizer.ggml.model is \"bert\"",
        ),
        (
            "tokenizer.ggml.tokens",
            Value::Array(Array::String(vec![])),
            "0 tokens, expected 1",
        ),
        (
            "tokenizer.ggml.scores",
            Value::Array(Array::F32(vec![0.0])),
            "tokenizer.ggml.scores: 1 scores for 264 tokens",
        ),
        (
            "tokenizer.ggml.token_type",
            Value::Array(Array::I32(vec![1])),
            "1 types for 264 tokens",
        ),
        (
            "tokenizer.ggml.token_type",
            Value::Array(Array::I32(vec![9; 264])),
            "token 0 has the type 9",
        ),
        (
            "tokenizer.ggml.bos_token_id",
            Value::U32(264),
            "tokenizer.ggml.bos_token_id: it is 264",
        ),
        (
            "tokenizer.ggml.eos_token_id",
            Value::I32(-1),
            "tokenizer.ggml.eos_token_id has the type I32",
        ),
    ];
    for (key, value, expected) in cases {
        let mut metadata = tiny();
        metadata.set(key, value);
        let error = Tokenizer::from_metadata(&metadata).unwrap_err().to_string();
        assert!(error.contains(expected), "{key}: {error}");
    }
}

#[test]
fn attack_scores_that_are_not_numbers_change_no_order_and_end() {
    let mut metadata = tiny();
    metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![f32::NAN; 264])));
    let tokenizer = Tokenizer::from_metadata(&metadata).unwrap();
    let tokens = tokenizer
        .encode(&"ab".repeat(1_000), ControlTokens::AsText, Position::Start)
        .unwrap();
    assert_eq!(tokenizer.decode(&tokens), "ab".repeat(1_000));
}

#[test]
fn attack_a_text_beyond_the_limit_is_refused() {
    let tokenizer = Tokenizer::from_metadata(&tiny()).unwrap();
    let text = "a".repeat(limits::MAX_TEXT_BYTES + 1);
    let error = tokenizer
        .encode(&text, ControlTokens::AsText, Position::Start)
        .unwrap_err();
    assert_eq!(error, EncodeError::TooLong { found: text.len() });
}

fn template(source: &str) -> Result<ChatTemplate, TemplateError> {
    let mut metadata = tiny();
    metadata.set("tokenizer.chat_template", Value::String(source.into()));
    let tokenizer = Tokenizer::from_metadata(&metadata).unwrap();
    ChatTemplate::from_metadata(&metadata, tokenizer.vocabulary())
}

fn conversation() -> Vec<ChatMessage> {
    [("system", "Be brief."), ("user", " Hi ")]
        .map(|(role, content)| ChatMessage {
            role: role.into(),
            content: content.into(),
        })
        .into()
}

#[test]
fn a_model_without_a_template_gets_the_plain_one() {
    let tokenizer = Tokenizer::from_metadata(&tiny()).unwrap();
    let template = ChatTemplate::from_metadata(&tiny(), tokenizer.vocabulary()).unwrap();
    assert!(template.is_plain());
    assert_eq!(
        template.render(&conversation()).unwrap(),
        "System: Be brief.\nUser:  Hi \nAssistant:"
    );
}

#[test]
fn templates_may_call_pythons_methods() {
    let source = "{% for m in messages %}{{ m['content'].strip() }}|{{ m.get('x', 'none') }}|{{ m.content.startswith(' ') }};{% endfor %}{{ eos_token }}";
    let rendered = template(source).unwrap().render(&conversation()).unwrap();
    assert_eq!(rendered, "Be brief.|none|False;Hi|none|True;</s>");
}

#[test]
fn templates_may_use_what_published_ones_use() {
    let source = "{%- set ns = namespace(text='', last=-1) -%}\
        {%- for m in messages if m.role in ['system', 'user'] -%}\
            {%- set ns.text = ns.text ~ (m['content'] | trim | replace('.', '!')) + '|' -%}{%- set ns.last = loop.index0 -%}\
        {%- endfor -%}\
        {{ ns.text }}{{ ns.last }};\
        {{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | join(',') }};\
        {{ messages | map(attribute='role') | join(', ') }};{{ messages[::-1] | length }};{{ messages[1:] | first | string }};\
        {{ messages[0] | tojson }};{{ {'b': ['<ä>', 1.5], 'a': none} | tojson(indent=2) }};{{ 7 | string ~ true }};\
        {{ messages[0].content[:2] }}{{ '-' * 3 }}{{ x | default('none') | upper }}{{ messages is iterable and x is not defined }}";
    assert_eq!(
        template(source).unwrap().render(&conversation()).unwrap(),
        "Be brief!|Hi|1; Hi ;system, user;2;{'role': 'user', 'content': ' Hi '};\
         {\"role\": \"system\", \"content\": \"Be brief.\"};{\n  \"a\": null,\n  \"b\": [\n    \"<ä>\",\n    1.5\n  ]\n};7True;Be---NONETrue"
    );
}

#[test]
fn attack_templates_that_never_end_or_never_stop_writing_are_stopped() {
    let endless =
        template("{% for i in range(9999) %}{% for j in range(9999) %}{% set x = i %}{% endfor %}{% endfor %}");
    assert!(endless.unwrap().render(&conversation()).is_err());
    let long = template(
        "{% for i in range(9999) %}{{ messages | string * 10 }}{{ '................................................................................................................................' }}{% endfor %}",
    );
    assert!(long.is_err() || long.unwrap().render(&conversation()).is_err());
    assert!(matches!(template("{% for %}"), Err(TemplateError::Syntax(_))));
    let refused = template("{{ raise_exception('no system role') }}")
        .unwrap()
        .render(&conversation())
        .unwrap_err();
    assert!(
        std::error::Error::source(&refused)
            .unwrap()
            .to_string()
            .contains("no system role")
    );
}
