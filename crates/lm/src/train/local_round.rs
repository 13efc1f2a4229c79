//! One device's part of a federated round: some private steps on its own examples.
//!
//! How examples are drawn, and what becomes of their gradients, is not decided here: a [`GradientMechanism`] draws each
//! batch and turns per-example gradients into the one vector that may be used. Clipping and noise live behind it, so
//! nothing in this module sees a gradient after it was handed over, and no loss is ever computed on private examples.

use std::sync::atomic::{AtomicBool, Ordering};

use super::adam::{Adam, AdamConfig};
use super::batch::TrainingExample;
use super::frozen::LoraDecoder;
use super::memory::PhysicalBatch;

/// What stands between the examples and the parameters.
pub trait GradientMechanism {
    /// Why a step could not be made.
    type Error;

    /// The indices of the examples that take part in `step`, out of `examples`; there may be none.
    fn batch(&mut self, step: u64, examples: usize) -> Vec<usize>;

    /// Takes one example's gradient.
    ///
    /// # Errors
    /// When the gradient cannot be used; the round ends.
    fn add(&mut self, gradient: &[f32]) -> Result<(), Self::Error>;

    /// Ends the step: the private gradient of all that was added since the last end, of the length of the parameters.
    ///
    /// # Errors
    /// When there is none; the round ends.
    fn finish(&mut self, step: u64) -> Result<Vec<f32>, Self::Error>;
}

/// The public numbers of a local round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LocalRoundConfig {
    /// Private steps.
    pub steps: u64,
    /// Learning rate of Adam, which sees private gradients only.
    pub learning_rate: f32,
    /// Constants of Adam.
    pub adam: AdamConfig,
    /// Examples in one backward pass; larger batches are cut into parts, which changes nothing but the memory.
    pub physical_batch: PhysicalBatch,
}

/// Why a local round ended early. Its result is lost; what the privacy ledger paid is paid.
#[derive(Debug, thiserror::Error)]
pub enum LocalRoundError<E> {
    /// Somebody set the flag.
    #[error("training was cancelled after {steps} steps")]
    Cancelled {
        /// Steps that were finished.
        steps: u64,
    },
    /// The mechanism gave no gradient.
    #[error("step {step} has no private gradient")]
    Mechanism {
        /// The step, counted from 0.
        step: u64,
        /// Why.
        source: E,
    },
    /// The mechanism's gradient has another length than the adapter.
    #[error("the private gradient has {found} elements, expected {expected}")]
    GradientLength {
        /// What the mechanism returned.
        found: usize,
        /// Parameters that are trained.
        expected: usize,
    },
    /// The starting point has another length than the adapter.
    #[error("the adapter state has {found} elements, expected {expected}")]
    StateLength {
        /// What was given.
        found: usize,
        /// Parameters that are trained.
        expected: usize,
    },
}

/// One device's local steps.
#[derive(Debug, Clone, Copy)]
pub struct LocalRound<'a> {
    /// The frozen base and the fixed part of the adapter.
    pub decoder: &'a LoraDecoder,
    /// The device's examples.
    pub examples: &'a [TrainingExample],
    /// The public numbers.
    pub config: LocalRoundConfig,
    /// Checked before every backward pass; once set, the round ends with [`LocalRoundError::Cancelled`].
    pub cancelled: &'a AtomicBool,
}

impl LocalRound<'_> {
    /// Runs the steps from the B factors `start` and returns the B factors afterwards.
    ///
    /// `progress` is called after each step with the number of finished steps, which is public; it learns nothing else.
    ///
    /// # Errors
    /// [`LocalRoundError`]; `start` is untouched then.
    pub fn run<M: GradientMechanism>(
        &self,
        start: &[f32],
        mechanism: &mut M,
        mut progress: impl FnMut(u64),
    ) -> Result<Vec<f32>, LocalRoundError<M::Error>> {
        let expected = self.decoder.trained_parameters();
        if start.len() != expected {
            return Err(LocalRoundError::StateLength {
                found: start.len(),
                expected,
            });
        }
        let mut state = start.to_vec();
        let mut adam = Adam::new(self.config.adam, expected);
        for step in 0..self.config.steps {
            let gradient = self.private_gradient(step, &state, mechanism)?;
            if gradient.len() != expected {
                return Err(LocalRoundError::GradientLength {
                    found: gradient.len(),
                    expected,
                });
            }
            adam.step(&mut state, &gradient, self.config.learning_rate, |_| false);
            progress(step + 1);
        }
        Ok(state)
    }

    fn private_gradient<M: GradientMechanism>(
        &self,
        step: u64,
        state: &[f32],
        mechanism: &mut M,
    ) -> Result<Vec<f32>, LocalRoundError<M::Error>> {
        let failed = |source| LocalRoundError::Mechanism { step, source };
        let mut drawn: Vec<&TrainingExample> = mechanism
            .batch(step, self.examples.len())
            .into_iter()
            .filter_map(|index| self.examples.get(index))
            .collect();
        // Examples of like length share a pass, so that little of it is padding; the sum does not depend on the order.
        drawn.sort_by_key(|example| example.tokens().len());
        for part in drawn.chunks(self.config.physical_batch.get()) {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(LocalRoundError::Cancelled { steps: step });
            }
            for gradient in self.decoder.per_example_gradients(state, part) {
                mechanism.add(&gradient).map_err(failed)?;
            }
        }
        mechanism.finish(step).map_err(failed)
    }
}
