//! Measuring a model on examples: loss over what counts, and exact answers by greedy decoding.

use fieldfare_lm::engine::Engine;
use fieldfare_lm::tokenizer::ChatMessage;

use super::child::blamed;
use super::protocol::{Blame, Evaluation};
use crate::example::{Example, Message};
use crate::process;

/// An evaluation, one example at a time, so that requests are answered in between.
#[derive(Debug)]
pub(super) struct EvaluationInProgress {
    examples: std::vec::IntoIter<Example>,
    measured: Evaluation,
}

/// The texts of an example: what comes before, and what should follow. Plain text has no prompt.
pub(crate) enum Parts {
    /// A prompt and what should follow it.
    Completion {
        /// What comes before.
        prompt: String,
        /// What should follow.
        completion: String,
    },
    /// Text as such.
    Text(String),
}

/// An example as the model sees it: conversations are written by the model's chat template.
pub(crate) fn parts(
    example: &Example,
    render: impl Fn(&[ChatMessage]) -> Result<String, String>,
) -> Result<Parts, String> {
    Ok(match example {
        Example::Text { text } => Parts::Text(text.clone()),
        Example::Completion { prompt, completion } => Parts::Completion {
            prompt: prompt.clone(),
            completion: completion.clone(),
        },
        Example::Messages { messages } => {
            let (last, before) = messages.split_last().ok_or("the conversation is empty")?;
            let before: Vec<ChatMessage> = before.iter().map(ChatMessage::from).collect();
            let Message { content, .. } = last;
            Parts::Completion {
                prompt: render(&before)?,
                completion: content.clone(),
            }
        }
    })
}

impl EvaluationInProgress {
    pub(super) fn new(examples: Vec<Example>) -> Self {
        Self {
            examples: examples.into_iter(),
            measured: Evaluation::default(),
        }
    }

    pub(super) const fn measured(&self) -> &Evaluation {
        &self.measured
    }

    /// Measures one example; true when there is no more.
    pub(super) fn advance(&mut self, engine: &Engine) -> Result<bool, (Blame, String)> {
        let Some(example) = self.examples.next() else {
            return Ok(true);
        };
        let at = self.measured.examples + 1;
        let named = |(blame, reason): (Blame, String)| (blame, format!("example {at}: {reason}"));
        self.measure(engine, &example).map_err(named)?;
        self.measured.examples = at;
        Ok(false)
    }

    fn measure(&mut self, engine: &Engine, example: &Example) -> Result<(), (Blame, String)> {
        let render = |messages: &[ChatMessage]| engine.template().render(messages).map_err(|e| process::chain(&e));
        let parts = parts(example, render).map_err(|reason| (Blame::Request, reason))?;
        let loss = match &parts {
            Parts::Text(text) => engine.text_loss(text).map_err(|error| blamed(&error))?,
            Parts::Completion { prompt, completion } => {
                let assessed = engine.assess(prompt, completion).map_err(|error| blamed(&error))?;
                self.measured.completions += 1;
                self.measured.exact += u64::from(assessed.exact);
                assessed.loss
            }
        };
        self.measured.nats += loss.nats;
        self.measured.tokens += loss.tokens;
        Ok(())
    }
}
