//! Rollout policies and their gates.

use std::time::Duration;

use fieldfare_fleet::rollout::{
    Bound, DeadlineRule, Gate, GateVerdict, Metric, MinimumEvidence, RolloutPolicy, WaveSize,
};

use super::{ConversionError, OptionExt, ResultExt, error::enumerated};
use crate::v1;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<&RolloutPolicy> for v1::RolloutPolicy {
    fn from(policy: &RolloutPolicy) -> Self {
        Self {
            waves: policy.waves.iter().map(|&size| size.into()).collect(),
            gates: policy.gates.iter().map(|&gate| gate.into()).collect(),
            max_unavailable: policy.max_unavailable,
            minimum_evidence: Some(v1::MinimumEvidence {
                devices: policy.minimum_evidence.devices,
                probes: policy.minimum_evidence.probes,
                requests: policy.minimum_evidence.requests,
            }),
            observation_ms: millis(policy.observation),
            wave_deadline_ms: millis(policy.wave_deadline),
            on_deadline: match policy.on_deadline {
                DeadlineRule::Hold => v1::DeadlineRule::Hold,
                DeadlineRule::RollBack => v1::DeadlineRule::RollBack,
            }
            .into(),
            offline_after_ms: millis(policy.offline_after),
        }
    }
}

impl TryFrom<v1::RolloutPolicy> for RolloutPolicy {
    type Error = ConversionError;

    /// The policy, validated.
    fn try_from(policy: v1::RolloutPolicy) -> Result<Self, ConversionError> {
        let minimum = policy.minimum_evidence.required("minimum_evidence")?;
        let waves = policy.waves.into_iter().enumerate();
        let gates = policy.gates.into_iter().enumerate();
        let converted = Self {
            waves: waves
                .map(|(index, size)| {
                    size.try_into()
                        .map_err(|error: ConversionError| error.within(format!("waves[{index}]")))
                })
                .collect::<Result<_, _>>()?,
            gates: gates
                .map(|(index, gate)| {
                    gate.try_into()
                        .map_err(|error: ConversionError| error.within(format!("gates[{index}]")))
                })
                .collect::<Result<_, _>>()?,
            max_unavailable: policy.max_unavailable,
            minimum_evidence: MinimumEvidence {
                devices: minimum.devices,
                probes: minimum.probes,
                requests: minimum.requests,
            },
            observation: Duration::from_millis(policy.observation_ms),
            wave_deadline: Duration::from_millis(policy.wave_deadline_ms),
            on_deadline: match enumerated("on_deadline", policy.on_deadline)? {
                v1::DeadlineRule::Hold => DeadlineRule::Hold,
                v1::DeadlineRule::RollBack => DeadlineRule::RollBack,
                v1::DeadlineRule::Unspecified => return Err(ConversionError::new("on_deadline", "is unspecified")),
            },
            offline_after: Duration::from_millis(policy.offline_after_ms),
        };
        converted.validate().field("policy")?;
        Ok(converted)
    }
}

impl From<WaveSize> for v1::WaveSize {
    fn from(size: WaveSize) -> Self {
        Self {
            size: Some(match size {
                WaveSize::Count(count) => v1::wave_size::Size::Count(count),
                WaveSize::Percent(percent) => v1::wave_size::Size::Percent(percent.into()),
            }),
        }
    }
}

impl TryFrom<v1::WaveSize> for WaveSize {
    type Error = ConversionError;

    fn try_from(size: v1::WaveSize) -> Result<Self, ConversionError> {
        match size.size.required("size")? {
            v1::wave_size::Size::Count(count) => Ok(Self::Count(count)),
            v1::wave_size::Size::Percent(percent) => u8::try_from(percent).map(Self::Percent).field("percent"),
        }
    }
}

impl From<Gate> for v1::Gate {
    fn from(gate: Gate) -> Self {
        Self {
            metric: v1::GateMetric::from(gate.metric).into(),
            bound: Some(match gate.bound {
                Bound::AtMost(value) => v1::gate::Bound::AtMost(value),
                Bound::AtLeast(value) => v1::gate::Bound::AtLeast(value),
                Bound::AtMostTimesPrevious(times) => v1::gate::Bound::AtMostTimesPrevious(times),
                Bound::AtLeastTimesPrevious(times) => v1::gate::Bound::AtLeastTimesPrevious(times),
            }),
        }
    }
}

impl TryFrom<v1::Gate> for Gate {
    type Error = ConversionError;

    fn try_from(gate: v1::Gate) -> Result<Self, ConversionError> {
        Ok(Self {
            metric: enumerated::<v1::GateMetric>("metric", gate.metric)?.try_into()?,
            bound: match gate.bound.required("bound")? {
                v1::gate::Bound::AtMost(value) => Bound::AtMost(value),
                v1::gate::Bound::AtLeast(value) => Bound::AtLeast(value),
                v1::gate::Bound::AtMostTimesPrevious(times) => Bound::AtMostTimesPrevious(times),
                v1::gate::Bound::AtLeastTimesPrevious(times) => Bound::AtLeastTimesPrevious(times),
            },
        })
    }
}

impl From<Metric> for v1::GateMetric {
    fn from(metric: Metric) -> Self {
        match metric {
            Metric::CrashingDevices => Self::CrashingDevices,
            Metric::CannotConverge => Self::CannotConverge,
            Metric::ProbeExactMatch => Self::ProbeExactMatch,
            Metric::ProbeLoss => Self::ProbeLoss,
            Metric::LatencyP95 => Self::LatencyP95Ms,
            Metric::TokensPerSecond => Self::TokensPerSecond,
            Metric::Confidence => Self::Confidence,
            Metric::ErrorRate => Self::ErrorRate,
        }
    }
}

impl TryFrom<v1::GateMetric> for Metric {
    type Error = ConversionError;

    fn try_from(metric: v1::GateMetric) -> Result<Self, ConversionError> {
        match metric {
            v1::GateMetric::Unspecified => Err(ConversionError::new("metric", "is unspecified")),
            v1::GateMetric::CrashingDevices => Ok(Self::CrashingDevices),
            v1::GateMetric::CannotConverge => Ok(Self::CannotConverge),
            v1::GateMetric::ProbeExactMatch => Ok(Self::ProbeExactMatch),
            v1::GateMetric::ProbeLoss => Ok(Self::ProbeLoss),
            v1::GateMetric::LatencyP95Ms => Ok(Self::LatencyP95),
            v1::GateMetric::TokensPerSecond => Ok(Self::TokensPerSecond),
            v1::GateMetric::Confidence => Ok(Self::Confidence),
            v1::GateMetric::ErrorRate => Ok(Self::ErrorRate),
        }
    }
}

impl From<GateVerdict> for v1::GateVerdict {
    fn from(verdict: GateVerdict) -> Self {
        match verdict {
            GateVerdict::Passed => Self::Passed,
            GateVerdict::Failed => Self::Failed,
            GateVerdict::Missing => Self::Missing,
        }
    }
}
