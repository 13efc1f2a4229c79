//! How a release may move through a deployment.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::gate::{Gate, MinimumEvidence};
use crate::limits::{MAX_GATES, MAX_POLICY_SECONDS, MAX_WAVES};
use crate::time::duration_ms;

/// How many devices have the release when a wave is fully open. Sizes are cumulative: `1, 10 %, 100 %` means one device,
/// then a tenth of the fleet with that device in it, then all. Percentages are of the devices heard from, rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaveSize {
    /// This many devices, at least 1.
    Count(u32),
    /// This share of the devices heard from, 1 to 100.
    Percent(u8),
}

/// What happens when a wave has not passed by its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadlineRule {
    /// The rollout waits for evidence or for the operator.
    Hold,
    /// The rollout goes back to the previous release.
    RollBack,
}

/// How a release may move through a deployment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct RolloutPolicy {
    /// Waves in order; the last one is 100 percent.
    pub waves: Vec<WaveSize>,
    /// Conditions that each wave meets before the next one opens. A gate that fails rolls back.
    pub gates: Vec<Gate>,
    /// Most devices that are heard from and changing release at once, at least 1.
    pub max_unavailable: u32,
    /// What a gate must have seen before it says anything.
    pub minimum_evidence: MinimumEvidence,
    /// How long a wave is watched after all its devices have an outcome.
    #[serde(rename = "observation_ms", with = "duration_ms")]
    pub observation: Duration,
    /// How long a wave may take from its opening.
    #[serde(rename = "wave_deadline_ms", with = "duration_ms")]
    pub wave_deadline: Duration,
    /// What happens at the deadline.
    pub on_deadline: DeadlineRule,
    /// A device not heard from for this long is offline: it neither blocks a wave nor counts in it.
    #[serde(rename = "offline_after_ms", with = "duration_ms")]
    pub offline_after: Duration,
}

/// A policy that cannot work: the field and what is expected of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// There is no wave, or there are too many.
    #[error("rollout policy field `waves` has {count} entries; expected 1 to {MAX_WAVES}")]
    WaveCount {
        /// Entries of the policy.
        count: usize,
    },
    /// A wave is empty or more than everything.
    #[error("rollout policy field `waves[{index}]` is {size:?}; expected at least 1 device, or 1 to 100 percent")]
    WaveSize {
        /// Position of the wave.
        index: usize,
        /// The refused size.
        size: WaveSize,
    },
    /// A wave is not larger than the one of its kind before it.
    #[error("rollout policy field `waves[{index}]` is not larger than the wave before it; sizes are cumulative")]
    WaveOrder {
        /// Position of the wave.
        index: usize,
    },
    /// The last wave leaves devices out.
    #[error("rollout policy field `waves` ends with {last:?}; the last wave is 100 percent")]
    LastWave {
        /// The last wave.
        last: WaveSize,
    },
    /// There are too many gates.
    #[error("rollout policy field `gates` has {count} entries; expected at most {MAX_GATES}")]
    GateCount {
        /// Entries of the policy.
        count: usize,
    },
    /// A gate's bound is not a number that its metric can be compared with.
    #[error("rollout policy field `gates[{index}]`: the bound {value} is not a finite number of at least 0")]
    GateBound {
        /// Position of the gate.
        index: usize,
        /// The refused bound, as text, since it may be not a number.
        value: String,
    },
    /// No device may ever be unavailable, so that nothing could change.
    #[error("rollout policy field `max_unavailable` is 0; expected at least 1")]
    MaxUnavailable,
    /// A duration is too long, or zero where it must not be.
    #[error("rollout policy field `{field}` is {ms} ms; expected {least} to {most} ms")]
    Duration {
        /// The field.
        field: &'static str,
        /// The refused duration in milliseconds.
        ms: u128,
        /// Shortest accepted.
        least: u128,
        /// Longest accepted.
        most: u128,
    },
}

impl RolloutPolicy {
    /// Refuses a policy that cannot work.
    ///
    /// # Errors
    /// [`PolicyError`] names the field.
    pub fn validate(&self) -> Result<(), PolicyError> {
        self.validate_waves()?;
        if self.gates.len() > MAX_GATES {
            return Err(PolicyError::GateCount {
                count: self.gates.len(),
            });
        }
        for (index, gate) in self.gates.iter().enumerate() {
            let value = gate.bound.value();
            if !value.is_finite() || value < 0.0 {
                return Err(PolicyError::GateBound {
                    index,
                    value: value.to_string(),
                });
            }
        }
        if self.max_unavailable == 0 {
            return Err(PolicyError::MaxUnavailable);
        }
        duration("observation", self.observation, 0)?;
        duration("wave_deadline", self.wave_deadline, 1)?;
        duration("offline_after", self.offline_after, 1)
    }

    fn validate_waves(&self) -> Result<(), PolicyError> {
        if self.waves.is_empty() || self.waves.len() > MAX_WAVES {
            return Err(PolicyError::WaveCount {
                count: self.waves.len(),
            });
        }
        let (mut count, mut percent) = (0, 0);
        for (index, size) in self.waves.iter().copied().enumerate() {
            let larger = match size {
                WaveSize::Count(0) | WaveSize::Percent(0 | 101..) => {
                    return Err(PolicyError::WaveSize { index, size });
                }
                WaveSize::Count(n) => n > std::mem::replace(&mut count, n),
                WaveSize::Percent(n) => n > std::mem::replace(&mut percent, n),
            };
            if !larger {
                return Err(PolicyError::WaveOrder { index });
            }
        }
        match self.waves.last() {
            Some(WaveSize::Percent(100)) | None => Ok(()),
            Some(last) => Err(PolicyError::LastWave { last: *last }),
        }
    }
}

fn duration(field: &'static str, duration: Duration, least: u128) -> Result<(), PolicyError> {
    let (ms, most) = (duration.as_millis(), u128::from(MAX_POLICY_SECONDS) * 1000);
    if (least..=most).contains(&ms) {
        Ok(())
    } else {
        Err(PolicyError::Duration { field, ms, least, most })
    }
}
