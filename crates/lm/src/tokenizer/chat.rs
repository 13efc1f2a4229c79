//! Chat templates: Jinja from the GGUF metadata, or a plain one where there is none.

use std::io;
use std::sync::Arc;

use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, context};
use serde::{Deserialize, Serialize};

use super::Vocabulary;
use crate::gguf::Metadata;
use crate::limits;

/// The metadata key of the template.
const KEY: &str = "tokenizer.chat_template";

/// For models that bring no template: the speaker's name before each message, and the assistant's at the end.
const PLAIN: &str = "{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}\n{% endfor %}\
                     {% if add_generation_prompt %}Assistant:{% endif %}";

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// Why a conversation could not be written as a prompt.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The template is no Jinja.
    #[error("{KEY} cannot be parsed")]
    Syntax(#[source] Error),
    /// The template refused the conversation, failed, or took too long.
    #[error("{KEY} cannot be rendered for this conversation")]
    Render(#[source] Error),
}

/// A chat template, ready to render. Rendering is bounded in steps and in output.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    begin: String,
    end: String,
    is_plain: bool,
}

impl ChatTemplate {
    /// The template of a model, or the plain one.
    pub fn from_metadata(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Self, TemplateError> {
        let source = metadata.get(KEY).and_then(|value| value.as_str());
        let spelling = |token: Option<u32>| {
            token
                .and_then(|token| vocabulary.text(token))
                .unwrap_or_default()
                .to_owned()
        };
        Ok(Self {
            environment: Arc::new(environment(source.unwrap_or(PLAIN))?),
            begin: spelling(vocabulary.begin()),
            end: spelling(vocabulary.end()),
            is_plain: source.is_none(),
        })
    }

    /// Whether the model brought no template.
    pub fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// The prompt after which the assistant speaks. Its control tokens are to be parsed.
    pub fn render(&self, messages: &[ChatMessage]) -> Result<String, TemplateError> {
        let template = self.environment.get_template(KEY).map_err(TemplateError::Render)?;
        let values = context! {
            messages => messages,
            add_generation_prompt => true,
            bos_token => self.begin,
            eos_token => self.end,
        };
        let mut output = Bounded { text: Vec::new() };
        template
            .render_captured_to(values, &mut output)
            .map_err(TemplateError::Render)?;
        Ok(String::from_utf8_lossy(&output.text).into_owned())
    }
}

/// Output that stops at the most text that a tokenizer accepts.
struct Bounded {
    text: Vec<u8>,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > limits::MAX_TEXT_BYTES {
            return Err(io::Error::other("the prompt is longer than the limit"));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn environment(source: &str) -> Result<Environment<'static>, TemplateError> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(limits::MAX_TEMPLATE_FUEL));
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.set_unknown_method_callback(python_method);
    environment
        .add_template_owned(KEY, source.to_owned())
        .map_err(TemplateError::Syntax)?;
    Ok(environment)
}

/// The methods of Python's `str` and `dict` that published templates call.
fn python_method(state: &State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if value.kind() == ValueKind::Map {
        return map_method(state, value, method, args);
    }
    let Some(text) = value.as_str() else {
        return Err(Error::from(ErrorKind::UnknownMethod));
    };
    let characters = |args: &[Value]| -> Result<Option<String>, Error> { Ok(from_args::<(Option<String>,)>(args)?.0) };
    let is_trimmed = |set: &Option<String>, character: char| match set {
        Some(set) => set.contains(character),
        None => character.is_whitespace(),
    };
    Ok(match method {
        "strip" => {
            let set = characters(args)?;
            Value::from(text.trim_matches(|c| is_trimmed(&set, c)))
        }
        "lstrip" => {
            let set = characters(args)?;
            Value::from(text.trim_start_matches(|c| is_trimmed(&set, c)))
        }
        "rstrip" => {
            let set = characters(args)?;
            Value::from(text.trim_end_matches(|c| is_trimmed(&set, c)))
        }
        "startswith" => Value::from(text.starts_with(&*from_args::<(String,)>(args)?.0)),
        "endswith" => Value::from(text.ends_with(&*from_args::<(String,)>(args)?.0)),
        "upper" | "lower" | "capitalize" | "title" | "replace" => {
            state.apply_filter(method, &[std::slice::from_ref(value), args].concat())?
        }
        "split" => split(text, args)?,
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

fn split(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, _): (Option<String>, Kwargs) = from_args(args)?;
    Ok(match separator.as_deref() {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(separator) => text.split(separator).map(Value::from).collect(),
        None => text.split_whitespace().map(Value::from).collect(),
    })
}

fn map_method(state: &State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match method {
        "items" => state.apply_filter("items", std::slice::from_ref(value)),
        "keys" => Ok(value.try_iter()?.collect()),
        "get" => {
            let (key, default): (Value, Option<Value>) = from_args(args)?;
            let found = value.get_item(&key)?;
            Ok(if found.is_undefined() {
                default.unwrap_or(Value::from(()))
            } else {
                found
            })
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}
