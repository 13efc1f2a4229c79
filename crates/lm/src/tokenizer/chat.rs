//! Chat templates: Jinja from the GGUF metadata, or a plain one where there is none.

use std::io::{self, Write as _};
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, context};
use serde::{Deserialize, Serialize};
use serde_json::ser::{Formatter, PrettyFormatter};

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

/// Widest indentation of `tojson`.
const MAX_INDENT: usize = 8;

/// Filters whose result is not bounded by what they are given and what the engine charges for it, and which no published chat
/// template uses.
const WITHOUT: [&str; 9] = [
    "batch", "slice", "sum", "indent", "format", "pprint", "groupby", "zip", "chain",
];

/// A chat template, ready to render. Steps, strings and output are bounded: the engine charges one unit of
/// [`MAX_TEMPLATE_FUEL`](limits::MAX_TEMPLATE_FUEL) for a step and for 64 bytes of what a step makes, before it makes it. What
/// it does not charge are lists that a template adds to one another, the text of a list or a map that it concatenates (`~`) to a
/// string, and how deep it nests them: whoever renders a stranger's template must outlive the end of the process that does.
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
            messages => Value::from(Serde(messages)),
            add_generation_prompt => true,
            bos_token => self.begin.as_str(),
            eos_token => self.end.as_str(),
        };
        let mut output = Bounded::default();
        template
            .render_captured_to(values, &mut output)
            .map_err(TemplateError::Render)?;
        Ok(output.into_text())
    }
}

/// Output that stops at the most text that a tokenizer accepts.
#[derive(Debug, Default)]
struct Bounded {
    text: Vec<u8>,
}

impl Bounded {
    fn into_text(self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }
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
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(TemplateError::Syntax)?);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(limits::MAX_TEMPLATE_FUEL));
    environment.set_formatter(emit);
    environment.add_function("raise_exception", raise_exception);
    environment.set_unknown_method_callback(python_method);
    for name in WITHOUT {
        environment.remove_filter(name);
    }
    environment.remove_global("debug");
    environment.add_filter("string", string);
    environment.add_filter("join", join);
    environment.add_filter("tojson", tojson);
    environment
        .add_template_owned(KEY, source.to_owned())
        .map_err(TemplateError::Syntax)?;
    Ok(environment)
}

fn too_long(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::InvalidOperation, "the text cannot be made").with_source(error)
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

/// The engine's own, bounded where the value is a list or a map: what is captured in a variable is charged only once it is there.
fn emit(output: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.as_object().is_none() {
        return minijinja::escape_formatter(output, state, value);
    }
    output.write_str(&text_of(value)?).map_err(Error::from)
}

/// The text of any value. A list that is longer than its text may be is not looked at: the engine goes through all of it.
fn text_of(value: &Value) -> Result<String, Error> {
    let length = value.len().unwrap_or_default();
    if length > limits::MAX_TEXT_BYTES {
        let problem = format!("a list of {length} values has too long a text");
        return Err(Error::new(ErrorKind::InvalidOperation, problem));
    }
    let mut text = Bounded::default();
    write!(text, "{value}").map_err(too_long)?;
    Ok(text.into_text())
}

/// The engine's own, bounded where the value is a list or a map.
fn string(value: Value) -> Result<Value, Error> {
    if value.kind() == ValueKind::String {
        return Ok(value);
    }
    text_of(&value).map(Value::from)
}

/// The engine's own, bounded also without anything between the items.
fn join(state: &State<'_, '_>, values: &Value, between: Option<&str>) -> Result<String, Error> {
    let mut text = Bounded::default();
    for (index, value) in values.try_iter()?.enumerate() {
        state.consume_fuel(1)?;
        if index > 0 {
            text.write_all(between.unwrap_or_default().as_bytes())
                .map_err(too_long)?;
        }
        text.write_all(text_of(&value)?.as_bytes()).map_err(too_long)?;
    }
    Ok(text.into_text())
}

/// What `json.dumps` writes for published templates: a space after each comma and colon, nothing escaped for HTML.
fn tojson(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<usize>>("indent")?,
    };
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson writes UTF-8 alone"));
    }
    options.assert_all_used()?;
    let mut text = Bounded::default();
    let written = match indent {
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Spaced)),
        Some(width @ 0..=MAX_INDENT) => {
            let spaces = [b' '; MAX_INDENT];
            let pretty = PrettyFormatter::with_indent(spaces.get(..width).unwrap_or_default());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, pretty))
        }
        Some(width) => {
            let problem = format!("an indentation of {width}, more than the limit of {MAX_INDENT}");
            return Err(Error::new(ErrorKind::InvalidOperation, problem));
        }
    };
    written.map_err(too_long)?;
    Ok(text.into_text())
}

/// JSON on one line as Python writes it.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// The methods of Python's `str` and `dict` that published templates call.
fn python_method(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if value.kind() == ValueKind::Map {
        return map_method(state, value, method, args);
    }
    let Some(text) = value.as_str() else {
        return Err(Error::from(ErrorKind::UnknownMethod));
    };
    let is_trimmed = |set: &Option<&str>, character: char| match set {
        Some(set) => set.contains(character),
        None => character.is_whitespace(),
    };
    Ok(match method {
        "strip" => {
            let (set,) = from_args::<(Option<&str>,)>(args)?;
            Value::from(text.trim_matches(|c| is_trimmed(&set, c)))
        }
        "lstrip" => {
            let (set,) = from_args::<(Option<&str>,)>(args)?;
            Value::from(text.trim_start_matches(|c| is_trimmed(&set, c)))
        }
        "rstrip" => {
            let (set,) = from_args::<(Option<&str>,)>(args)?;
            Value::from(text.trim_end_matches(|c| is_trimmed(&set, c)))
        }
        "startswith" => Value::from(text.starts_with(from_args::<(&str,)>(args)?.0)),
        "endswith" => Value::from(text.ends_with(from_args::<(&str,)>(args)?.0)),
        "upper" | "lower" | "capitalize" | "title" | "replace" => {
            state.apply_filter(method, &[std::slice::from_ref(value), args].concat())?
        }
        "split" => split(text, args)?,
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

fn split(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, _): (Option<&str>, Kwargs) = from_args(args)?;
    Ok(match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(separator) => text.split(separator).map(Value::from).collect(),
        None => text.split_whitespace().map(Value::from).collect(),
    })
}

fn map_method(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
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
