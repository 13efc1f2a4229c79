//! What a client asks for, read and checked field by field.

use fieldfare_lm::limits::MAX_MESSAGES;
use fieldfare_lm::tokenizer::ChatMessage;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::{ApiError, Code};
use crate::limits::{DEFAULT_MAX_TOKENS, MAX_STOP_STRINGS};
use crate::serving::Served;
use crate::serving::protocol::{Options, Prompt};

/// Which endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completion,
}

impl Kind {
    /// The field that holds what is to be answered.
    pub(super) const fn input(self) -> &'static str {
        match self {
            Self::Chat => "messages",
            Self::Completion => "prompt",
        }
    }
}

/// A request that can be carried out.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    pub(super) model: Option<String>,
    pub(super) prompt: Prompt,
    pub(super) options: Options,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
}

impl Request {
    pub(super) fn check_model(&self, served: &Served) -> Result<(), ApiError> {
        self.model.as_ref().map_or(Ok(()), |asked| is_served(asked, served))
    }
}

/// Whether what serves goes by this name: the model's, or the release's.
pub(super) fn is_served(asked: &str, served: &Served) -> Result<(), ApiError> {
    let (name, release) = (served.manifest.model.as_str(), served.installed.release.to_string());
    if asked == name || *asked == release {
        return Ok(());
    }
    let message = format!("the model `{asked}` does not exist here: this device serves `{name}`");
    Err(ApiError {
        code: Code::ModelNotFound,
        message,
        param: Some("model".to_owned()),
    })
}

/// A field that may be missing or null.
fn optional<T: DeserializeOwned>(body: &Map<String, Value>, name: &str, expected: &str) -> Result<Option<T>, ApiError> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => serde_json::from_value(value.clone())
            .map(Some)
            .map_err(|_| ApiError::field(name, format!("`{name}` is not {expected}"))),
    }
}

fn number(body: &Map<String, Value>, name: &str, default: f32, most: f32) -> Result<f32, ApiError> {
    let value: f32 = optional(body, name, "a number")?.unwrap_or(default);
    if (0.0..=most).contains(&value) {
        return Ok(value);
    }
    Err(ApiError::field(
        name,
        format!("`{name}` is {value}, expected 0 to {most}"),
    ))
}

/// Reads a request. `seed` is taken where the client names none.
pub(super) fn parse(body: &str, kind: Kind, seed: u64) -> Result<Request, ApiError> {
    let value: Value = serde_json::from_str(body)
        .map_err(|error| ApiError::new(Code::InvalidRequest, format!("the body is not JSON: {error}")))?;
    let body = value
        .as_object()
        .ok_or_else(|| ApiError::new(Code::InvalidRequest, "the body is not a JSON object"))?;
    refuse_unsupported(body)?;
    let prompt = match kind {
        Kind::Chat => Prompt::Chat(messages(body)?),
        Kind::Completion => Prompt::Text(prompt(body)?),
    };
    let stream_options: Option<Map<String, Value>> = optional(body, "stream_options", "an object")?;
    let include_usage = match &stream_options {
        Some(options) => optional(options, "include_usage", "a boolean")?.unwrap_or(false),
        None => false,
    };
    Ok(Request {
        model: optional(body, "model", "a string")?,
        prompt,
        options: Options {
            max_tokens: max_tokens(body)?,
            temperature: number(body, "temperature", 1.0, 2.0)?,
            top_p: number(body, "top_p", 1.0, 1.0)?,
            seed: optional::<i64>(body, "seed", "an integer")?.map_or(seed, i64::cast_unsigned),
            stop: stop(body)?,
        },
        stream: optional(body, "stream", "a boolean")?.unwrap_or(false),
        include_usage,
    })
}

/// Fields that would change the answer and that nothing here can honour. What changes nothing is passed over.
fn refuse_unsupported(body: &Map<String, Value>) -> Result<(), ApiError> {
    for name in ["n", "best_of"] {
        if optional::<u64>(body, name, "an integer")?.is_some_and(|count| count != 1) {
            return Err(ApiError::field(
                name,
                format!("`{name}` is not 1: this device gives one answer"),
            ));
        }
    }
    let is_set = |name: &str| match body.get(name) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(object)) if name == "response_format" => {
            object.get("type").is_some_and(|kind| kind != "text")
        }
        Some(Value::Object(object)) => !object.is_empty(),
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Bool(true)) => true,
    };
    let unsupported = [
        "tools",
        "functions",
        "logprobs",
        "echo",
        "suffix",
        "logit_bias",
        "response_format",
        "frequency_penalty",
        "presence_penalty",
    ];
    match unsupported.into_iter().find(|name| is_set(name)) {
        Some(name) => Err(ApiError::field(name, format!("`{name}` is not supported here"))),
        None => Ok(()),
    }
}

fn max_tokens(body: &Map<String, Value>) -> Result<usize, ApiError> {
    for name in ["max_completion_tokens", "max_tokens"] {
        if let Some(count) = optional::<u32>(body, name, "a positive integer")? {
            return if count == 0 {
                Err(ApiError::field(name, format!("`{name}` is 0, expected at least 1")))
            } else {
                Ok(count as usize)
            };
        }
    }
    Ok(DEFAULT_MAX_TOKENS)
}

fn stop(body: &Map<String, Value>) -> Result<Vec<String>, ApiError> {
    let stop = match body.get("stop") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(one)) => vec![one.clone()],
        Some(_) => optional(body, "stop", "a string or a list of strings")?.unwrap_or_default(),
    };
    if stop.len() > MAX_STOP_STRINGS || stop.iter().any(String::is_empty) {
        return Err(ApiError::field(
            "stop",
            format!("`stop` has more than {MAX_STOP_STRINGS} strings, or an empty one"),
        ));
    }
    Ok(stop)
}

fn prompt(body: &Map<String, Value>) -> Result<String, ApiError> {
    let wrong = || ApiError::field("prompt", "`prompt` is not one string of text");
    match body
        .get("prompt")
        .ok_or_else(|| ApiError::field("prompt", "`prompt` is missing"))?
    {
        Value::String(text) => Ok(text.clone()),
        Value::Array(list) => match list.as_slice() {
            [Value::String(text)] => Ok(text.clone()),
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}

fn messages(body: &Map<String, Value>) -> Result<Vec<ChatMessage>, ApiError> {
    let missing = || ApiError::field("messages", "`messages` is missing or not a list");
    let list = body.get("messages").and_then(Value::as_array).ok_or_else(missing)?;
    if list.is_empty() || list.len() > MAX_MESSAGES {
        return Err(ApiError::field(
            "messages",
            format!("`messages` has {} messages, expected 1 to {MAX_MESSAGES}", list.len()),
        ));
    }
    list.iter()
        .enumerate()
        .map(|(index, value)| message(index, value))
        .collect()
}

fn message(index: usize, value: &Value) -> Result<ChatMessage, ApiError> {
    let wrong = |field: &str, problem: &str| {
        let param = format!("messages[{index}].{field}");
        ApiError::field(&param, format!("`{param}` {problem}"))
    };
    let role = value
        .get("role")
        .and_then(Value::as_str)
        .ok_or_else(|| wrong("role", "is missing or not a string"))?;
    if !["system", "developer", "user", "assistant"].contains(&role) {
        return Err(wrong("role", "is none of system, developer, user, assistant"));
    }
    let content = match value.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let text =
                |part: &Value| (part.get("type")? == "text").then(|| part.get("text")?.as_str().map(str::to_owned))?;
            let parts: Option<Vec<String>> = parts.iter().map(text).collect();
            parts
                .ok_or_else(|| wrong("content", "has a part that is not text"))?
                .concat()
        }
        _ => return Err(wrong("content", "is missing or not text")),
    };
    let role = if role == "developer" { "system" } else { role };
    Ok(ChatMessage {
        role: role.to_owned(),
        content,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_client_asks_for_is_read() {
        let body = r#"{"model": "m", "messages": [{"role": "developer", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]}],
            "max_tokens": 7, "temperature": 0, "seed": -1, "stop": "x", "stream": true,
            "stream_options": {"include_usage": true}, "user": "somebody", "n": 1, "tools": []}"#;
        let request = parse(body, Kind::Chat, 5).unwrap();
        let message = |role: &str, content: &str| ChatMessage {
            role: role.into(),
            content: content.into(),
        };
        assert_eq!(
            request.prompt,
            Prompt::Chat(vec![message("system", "a"), message("user", "bc")])
        );
        let stop = vec!["x".to_owned()];
        assert_eq!(
            request.options,
            Options {
                max_tokens: 7,
                temperature: 0.0,
                top_p: 1.0,
                seed: u64::MAX,
                stop
            }
        );
        assert!(request.stream && request.include_usage);
        let request = parse(r#"{"prompt": ["p"]}"#, Kind::Completion, 5).unwrap();
        assert_eq!(request.prompt, Prompt::Text("p".into()));
        assert_eq!(
            (request.options.seed, request.options.max_tokens),
            (5, DEFAULT_MAX_TOKENS)
        );
    }

    #[test]
    fn a_wrong_field_is_named_as_openai_names_it() {
        let cases = [
            (Kind::Completion, "nonsense", None),
            (Kind::Completion, "[]", None),
            (Kind::Completion, "{}", Some("prompt")),
            (Kind::Completion, r#"{"prompt": [1, 2]}"#, Some("prompt")),
            (
                Kind::Completion,
                r#"{"prompt": "a", "max_tokens": 0}"#,
                Some("max_tokens"),
            ),
            (
                Kind::Completion,
                r#"{"prompt": "a", "max_tokens": -3}"#,
                Some("max_tokens"),
            ),
            (
                Kind::Completion,
                r#"{"prompt": "a", "temperature": 3}"#,
                Some("temperature"),
            ),
            (Kind::Completion, r#"{"prompt": "a", "top_p": "x"}"#, Some("top_p")),
            (Kind::Completion, r#"{"prompt": "a", "n": 2}"#, Some("n")),
            (Kind::Completion, r#"{"prompt": "a", "echo": true}"#, Some("echo")),
            (
                Kind::Completion,
                r#"{"prompt": "a", "stop": ["1","2","3","4","5"]}"#,
                Some("stop"),
            ),
            (Kind::Completion, r#"{"prompt": "a", "stream": "yes"}"#, Some("stream")),
            (Kind::Chat, r#"{"messages": []}"#, Some("messages")),
            (
                Kind::Chat,
                r#"{"messages": [{"role": "user"}]}"#,
                Some("messages[0].content"),
            ),
            (
                Kind::Chat,
                r#"{"messages": [{"role": "robot", "content": "a"}]}"#,
                Some("messages[0].role"),
            ),
            (
                Kind::Chat,
                r#"{"messages": [{"role": "user", "content": "a"}], "tools": [{}]}"#,
                Some("tools"),
            ),
            (
                Kind::Chat,
                r#"{"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "json_object"}}"#,
                Some("response_format"),
            ),
        ];
        for (kind, body, param) in cases {
            let error = parse(body, kind, 0).unwrap_err();
            assert_eq!(
                (error.code, error.param.as_deref()),
                (Code::InvalidRequest, param),
                "{body}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused_without_a_panic(body in "\\PC{0,200}") {
            let _ = parse(&body, Kind::Chat, 0);
            let _ = parse(&body, Kind::Completion, 0);
        }
    }
}
