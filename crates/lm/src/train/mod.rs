//! Training with burn: the engine's decoder with gradients.
//!
//! [`FullTrainer`] trains all parameters. [`LoraDecoder`] freezes them and trains the B factors of a LoRA adapter, with
//! one copy of B per example, so that one backward pass leaves each example's own gradient.

mod adam;
mod batch;
mod decoder;
mod frozen;
mod full;
#[cfg(feature = "engine")]
mod load;
mod local_round;
mod lora;
mod loss;
pub mod memory;
mod weights;

pub use adam::{Adam, AdamConfig};
pub use batch::{PromptWeight, TrainingExample};
pub use frozen::{ExampleScore, FrozenDecoder, LoraDecoder};
pub use full::{CosineSchedule, FullTrainer};
#[cfg(feature = "engine")]
pub use load::LoadWeightsError;
pub use local_round::{GradientMechanism, LocalRound, LocalRoundConfig, LocalRoundError};
pub use lora::{LoraSpec, Place, orthonormal_a};
pub use weights::{DecoderWeights, WeightPlace, WrongLength};

#[cfg(test)]
mod tests;
