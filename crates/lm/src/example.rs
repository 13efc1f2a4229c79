//! Examples in the formats that people already have: conversations, prompts with completions, and plain text, as JSON lines.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::limits::MAX_MESSAGES;
use crate::tokenizer::{ChatMessage, ChatTemplate, TemplateError};

/// One example: something said, and what should be said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Example {
    /// A conversation whose last message is what the assistant should say.
    Messages {
        /// At least two, the last by the assistant.
        messages: Vec<ChatMessage>,
    },
    /// A prompt and what should follow it.
    Completion {
        /// What comes before.
        prompt: String,
        /// What should follow.
        completion: String,
    },
    /// Text as such.
    Text {
        /// All of it counts.
        text: String,
    },
}

/// An example as a model sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rendered<'a> {
    /// A prompt and what should follow it.
    Completion {
        /// What comes before.
        prompt: Cow<'a, str>,
        /// What should follow.
        completion: &'a str,
    },
    /// Text as such.
    Text(&'a str),
}

/// Why something is no example.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExampleError {
    /// It is no JSON.
    #[error("it is not JSON: {0}")]
    Json(String),
    /// It is longer than whoever reads it takes.
    #[error("it has {found} bytes, and the limit is {limit}")]
    TooLong {
        /// Bytes of its texts.
        found: usize,
        /// Most bytes.
        limit: usize,
    },
    /// It has none of the known forms.
    #[error(
        "expected an object of the form {{\"messages\": [...]}}, {{\"prompt\": ..., \"completion\": ...}} or {{\"text\": ...}}, found {found}"
    )]
    Form {
        /// What it is.
        found: String,
    },
    /// A field is wrong.
    #[error("field `{field}` {problem}")]
    Field {
        /// Which field.
        field: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// A line that is no example, by its number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {source}")]
pub struct LineError {
    /// Number of the line, from 1.
    pub line: usize,
    /// What is wrong with it.
    #[source]
    pub source: ExampleError,
}

fn text(object: &Map<String, Value>, field: &str) -> Result<String, ExampleError> {
    let wrong = |problem| ExampleError::Field {
        field: field.to_owned(),
        problem,
    };
    match object.get(field) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        Some(Value::String(_)) => Err(wrong("is empty")),
        Some(_) => Err(wrong("is not a string")),
        None => Err(wrong("is missing")),
    }
}

fn messages(value: &Value) -> Result<Vec<ChatMessage>, ExampleError> {
    let wrong = |field: &str, problem| ExampleError::Field {
        field: field.to_owned(),
        problem,
    };
    let list = value.as_array().ok_or_else(|| wrong("messages", "is not a list"))?;
    if list.len() < 2 || list.len() > MAX_MESSAGES {
        return Err(wrong("messages", "has fewer than 2 messages or more than the limit"));
    }
    let message = |(index, value): (usize, &Value)| {
        let inside = |error| match error {
            ExampleError::Field { field, problem } => ExampleError::Field {
                field: format!("messages[{index}].{field}"),
                problem,
            },
            other => other,
        };
        let object = value
            .as_object()
            .ok_or_else(|| wrong(&format!("messages[{index}]"), "is not an object"))?;
        Ok(ChatMessage {
            role: text(object, "role").map_err(inside)?,
            content: text(object, "content").map_err(inside)?,
        })
    };
    let list: Vec<ChatMessage> = list.iter().enumerate().map(message).collect::<Result<_, _>>()?;
    match list.last() {
        Some(last) if last.role == "assistant" => Ok(list),
        _ => Err(wrong("messages", "does not end with a message of role \"assistant\"")),
    }
}

impl Example {
    /// Reads one example from a JSON value. Its texts may have `limit` bytes together. Fields beside those of its form are passed over.
    ///
    /// # Errors
    /// [`ExampleError`] names the field.
    pub fn from_value(value: &Value, limit: usize) -> Result<Self, ExampleError> {
        let form = |found: &str| ExampleError::Form {
            found: found.to_owned(),
        };
        let object = value.as_object().ok_or_else(|| form(kind(value)))?;
        let example = if let Some(list) = object.get("messages") {
            Self::Messages {
                messages: messages(list)?,
            }
        } else if object.contains_key("prompt") || object.contains_key("completion") {
            Self::Completion {
                prompt: text(object, "prompt")?,
                completion: text(object, "completion")?,
            }
        } else if object.contains_key("text") {
            Self::Text {
                text: text(object, "text")?,
            }
        } else {
            let keys: Vec<&str> = object.keys().take(8).map(String::as_str).collect();
            return Err(form(&format!("an object with the fields {keys:?}")));
        };
        let found = example.bytes();
        if found > limit {
            Err(ExampleError::TooLong { found, limit })
        } else {
            Ok(example)
        }
    }

    /// The example as a model with this chat template sees it.
    ///
    /// # Errors
    /// The template refuses the conversation.
    pub fn rendered(&self, template: &ChatTemplate) -> Result<Rendered<'_>, TemplateError> {
        Ok(match self {
            Self::Messages { messages } => {
                let (before, last) = messages.split_at(messages.len().saturating_sub(1));
                Rendered::Completion {
                    prompt: template.render(before)?.into(),
                    completion: last.first().map_or("", |message| &message.content),
                }
            }
            Self::Completion { prompt, completion } => Rendered::Completion {
                prompt: prompt.into(),
                completion,
            },
            Self::Text { text } => Rendered::Text(text),
        })
    }

    /// What should be said; nothing for plain text.
    pub fn answer(&self) -> Option<&str> {
        match self {
            Self::Messages { messages } => messages.last().map(|message| message.content.as_str()),
            Self::Completion { completion, .. } => Some(completion),
            Self::Text { .. } => None,
        }
    }

    /// Bytes of its texts.
    fn bytes(&self) -> usize {
        match self {
            Self::Messages { messages } => messages.iter().map(|m| m.role.len() + m.content.len()).sum(),
            Self::Completion { prompt, completion } => prompt.len() + completion.len(),
            Self::Text { text } => text.len(),
        }
    }

    /// Reads one example from a line of JSON, whose texts may have `limit` bytes together.
    ///
    /// # Errors
    /// [`ExampleError`] names the field.
    pub fn from_line(line: &str, limit: usize) -> Result<Self, ExampleError> {
        let value: Value = serde_json::from_str(line).map_err(|error| ExampleError::Json(error.to_string()))?;
        Self::from_value(&value, limit)
    }

    /// Reads examples from JSON lines; empty lines are passed over.
    ///
    /// # Errors
    /// The first line that is no example, by its number.
    pub fn from_lines(body: &str, limit: usize) -> Result<Vec<Self>, LineError> {
        let lines = body.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let parse = |(index, line): (usize, &str)| {
            Self::from_line(line, limit).map_err(|source| LineError {
                line: index + 1,
                source,
            })
        };
        lines.map(parse).collect()
    }

    /// Reads examples from a body: one JSON object, a JSON list of them, or JSON lines.
    ///
    /// # Errors
    /// The first one that is no example: by its line, or its place in the list counted from 1.
    pub fn from_body(body: &str, limit: usize) -> Result<Vec<Self>, LineError> {
        match serde_json::from_str::<Value>(body) {
            Ok(Value::Array(list)) => {
                let parse = |(index, value): (usize, &Value)| {
                    Self::from_value(value, limit).map_err(|source| LineError {
                        line: index + 1,
                        source,
                    })
                };
                list.iter().enumerate().map(parse).collect()
            }
            Ok(value) => Self::from_value(&value, limit)
                .map(|example| vec![example])
                .map_err(|source| LineError { line: 1, source }),
            Err(_) => Self::from_lines(body, limit),
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl fmt::Display for Example {
    /// The example as one JSON line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1_000;

    fn completion(prompt: &str, completion: &str) -> Example {
        Example::Completion {
            prompt: prompt.into(),
            completion: completion.into(),
        }
    }

    #[test]
    fn the_three_formats_are_read_one_by_one_in_a_list_and_in_lines() {
        let lines = concat!(
            r#"{"prompt": "a", "completion": "b"}"#,
            "\n\n",
            r#"{"text": "c"}"#,
            "\n",
            r#"{"messages": [{"role": "user", "content": "d"}, {"role": "assistant", "content": "e"}]}"#
        );
        let examples = Example::from_body(lines, LIMIT).unwrap();
        assert_eq!(examples.len(), 3);
        assert_eq!(examples[0], completion("a", "b"));
        assert_eq!(
            Example::from_body(&serde_json::to_string(&examples).unwrap(), LIMIT).unwrap(),
            examples
        );
        assert_eq!(
            Example::from_body(&examples[2].to_string(), LIMIT).unwrap(),
            examples[2..]
        );
    }

    #[test]
    fn a_bad_line_is_named_by_number_and_field() {
        let good = r#"{"text": "c"}"#;
        let cases = [
            ("nonsense", "line 2: it is not JSON"),
            ("[1]", "found a list"),
            ("7", "found a number"),
            ("{\"question\": 1}", "[\"question\"]"),
            (r#"{"prompt": "a"}"#, "`completion` is missing"),
            (r#"{"prompt": "a", "completion": 7}"#, "`completion` is not a string"),
            (r#"{"text": ""}"#, "`text` is empty"),
            (r#"{"messages": []}"#, "`messages` has fewer"),
            (
                r#"{"messages": [{"role": "user"}, {"role": "assistant", "content": "x"}]}"#,
                "`messages[0].content` is missing",
            ),
            (
                r#"{"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]}"#,
                "does not end with",
            ),
        ];
        for (bad, expected) in cases {
            let error = Example::from_body(&format!("{good}\n{bad}\n{good}"), LIMIT).unwrap_err();
            assert_eq!(error.line, 2, "{bad}");
            assert!(error.to_string().contains(expected), "{error}: no {expected:?}");
        }
        let of = |bytes| format!("{{\"text\": \"{}\"}}", "x".repeat(bytes));
        Example::from_body(&of(LIMIT), LIMIT).unwrap();
        assert_eq!(
            Example::from_body(&of(LIMIT + 1), LIMIT).unwrap_err().source,
            ExampleError::TooLong {
                found: LIMIT + 1,
                limit: LIMIT
            }
        );
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused_without_a_panic(body in "\\PC{0,200}") {
            let _ = Example::from_body(&body, LIMIT);
        }

        #[test]
        fn what_was_read_is_written_and_read_again(prompt in "\\PC{1,40}", answer in "\\PC{1,40}") {
            let example = completion(&prompt, &answer);
            prop_assert_eq!(Example::from_lines(&example.to_string(), LIMIT).unwrap(), vec![example]);
        }
    }
}
