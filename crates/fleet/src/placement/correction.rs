//! What devices of a class really reach, as a factor on the roofline.

use serde::{Deserialize, Serialize};

use super::roofline::predict;
use super::variant::VariantSpec;
use crate::limits::CORRECTION_RANGE;
use crate::{Capacity, TokensPerSecond};

/// Ratio of the speed that devices of a class reach to the speed that the roofline predicts, 0.01 to 2.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(from = "f64", into = "f64")]
pub struct Correction(f64);

/// What a device of a class was predicted to reach, uncorrected, and what it reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct SpeedObservation {
    /// The roofline's uncorrected prediction.
    pub predicted: TokensPerSecond,
    /// The device's report.
    pub measured: TokensPerSecond,
}

impl SpeedObservation {
    /// A device's report on a variant that it runs, beside the roofline's prediction. Devices measure themselves on short prompts:
    /// the prediction is that for an empty cache, lest a long context be credited with the speed of a short one.
    pub fn of(capacity: &Capacity, variant: &VariantSpec, measured: TokensPerSecond) -> Self {
        Self {
            predicted: predict(capacity, variant, 0, Correction::NONE).tokens_per_second,
            measured,
        }
    }
}

impl Correction {
    /// The roofline as it is.
    pub const NONE: Self = Self(1.0);

    /// The factor nearest to this value within 0.01 to 2; a value that is not a number is no correction.
    pub fn new(factor: f64) -> Self {
        let (least, most) = CORRECTION_RANGE;
        if factor.is_nan() {
            Self::NONE
        } else {
            Self(factor.clamp(least, most))
        }
    }

    /// What the devices of a class observed, each its own: the median of the devices' ratios of measured to predicted speed, which
    /// no minority of lying devices moves beyond what honest ones report. A device has one vote, however many models it runs: the
    /// median of its own. None without observations.
    pub fn learned(devices: &[Vec<SpeedObservation>]) -> Option<Self> {
        let ratio = |observed: &Vec<SpeedObservation>| {
            let usable = observed.iter().filter(|o| o.predicted.get() > 0.0);
            median(usable.map(|o| o.measured.get() / o.predicted.get()).collect())
        };
        median(devices.iter().filter_map(ratio).collect()).map(Self::new)
    }

    /// The factor.
    pub const fn get(self) -> f64 {
        self.0
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

// The number is never NaN.
impl Eq for Correction {}

impl Default for Correction {
    fn default() -> Self {
        Self::NONE
    }
}

impl From<f64> for Correction {
    fn from(factor: f64) -> Self {
        Self::new(factor)
    }
}

impl From<Correction> for f64 {
    fn from(correction: Correction) -> f64 {
        correction.0
    }
}
