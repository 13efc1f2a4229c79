//! Probe prompts: what a device asks a release before it switches to it.

use fieldfare_lm::engine::Engine;
use fieldfare_lm::example::Rendered;
use fieldfare_lm::tokenizer::ChatMessage;
use fieldfare_release::limits::{MAX_PROBE_TEXT_BYTES, MAX_PROBE_TOKENS, MAX_PROBES};
use fieldfare_release::manifest::Probe;
use serde::Deserialize;

use super::{Import, build::BuiltFile, load};
use crate::compute::Stop;
use crate::evaluation::greedy;
use crate::examples::{ExampleSet, lines};
use crate::failure::{WorkError, chain};
use crate::limits::{EXAMPLES_BYTES_MAX, PROBE_TOKENS_DEFAULT, PROBES_DERIVED};

/// One line of a probe file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    #[serde(default)]
    prompt: Option<String>,
    #[serde(default)]
    messages: Vec<ChatMessage>,
    /// How the completion starts; the most precise variant's own completion where it is missing.
    #[serde(default, alias = "completion")]
    expected: Option<String>,
    #[serde(default)]
    max_tokens: Option<u32>,
}

impl Question {
    fn parse(line: &str) -> Result<Self, String> {
        let question: Self = serde_json::from_str(line).map_err(|error| error.to_string())?;
        match (&question.prompt, question.messages.is_empty()) {
            (Some(_), true) | (None, false) => Ok(question),
            _ => Err("expected either `prompt` or `messages`".to_owned()),
        }
    }

    /// The probe, with what the model says where nothing is expected; nothing if it says nothing.
    fn probe(&self, engine: &Engine) -> Result<Option<Probe>, String> {
        let prompt = match &self.prompt {
            Some(prompt) => prompt.clone(),
            None => engine
                .template()
                .render(&self.messages)
                .map_err(|error| chain(&error))?,
        };
        let max_tokens = self
            .max_tokens
            .unwrap_or(PROBE_TOKENS_DEFAULT)
            .clamp(1, MAX_PROBE_TOKENS);
        let expected = match &self.expected {
            Some(expected) => expected.clone(),
            None => greedy(engine, &prompt, max_tokens).map_err(|error| chain(&error))?,
        };
        Ok((!expected.is_empty()).then_some(Probe {
            prompt,
            expected,
            max_tokens,
        }))
    }
}

/// The first questions of the held-out text that are short enough, for a release without probes of its own.
fn derived(evaluation: &ExampleSet, engine: &Engine) -> Result<Vec<Question>, String> {
    let mut questions = Vec::new();
    for example in evaluation.examples() {
        let rendered = example.rendered(engine.template()).map_err(|error| chain(&error))?;
        let Rendered::Completion { prompt, .. } = rendered else {
            continue;
        };
        if prompt.len() <= MAX_PROBE_TEXT_BYTES && questions.len() < PROBES_DERIVED {
            questions.push(Question {
                prompt: Some(prompt.into_owned()),
                messages: Vec::new(),
                expected: None,
                max_tokens: None,
            });
        }
    }
    Ok(questions)
}

fn answer(engine: &Engine, questions: &[Question], stop: &Stop) -> Result<Vec<Probe>, String> {
    let mut probes = Vec::with_capacity(questions.len());
    for (index, question) in questions.iter().enumerate() {
        stop.check().map_err(|error| error.to_string())?;
        let probe = question
            .probe(engine)
            .map_err(|problem| format!("probe {}: {problem}", index + 1))?;
        probes.extend(probe);
    }
    Ok(probes)
}

impl Import<'_> {
    /// The probes of the release, answered by its most precise variant where they name no answer.
    pub(super) async fn probes(&self, best: &BuiltFile, evaluation: &ExampleSet) -> Result<Vec<Probe>, WorkError> {
        let given = match &self.spec.probes {
            Some(artifact) => {
                let bytes = self.uploaded("probes", artifact, EXAMPLES_BYTES_MAX).await?;
                let what = format!("the probes {:?}", artifact.file_name);
                let questions = lines(&bytes, Question::parse).map_err(WorkError::impossible(what))?;
                if questions.len() > MAX_PROBES {
                    let found = questions.len();
                    return Err(WorkError::Impossible(format!(
                        "{found} probes, more than the limit of {MAX_PROBES}"
                    )));
                }
                Some(questions)
            }
            None => None,
        };
        let (file, evaluation) = (best.file.clone(), evaluation.clone());
        let answered = self.workshop.compute.run(move |stop| {
            let engine = load(&file)?;
            let questions = given.map_or_else(|| derived(&evaluation, &engine), Ok);
            questions
                .and_then(|questions| answer(&engine, &questions, stop))
                .map_err(WorkError::Impossible)
        });
        answered.await.map_err(WorkError::computing("answering the probes"))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_has_one_kind_of_question() {
        assert!(Question::parse(r#"{"prompt": "a", "expected": "b", "max_tokens": 3}"#).is_ok());
        assert!(Question::parse(r#"{"prompt": "a", "completion": "b"}"#).is_ok());
        assert!(Question::parse(r#"{"messages": [{"role": "user", "content": "a"}]}"#).is_ok());
        for line in [
            r#"{"expected": "b"}"#,
            r#"{"prompt": "a", "messages": [{"role": "user", "content": "a"}]}"#,
            r#"{"promt": "a"}"#,
        ] {
            assert!(Question::parse(line).is_err(), "{line}");
        }
    }
}
