//! Examples in the formats that people already have, and sets of them to evaluate on.

use std::collections::BTreeMap;

use fieldfare_lm::engine::Engine;
use fieldfare_lm::tokenizer::{ChatMessage, TemplateError};
use serde_json::{Map, Value};

use crate::limits::{EXAMPLE_BYTES_MAX, EXAMPLES_MAX, MESSAGES_MAX};

/// One example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Example {
    /// A conversation, and what the assistant should say next.
    Conversation {
        /// What was said before.
        before: Vec<ChatMessage>,
        /// What should be said.
        answer: String,
    },
    /// A prompt and what should follow it.
    Completion {
        /// What comes before.
        prompt: String,
        /// What should follow.
        completion: String,
    },
    /// Text as such: all of it counts.
    Text(String),
}

/// Why a text is no set of examples.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExamplesError {
    /// It is not UTF-8.
    #[error("it is not UTF-8 text")]
    NotText,
    /// It has no examples, or too many.
    #[error("it has {found} examples, expected 1 to {EXAMPLES_MAX}")]
    Count {
        /// How many.
        found: usize,
    },
    /// A line is no example.
    #[error("line {line}: {problem}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
}

fn text(object: &Map<String, Value>, field: &str) -> Result<String, String> {
    match object.get(field) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        Some(Value::String(_)) => Err(format!("field `{field}` is empty")),
        Some(_) => Err(format!("field `{field}` is not a string")),
        None => Err(format!("field `{field}` is missing")),
    }
}

fn conversation(messages: &Value) -> Result<Example, String> {
    let list = messages.as_array().ok_or("field `messages` is not a list")?;
    if !(2..=MESSAGES_MAX).contains(&list.len()) {
        return Err(format!(
            "field `messages` has {} messages, expected 2 to {MESSAGES_MAX}",
            list.len()
        ));
    }
    let message = |(index, value): (usize, &Value)| {
        let object = value
            .as_object()
            .ok_or_else(|| format!("messages[{index}] is not an object"))?;
        let part = |field| text(object, field).map_err(|problem| format!("messages[{index}]: {problem}"));
        Ok::<_, String>(ChatMessage {
            role: part("role")?,
            content: part("content")?,
        })
    };
    let mut before = list.iter().enumerate().map(message).collect::<Result<Vec<_>, _>>()?;
    match before.pop() {
        Some(last) if last.role == "assistant" => Ok(Example::Conversation {
            before,
            answer: last.content,
        }),
        _ => Err("field `messages` does not end with a message of role \"assistant\"".to_owned()),
    }
}

impl Example {
    /// Reads one line.
    fn parse(line: &str) -> Result<Self, String> {
        if line.len() > EXAMPLE_BYTES_MAX {
            return Err(format!(
                "it has {} bytes, more than the limit of {EXAMPLE_BYTES_MAX}",
                line.len()
            ));
        }
        let value: Value = serde_json::from_str(line).map_err(|error| format!("it is not JSON: {error}"))?;
        let object = value.as_object().ok_or("it is not an object")?;
        if let Some(messages) = object.get("messages") {
            conversation(messages)
        } else if object.contains_key("prompt") || object.contains_key("completion") {
            Ok(Self::Completion {
                prompt: text(object, "prompt")?,
                completion: text(object, "completion")?,
            })
        } else if object.contains_key("text") {
            Ok(Self::Text(text(object, "text")?))
        } else {
            Err("expected {\"messages\": [...]}, {\"prompt\": ..., \"completion\": ...} or {\"text\": ...}".to_owned())
        }
    }

    /// The prompt as the model sees it and what should follow; nothing for plain text.
    ///
    /// # Errors
    /// The model's chat template refuses the conversation.
    pub fn question(&self, engine: &Engine) -> Result<Option<(String, &str)>, TemplateError> {
        Ok(match self {
            Self::Text(_) => None,
            Self::Completion { prompt, completion } => Some((prompt.clone(), completion.as_str())),
            Self::Conversation { before, answer } => Some((engine.template().render(before)?, answer.as_str())),
        })
    }

    /// What should be answered; nothing for plain text.
    pub fn answer(&self) -> Option<&str> {
        match self {
            Self::Text(_) => None,
            Self::Completion { completion, .. } => Some(completion),
            Self::Conversation { answer, .. } => Some(answer),
        }
    }
}

/// Reads JSON lines; empty lines are passed over.
pub(crate) fn lines<T>(bytes: &[u8], parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, ExamplesError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ExamplesError::NotText)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(index, line): (usize, &str)| {
        parse(line).map_err(|problem| ExamplesError::Line {
            line: index + 1,
            problem,
        })
    };
    // One more than allowed is enough to know that there are too many.
    let examples = lines.take(EXAMPLES_MAX + 1).map(parse).collect::<Result<Vec<_>, _>>()?;
    match examples.len() {
        1..=EXAMPLES_MAX => Ok(examples),
        found => Err(ExamplesError::Count { found }),
    }
}

/// Examples to evaluate on: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExampleSet {
    examples: Vec<Example>,
}

impl ExampleSet {
    /// Reads JSON lines.
    ///
    /// # Errors
    /// [`ExamplesError`] names the line.
    pub fn parse(bytes: &[u8]) -> Result<Self, ExamplesError> {
        Ok(Self {
            examples: lines(bytes, Example::parse)?,
        })
    }

    /// The examples.
    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// How many examples ask for an answer.
    pub fn questions(&self) -> usize {
        self.examples
            .iter()
            .filter(|example| example.answer().is_some())
            .count()
    }

    /// The rate of exact answers of somebody who always gives the most frequent one. An answer that comes up once is nobody's
    /// habit: without a repeated one the rate is 0.
    pub fn majority_rate(&self) -> f64 {
        let mut counts = BTreeMap::new();
        for answer in self.examples.iter().filter_map(Example::answer) {
            *counts.entry(answer.trim()).or_insert(0_u32) += 1;
        }
        let most = counts.values().copied().max().filter(|most| *most > 1).unwrap_or(0);
        f64::from(most) / self.questions().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_are_read() {
        let set = ExampleSet::parse(
            br#"{"prompt": "a", "completion": "b"}

{"text": "all of it"}
{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "b"}], "id": 7}
"#,
        )
        .unwrap();
        assert_eq!(set.examples().len(), 3);
        assert_eq!(set.questions(), 2);
        assert_eq!(set.majority_rate(), 1.0);
    }

    #[test]
    fn a_line_that_is_no_example_is_named_with_what_is_wrong() {
        for (line, problem) in [
            ("{", "not JSON"),
            ("[]", "not an object"),
            ("{\"prompt\": \"a\"}", "`completion` is missing"),
            ("{\"prompt\": \"a\", \"completion\": \"\"}", "`completion` is empty"),
            ("{\"text\": 1}", "`text` is not a string"),
            ("{\"other\": 1}", "expected {\"messages\""),
            ("{\"messages\": []}", "has 0 messages"),
            (
                "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"user\", \"content\": \"b\"}]}",
                "does not end",
            ),
            ("{\"messages\": [1, 2]}", "messages[0] is not an object"),
        ] {
            let text = format!("{{\"text\": \"fine\"}}\n{line}\n");
            let error = ExampleSet::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(
                error.starts_with("line 2") && error.contains(problem),
                "{error} does not say {problem}"
            );
        }
        assert_eq!(ExampleSet::parse(b"\n"), Err(ExamplesError::Count { found: 0 }));
        assert_eq!(ExampleSet::parse(b"\xff"), Err(ExamplesError::NotText));
    }

    #[test]
    fn an_answer_that_comes_up_once_is_no_majority() {
        let of = |answers: &[&str]| {
            let lines: Vec<String> = answers
                .iter()
                .map(|answer| format!("{{\"prompt\": \"p\", \"completion\": \"{answer}\"}}"))
                .collect();
            ExampleSet::parse(lines.join("\n").as_bytes()).unwrap().majority_rate()
        };
        assert_eq!(of(&["a", "b", "c"]), 0.0);
        assert_eq!(of(&["a", "a ", "c", "d"]), 0.5);
    }
}
