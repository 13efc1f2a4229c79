//! What devices of a class really reach, as a factor on the roofline.

use serde::{Deserialize, Serialize};

use crate::limits::CORRECTION_RANGE;
use crate::{Fraction, TokensPerSecond};

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

    /// A correction that takes this share of the roofline, for a class that nothing is known about.
    pub fn assumed(efficiency: Fraction) -> Self {
        Self::new(efficiency.get())
    }

    /// The median ratio of the observations, which no minority of lying devices moves beyond what honest ones report;
    /// none without observations.
    pub fn learned(observations: &[SpeedObservation]) -> Option<Self> {
        let usable = observations.iter().filter(|o| o.predicted.get() > 0.0);
        let mut ratios: Vec<f64> = usable.map(|o| o.measured.get() / o.predicted.get()).collect();
        ratios.sort_by(f64::total_cmp);
        let middle = ratios.len() / 2;
        let median = match ratios.len() {
            0 => return None,
            n if n % 2 == 1 => ratios[middle],
            _ => f64::midpoint(ratios[middle - 1], ratios[middle]),
        };
        Some(Self::new(median))
    }

    /// The factor.
    pub const fn get(self) -> f64 {
        self.0
    }
}

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
