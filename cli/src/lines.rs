//! JSON lines, looked at before they are uploaded: whoever wrote them hears of a wrong line now, not from a trainer later.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use fieldfare_lm::example::{Example, ExampleError};
use serde_json::Value;

use crate::limits::{MAX_EXAMPLE_BYTES, MAX_TEXT_BYTES};

const EXAMPLE: &str = r#"{"messages": [...]}, {"prompt": ..., "completion": ...} or {"text": ...}"#;
const PROBE: &str = r#"{"prompt": ...} or {"messages": [...]}, and "completion" where it is known"#;

/// Checks each line of a file with `check`, which says what is wrong and what was expected; empty lines are passed over.
///
/// # Errors
/// The file cannot be read, is too long, holds nothing, or has a line that is none: named by file and line.
pub fn check(path: &Path, check: impl Fn(&str) -> Result<(), String>) -> Result<()> {
    let shown = path.display();
    let length = fs::metadata(path).with_context(|| format!("reading {shown}"))?.len();
    if length > MAX_TEXT_BYTES {
        bail!("{shown} has {length} bytes, more than the limit of {MAX_TEXT_BYTES}");
    }
    let bytes = fs::read(path).with_context(|| format!("reading {shown}"))?;
    let Ok(text) = String::from_utf8(bytes) else {
        bail!("{shown} is not UTF-8 text; expected one JSON object a line")
    };
    let mut lines = 0;
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        lines += 1;
        if let Err(problem) = check(line) {
            bail!("{shown} line {}: {problem}", index + 1);
        }
    }
    if lines == 0 {
        bail!("{shown} is empty; expected one JSON object a line");
    }
    Ok(())
}

/// A line of a file of examples.
///
/// # Errors
/// What is wrong with it, and what was expected.
pub fn example(line: &str) -> Result<(), String> {
    let expected = |error: ExampleError| match error {
        ExampleError::Form { .. } => error.to_string(),
        _ => format!("{error}; expected {EXAMPLE}"),
    };
    Example::from_line(line, MAX_EXAMPLE_BYTES).map(drop).map_err(expected)
}

/// A line of a file of probes.
///
/// # Errors
/// What is wrong with it, and what was expected.
pub fn probe(line: &str) -> Result<(), String> {
    let no_json = |error| format!("it is not JSON: {error}; expected {PROBE}");
    let value: Value = serde_json::from_str(line).map_err(no_json)?;
    if value["prompt"].is_string() == value["messages"].is_array() {
        return Err(format!("expected {PROBE}"));
    }
    match value.get("completion").or(value.get("expected")) {
        None | Some(Value::String(_)) => Ok(()),
        Some(_) => Err("field `completion` is not a string".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_line_is_named_by_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("probes.jsonl");
        let cases: [(&[u8], &str); 8] = [
            (b"{\"prompt\": \"a\"}\n\nno\n", "probes.jsonl line 3: it is not JSON"),
            (b"no", "expected {\"prompt\": ...}"),
            (b"{\"text\": \"a\"}\n", "line 1: expected {\"prompt\""),
            (b"7\n", "line 1: expected {\"prompt\""),
            (
                b"{\"prompt\": \"a\", \"completion\": 1}",
                "`completion` is not a string",
            ),
            (b"\n\n", "is empty"),
            (b"\xff\n", "is not UTF-8"),
            (b"", "is empty"),
        ];
        for (bytes, expected) in cases {
            fs::write(&path, bytes).unwrap();
            let error = check(&path, probe).unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} does not say {expected:?}");
        }
        let sound = "{\"prompt\": \"a\"}\n{\"prompt\": \"b\", \"completion\": \"c\"}\n";
        fs::write(&path, sound).unwrap();
        check(&path, probe).unwrap();
    }

    #[test]
    fn what_was_expected_of_an_example_is_said_once() {
        for line in ["no", "{}", "{\"text\": 1}", "{\"messages\": []}"] {
            let problem = example(line).unwrap_err();
            assert_eq!(problem.matches("{\"messages\": [...]}").count(), 1, "{problem}");
        }
        example("{\"text\": \"a\"}").unwrap();
    }
}
