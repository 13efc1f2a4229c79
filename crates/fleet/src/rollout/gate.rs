//! Evidence from devices, and the conditions that it must meet.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Fraction, NatsPerToken, TokensPerSecond};

/// What a device reports about the release that it runs, counted since it began to run it. Only figures about the
/// service and about the release's public probes: nothing that is computed from a user's words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Evidence {
    /// How often the serving process crashed.
    pub crashes: u32,
    /// Probe prompts answered.
    pub probes_run: u32,
    /// Probe prompts answered exactly as expected, at most `probes_run`.
    pub probes_matched: u32,
    /// Mean loss on the expected answers of the probes.
    pub probe_loss: Option<NatsPerToken>,
    /// Requests served.
    pub requests: u64,
    /// Requests that ended in an error of the service, at most `requests`.
    pub errors: u64,
    /// 95th percentile of the time to the first token, in milliseconds.
    pub latency_p95_ms: Option<u64>,
    /// Speed of generation.
    pub tokens_per_second: Option<TokensPerSecond>,
    /// Mean confidence of the probes' answers.
    pub confidence: Option<Fraction>,
}

/// What a gate looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of the wave's devices with an outcome whose serving process crashed or whose release crash-looped. Failure is faster
    /// than success, so that it fails only where the devices at work could not bring it back within its bound.
    CrashingDevices,
    /// Share of the wave's devices with an outcome that cannot converge. It fails as [`Metric::CrashingDevices`] does: devices for
    /// which there is no variant have their outcome before any other.
    CannotConverge,
    /// Share of probes that were answered exactly, over all devices.
    ProbeExactMatch,
    /// Mean probe loss in nats per token; each device counts once.
    ProbeLoss,
    /// Mean of the devices' 95th percentiles in milliseconds.
    LatencyP95,
    /// Mean of the devices' speeds in tokens per second.
    TokensPerSecond,
    /// Mean of the devices' confidence, 0 to 1.
    Confidence,
    /// Share of requests that ended in an error, over all devices.
    ErrorRate,
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::CrashingDevices => "crashing devices",
            Self::CannotConverge => "devices that cannot converge",
            Self::ProbeExactMatch => "probe exact match",
            Self::ProbeLoss => "probe loss",
            Self::LatencyP95 => "p95 latency",
            Self::TokensPerSecond => "tokens/s",
            Self::Confidence => "confidence",
            Self::ErrorRate => "error rate",
        })
    }
}

/// The bound that a metric is held to. A ratio compares each device with its own last figure on the previous release
/// and, where it has none, with the mean of the devices of its class that still run the previous release.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The metric is at most this.
    AtMost(f64),
    /// The metric is at least this.
    AtLeast(f64),
    /// The mean ratio to the previous release is at most this.
    AtMostTimesPrevious(f64),
    /// The mean ratio to the previous release is at least this.
    AtLeastTimesPrevious(f64),
}

impl Bound {
    /// The number of the bound.
    pub const fn value(self) -> f64 {
        match self {
            Self::AtMost(v) | Self::AtLeast(v) | Self::AtMostTimesPrevious(v) | Self::AtLeastTimesPrevious(v) => v,
        }
    }

    /// Whether the bound is on the ratio to the previous release.
    pub const fn is_relative(self) -> bool {
        matches!(self, Self::AtMostTimesPrevious(_) | Self::AtLeastTimesPrevious(_))
    }

    /// Whether this value, or this ratio, is within the bound.
    pub fn admits(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) | Self::AtMostTimesPrevious(bound) => value <= bound,
            Self::AtLeast(bound) | Self::AtLeastTimesPrevious(bound) => value >= bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(v) => write!(f, "at most {v}"),
            Self::AtLeast(v) => write!(f, "at least {v}"),
            Self::AtMostTimesPrevious(v) => write!(f, "at most {v} times the previous release"),
            Self::AtLeastTimesPrevious(v) => write!(f, "at least {v} times the previous release"),
        }
    }
}

/// A condition that a wave meets before the next one opens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Gate {
    /// What it looks at.
    pub metric: Metric,
    /// What it is held to.
    pub bound: Bound,
}

/// What a gate must have seen before it says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct MinimumEvidence {
    /// Devices that reported the metric; a wave smaller than this needs all its devices.
    pub devices: u32,
    /// Probes that were answered, over all devices of the new release: without them no gate passes.
    pub probes: u32,
    /// Requests, for the error rate.
    pub requests: u64,
}

/// What a gate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateVerdict {
    /// The evidence meets the bound.
    Passed,
    /// The evidence breaks the bound.
    Failed,
    /// There is too little evidence to say.
    Missing,
}

/// What stands behind a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampled {
    /// Devices that reported the metric.
    Devices,
    /// Answers to probes.
    Probes,
    /// Requests that were served.
    Requests,
}

impl fmt::Display for Sampled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Devices => "devices have reported",
            Self::Probes => "probes have been answered",
            Self::Requests => "requests have been served",
        })
    }
}

/// What a gate says, and the numbers behind it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct GateReading {
    /// The gate.
    pub gate: Gate,
    /// The metric, or the mean ratio to the previous release; none without any evidence.
    pub value: Option<f64>,
    /// Devices that reported it.
    pub devices: u32,
    /// How much stands behind it.
    pub samples: u64,
    /// How much it needs.
    pub samples_needed: u64,
    /// What is counted so: what the metric is made of or, where too few probes were answered for any gate to pass, those.
    pub sampled: Sampled,
    /// What follows.
    pub verdict: GateVerdict,
}

impl fmt::Display for GateReading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gate { metric, bound } = self.gate;
        match (self.verdict, self.value) {
            (GateVerdict::Missing, _) | (_, None) => {
                let (seen, needed) = (self.samples, self.samples_needed);
                write!(f, "{metric}: {seen} of {needed} {}", self.sampled)
            }
            (GateVerdict::Passed, Some(value)) => write!(f, "{metric}: {value:.4}, {bound}: passed"),
            (GateVerdict::Failed, Some(value)) => write!(f, "{metric}: {value:.4}, {bound}: failed"),
        }
    }
}
