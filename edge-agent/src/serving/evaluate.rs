//! Measuring a model on examples: loss over what counts, and exact answers by greedy decoding.

use fieldfare_lm::engine::Engine;
use fieldfare_lm::example::{Example, Rendered};

use super::child::blamed;
use super::protocol::{Blame, Evaluation};
use crate::process;

/// An evaluation, one example at a time, so that requests are answered in between.
#[derive(Debug)]
pub(super) struct EvaluationInProgress {
    examples: std::vec::IntoIter<Example>,
    measured: Evaluation,
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
        let rendered = example.rendered(engine.template());
        let loss = match rendered.map_err(|error| (Blame::Request, process::chain(&error)))? {
            Rendered::Text(text) => engine.text_loss(text).map_err(|error| blamed(&error))?,
            Rendered::Completion { prompt, completion } => {
                let assessed = engine.assess(&prompt, completion).map_err(|error| blamed(&error))?;
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
