//! Vocabulary and deciders of a fleet: placement, rollout, round, install. Pure.
//!
//! Nothing here reads a clock, draws randomness, or does input and output: time, seeds and ids are arguments, and what
//! to do is returned as data. A decider is plain data with `handle(now, event, &mut actions)` and `next_deadline()`;
//! the shell around it decides, persists, and then acts.

pub mod limits;

mod backoff;
mod device_id;
mod digest;
mod generation;
mod label;
mod name;
mod quantity;
mod release_id;
mod runtime;
mod selector;
mod time;
mod trust;

pub use backoff::Backoff;
pub use device_id::{DeviceId, DeviceIdError};
pub use digest::{Digest, DigestError};
pub use generation::{Generation, GenerationError};
pub use label::{LabelError, Labels};
pub use name::{DeploymentName, JobName, ModelName, NameError, TenantName, TrainerName, VariantName};
pub use quantity::{ByteSize, BytesPerSecond, Fraction, NatsPerToken, OpsPerSecond, QuantityError, TokensPerSecond};
pub use release_id::{Attempt, ReleaseId, ReleaseIdError, ReleaseNumber, RoundId, RoundNumber};
pub use runtime::{Arithmetic, Runtime, UnknownRuntime};
pub use selector::{Selector, SelectorError, SelectorTerm};
pub use time::Timestamp;
pub use trust::TrustTier;

mod capacity;
pub mod placement;
mod profile;

pub use capacity::{Capacity, ProfileClass, ProfileClassError};
pub use profile::{Accelerator, Arch, CapabilityProfile, ComputeRates, MeasuredSpeed, ProfileError, Provenance};

pub mod install;
mod obstacle;
pub mod rollout;
pub mod round;

pub use obstacle::Obstacle;

mod architecture;
mod known_models;
mod reference;

pub use architecture::{Architecture, FeedForward, Quantisation};
pub use known_models::{KnownModel, known_model, known_models};
pub use reference::{reference_profile, reference_profiles};
