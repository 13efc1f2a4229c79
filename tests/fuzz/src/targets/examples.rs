//! Examples: JSON lines, a JSON list, or one object.

use fieldfare_lm::example::Example;
use fieldfare_lm::limits::MAX_MESSAGES;

use super::failed;
use crate::{Bound, Target};

/// What a reader takes, in bytes.
const LIMIT: usize = 256;

pub(super) const TARGET: Target = Target {
    name: "examples",
    seeds: || {
        let lines = concat!(
            r#"{"prompt": "a", "completion": "b", "id": 7}"#,
            "\n\n",
            r#"{"text": "c \u00e9 \ud83e\udd99"}"#,
            "\n",
            r#"{"messages": [{"role": "user", "content": "d"}, {"role": "assistant", "content": "e"}]}"#
        );
        let list = format!(
            "[{}]",
            lines
                .lines()
                .filter(|line| !line.is_empty())
                .collect::<Vec<_>>()
                .join(",")
        );
        vec![lines.into(), list.into(), lines.lines().next().unwrap().into()]
    },
    invent: None,
    take,
    // A value takes some hundred bytes for the two that are a level of nesting, which is where JSON's own limit ends it.
    bound: Bound {
        base: 64 << 10,
        per_byte: 512,
    },
    words: &[
        b"\"messages\"",
        b"\"prompt\"",
        b"\"completion\"",
        b"\"text\"",
        b"\"role\"",
        b"\"content\"",
        b"\"assistant\"",
        b"[[[[[[[[",
        b"{\"messages\":[",
        b"\\ud800",
        b"1e999",
        b"\n",
    ],
    inputs: 40_000,
};

fn take(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return "no text".to_owned();
    };
    let examples = match Example::from_body(text, LIMIT) {
        Ok(examples) => examples,
        Err(error) => {
            assert!(error.line >= 1 && error.line <= text.len().max(1));
            return failed(&error);
        }
    };
    let mut lines = String::new();
    for example in &examples {
        if let Example::Messages { messages } = example {
            assert!((2..=MAX_MESSAGES).contains(&messages.len()));
        }
        assert_eq!(example.answer().is_none(), matches!(example, Example::Text { .. }));
        lines += &format!("{example}\n");
    }
    assert_eq!(Example::from_lines(&lines, LIMIT).unwrap(), examples);
    format!("{} examples", if examples.is_empty() { "no" } else { "some" })
}
