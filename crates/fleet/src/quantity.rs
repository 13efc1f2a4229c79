//! Quantities with their unit in the type.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_NATS_PER_TOKEN, MAX_TOKENS_PER_SECOND};

macro_rules! counted {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Nothing of it.
            pub const ZERO: Self = Self(0);

            /// The quantity with this number of units.
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The number of units.
            pub const fn get(self) -> u64 {
                self.0
            }
        }
    )*};
}

counted! {
    /// A size in bytes.
    ByteSize;
    /// A bandwidth in bytes per second.
    BytesPerSecond;
    /// A compute rate in operations per second; one multiply-add counts as two.
    OpsPerSecond;
}

impl ByteSize {
    /// This many KiB (1024 bytes).
    pub const fn from_kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// This many MiB (1024^2 bytes).
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// This many GiB (1024^3 bytes).
    pub const fn from_gib(gib: u64) -> Self {
        Self(gib << 30)
    }

    /// The sum; one that does not fit is the largest size.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, at least zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The product; one that does not fit is the largest size.
    #[must_use]
    pub const fn saturating_mul(self, times: u64) -> Self {
        Self(self.0.saturating_mul(times))
    }
}

/// Writes a number with the largest unit below it, with three significant digits at least.
fn scaled(value: u64, step: f64, units: &[&str]) -> String {
    let mut rest = value as f64;
    let mut unit = 0;
    while rest >= step && unit + 1 < units.len() {
        rest /= step;
        unit += 1;
    }
    let decimals = match rest {
        _ if unit == 0 => 0,
        r if r < 10.0 => 2,
        r if r < 100.0 => 1,
        _ => 0,
    };
    format!("{rest:.decimals$} {}", units[unit])
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&scaled(self.0, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"]))
    }
}

impl fmt::Display for BytesPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&scaled(self.0, 1000.0, &["B/s", "kB/s", "MB/s", "GB/s", "TB/s"]))
    }
}

impl fmt::Display for OpsPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&scaled(
            self.0,
            1000.0,
            &["op/s", "kop/s", "Mop/s", "Gop/s", "Top/s", "Pop/s"],
        ))
    }
}

/// A number is not finite or not within the range of its quantity.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{quantity} is a number from {least} to {most}, {value} is not")]
pub struct QuantityError {
    /// What is measured.
    pub quantity: &'static str,
    /// The refused number.
    pub value: f64,
    /// Lower end of the range, included.
    pub least: f64,
    /// Upper end of the range, included.
    pub most: f64,
}

macro_rules! measured {
    ($($(#[$doc:meta])* $name:ident, $quantity:literal, $least:expr, $most:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Serialize, Deserialize)]
        #[serde(try_from = "f64", into = "f64")]
        pub struct $name(f64);

        impl $name {
            /// The quantity with this value.
            ///
            /// # Errors
            /// [`QuantityError`] for a value that is not finite or out of range.
            pub fn new(value: f64) -> Result<Self, QuantityError> {
                let (least, most): (f64, f64) = ($least, $most);
                if value.is_finite() && (least..=most).contains(&value) {
                    return Ok(Self(value + 0.0)); // the sum turns a negative zero into zero, so that equal values are one value
                }
                Err(QuantityError { quantity: $quantity, value, least, most })
            }

            /// The quantity nearest to this value within the range; a value that is not a number is the least one.
            pub fn clamped(value: f64) -> Self {
                let (least, most): (f64, f64) = ($least, $most);
                if value.is_nan() { Self(least) } else { Self(value.clamp(least, most) + 0.0) }
            }

            /// The value.
            pub const fn get(self) -> f64 {
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

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.cmp(other) == Ordering::Equal
            }
        }

        impl Eq for $name {}

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                self.0.total_cmp(&other.0)
            }
        }
    )*};
}

measured! {
    /// Speed of generation in tokens per second, 0 to a million.
    TokensPerSecond, "tokens per second", 0.0, MAX_TOKENS_PER_SECOND;
    /// Mean negative log-likelihood per token in nats, 0 to 64.
    NatsPerToken, "loss in nats per token", 0.0, MAX_NATS_PER_TOKEN;
    /// A share or a probability, 0 to 1.
    Fraction, "fraction", 0.0, 1.0;
}

impl fmt::Display for TokensPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&if self.0 < 100.0 {
            format!("{:.1} tok/s", self.0)
        } else {
            format!("{:.0} tok/s", self.0)
        })
    }
}

impl fmt::Display for NatsPerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.4} nats", self.0))
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.1} %", self.0 * 100.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_with_a_fitting_unit() {
        let cases = [
            (ByteSize::new(0).to_string(), "0 B"),
            (ByteSize::new(1023).to_string(), "1023 B"),
            (ByteSize::from_kib(1).to_string(), "1.00 KiB"),
            (ByteSize::from_gib(8).to_string(), "8.00 GiB"),
            (ByteSize::from_mib(640).to_string(), "640 MiB"),
            (BytesPerSecond::new(17_068_000_000).to_string(), "17.1 GB/s"),
            (OpsPerSecond::new(153_600_000_000).to_string(), "154 Gop/s"),
            (TokensPerSecond::clamped(12.34).to_string(), "12.3 tok/s"),
            (NatsPerToken::clamped(1.5).to_string(), "1.5000 nats"),
        ];
        for (written, expected) in cases {
            assert_eq!(written, expected);
        }
    }

    #[test]
    fn a_number_that_is_no_quantity_is_refused() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.1, 1.0e7] {
            assert!(TokensPerSecond::new(value).is_err(), "{value}");
        }
        assert_eq!(TokensPerSecond::new(-0.0), TokensPerSecond::new(0.0));
        assert_eq!(Fraction::clamped(f64::NAN).get(), 0.0);
        assert!(serde_json::from_str::<Fraction>("1.5").is_err());
        assert_eq!(serde_json::to_string(&Fraction::clamped(0.5)).unwrap(), "0.5");
    }
}
