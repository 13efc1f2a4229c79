//! The quantities of differential privacy as types that cannot hold an impossible value.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::{MAX_CLIP_NORM, MAX_NOISE_MULTIPLIER, MIN_CLIP_NORM, MIN_NOISE_MULTIPLIER, MIN_SAMPLING_RATE};

/// A number that its quantity does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
#[error("{quantity} is {value}, expected {expected}")]
pub struct QuantityError {
    /// The quantity, as a user calls it.
    pub quantity: &'static str,
    /// What was given.
    pub value: f64,
    /// The allowed range.
    pub expected: &'static str,
}

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident, $label:literal, $expected:literal, |$value:ident| $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
        #[serde(try_from = "f64", into = "f64")]
        pub struct $name(f64);

        impl $name {
            #[doc = concat!("Accepts ", $expected, ".")]
            ///
            /// # Errors
            /// [`QuantityError`] names the quantity, the value and the allowed range; NaN is never allowed.
            pub fn new($value: f64) -> Result<Self, QuantityError> {
                if $valid {
                    Ok(Self($value))
                } else {
                    Err(QuantityError { quantity: $label, value: $value, expected: $expected })
                }
            }

            /// The plain number.
            #[must_use]
            pub fn get(self) -> f64 {
                self.0
            }
        }

        impl TryFrom<f64> for $name {
            type Error = QuantityError;

            fn try_from(value: f64) -> Result<Self, QuantityError> {
                Self::new(value)
            }
        }

        impl From<$name> for f64 {
            fn from(quantity: $name) -> f64 {
                quantity.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, formatter)
            }
        }
    };
}

quantity! {
    /// The privacy loss epsilon, in nats: 0 when nothing was released.
    Epsilon, "epsilon", "a finite number of at least 0", |value| value.is_finite() && value >= 0.0
}

impl Epsilon {
    /// The loss of releasing nothing.
    pub const ZERO: Self = Self(0.0);
}

quantity! {
    /// The probability delta with which the loss may exceed epsilon.
    Delta, "delta", "a number above 0 and below 1", |value| value > 0.0 && value < 1.0
}

quantity! {
    /// The standard deviation of the noise, in units of the clip norm (sigma).
    NoiseMultiplier, "noise multiplier", "a number from 0.01 to 10000",
    |value| (MIN_NOISE_MULTIPLIER..=MAX_NOISE_MULTIPLIER).contains(&value)
}

quantity! {
    /// The probability with which each example enters a batch, independently of all others (q).
    SamplingRate, "sampling rate", "a number from 0.000000001 to 1",
    |value| (MIN_SAMPLING_RATE..=1.0).contains(&value)
}

quantity! {
    /// The largest L2 norm of one example's gradient over all trained tensors jointly (C).
    ClipNorm, "clip norm", "a number from 1e-12 to 1e12",
    |value| (MIN_CLIP_NORM..=MAX_CLIP_NORM).contains(&value)
}

/// Serialises a quantity as the shortest decimal string that reads back to the same bits.
///
/// JSON readers may lose the last bit of a number; a ledger that compares a replay's parameters must not.
pub(crate) mod exact {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::QuantityError;

    pub(crate) fn serialize<T, S>(quantity: &T, serializer: S) -> Result<S::Ok, S::Error>
    where
        T: Copy + Into<f64>,
        S: Serializer,
    {
        let number: f64 = (*quantity).into();
        serializer.collect_str(&number)
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: TryFrom<f64, Error = QuantityError>,
        D: Deserializer<'de>,
    {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let number: f64 = text
            .parse()
            .map_err(|_| D::Error::custom(format!("`{text}` is not a decimal number")))?;
        T::try_from(number).map_err(D::Error::custom)
    }
}
