//! Which variant of a release a device runs, and why not another one.
//!
//! Speed is predicted with a roofline: generating one token reads every weight once and the whole key-value cache,
//! and computes a fixed number of operations; whichever takes longer bounds the speed. What devices of the same class
//! really reach corrects the prediction ([`Correction`]). Of the variants that meet every requirement the one with the
//! lowest held-out loss is chosen.

mod correction;
mod decide;
mod reason;
mod roofline;
mod variant;

pub use correction::{Correction, SpeedObservation};
pub use decide::{PlacementReport, Score, VariantReport, Verdict, place};
pub use reason::Reason;
pub use roofline::{Bottleneck, Prediction, predict};
pub use variant::{BitsPerWeight, Loss, Requirements, VariantSpec, VariantSpecError};

#[cfg(test)]
mod tests;
