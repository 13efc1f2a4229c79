//! Conversions between messages and the domain's types. Each refuses what the domain's type refuses, and names the field.

mod error;
mod identity;
mod observation;
mod placement;
mod policy;
mod profile;
mod rollout;
mod round;

pub use error::{ConversionError, OptionExt, ResultExt};
