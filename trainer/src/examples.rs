//! Sets of examples to evaluate on.

use std::collections::BTreeMap;

use fieldfare_lm::example::Example;

use crate::failure::chain;
use crate::limits::{EXAMPLE_BYTES_MAX, EXAMPLES_MAX};

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
            examples: lines(bytes, |line| {
                Example::from_line(line, EXAMPLE_BYTES_MAX).map_err(|error| chain(&error))
            })?,
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
        let long = format!("{{\"text\": \"{}\"}}", "x".repeat(EXAMPLE_BYTES_MAX + 1));
        for (line, problem) in [
            ("{\"text\": 1}", "`text` is not a string"),
            (&*long, "the limit is 1048576"),
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
