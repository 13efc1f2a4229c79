//! Clipping, noise, accounting and the rules of the privacy ledger. Pure.
//!
//! A device trains with DP-SGD on its own examples. Each step goes through four parts, in this order:
//!
//! 1. [`sampling`] draws a Poisson batch: every example enters independently with the public rate q.
//! 2. [`clip`] bounds the L2 norm of each example's gradient, over all trained tensors jointly, and sums them exactly.
//! 3. [`noise`] supplies Gaussian noise from ChaCha20, keyed by 32 bytes which the caller draws and keeps secret.
//! 4. [`step`] adds the two and divides by a constant that is public, never by the size of the drawn batch.
//!
//! What the job pays for these steps is computed by [`accountant`] and granted or refused by [`ledger`], before anything
//! leaves the device. The resulting update travels as a vector of ring integers ([`contribution`]), whose sum is exact
//! in any order.
//!
//! The crate reads no clock, no file and no ambient randomness.

pub mod accountant;
pub mod clip;
pub mod contribution;
pub mod ledger;
pub mod limits;
pub mod noise;
pub mod parameters;
pub mod quantity;
pub mod randomness;
pub mod sampling;
pub mod step;

pub use accountant::{Accountant, CalibrationError, Mechanism, RdpCurve, calibrate_sigma};
pub use clip::{ClipError, ClippedSum};
pub use contribution::{ContributionError, Encoded, ExactSum, RingCodec, RingError, RingParameters, SumError};
pub use ledger::{
    Budget, BudgetError, Charge, ChargeKey, ChargeOutcome, ChargeRecord, JobName, JobNameError, Ledger, Refusal,
    RestoreError, Spending,
};
pub use noise::GaussianNoise;
pub use parameters::{DpSgdParameters, ParameterError};
pub use quantity::{ClipNorm, Delta, Epsilon, NoiseMultiplier, QuantityError, SamplingRate};
pub use randomness::TrainingSeed;
pub use sampling::PoissonSampler;
pub use step::{StepError, noisy_gradient};
