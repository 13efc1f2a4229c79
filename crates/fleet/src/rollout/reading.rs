//! What a gate reads from the evidence of devices.

use std::collections::BTreeMap;

use super::event::Outcome;
use super::gate::{Evidence, Gate, GateReading, GateVerdict, Metric, Sampled};
use super::population::{Census, Member, Population};
use super::state::RolloutState;
use crate::{Obstacle, ProfileClass, Timestamp};

/// Largest ratio that is reported, standing for a comparison with nothing: it is written to JSON, which has no infinity.
const GREATEST_RATIO: f64 = 1e9;

/// A metric over some devices: a value, and how much stands behind it.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    weighted: f64,
    weight: f64,
    devices: u32,
}

impl Sum {
    fn add(&mut self, value: f64, weight: f64) {
        self.weighted += value * weight;
        self.weight += weight;
        self.devices += 1;
    }

    fn mean(self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.weighted / self.weight)
    }

    /// With so many further devices, each with a value of zero.
    fn diluted(self, devices: u32) -> Self {
        Self {
            weight: self.weight + f64::from(devices),
            ..self
        }
    }
}

/// A metric of one device: its value and its weight in the mean, which is the number of probes or requests for shares
/// of those, and one otherwise.
fn of_evidence(metric: Metric, evidence: &Evidence) -> Option<(f64, f64)> {
    let share = |part: f64, whole: f64| (whole > 0.0).then(|| ((part / whole).min(1.0), whole));
    let one = |value: f64| Some((value, 1.0));
    match metric {
        Metric::CrashingDevices => one(f64::from(u8::from(evidence.crashes > 0))),
        Metric::CannotConverge => one(0.0),
        Metric::ProbeExactMatch => share(f64::from(evidence.probes_matched), f64::from(evidence.probes_run)),
        Metric::ErrorRate => share(evidence.errors as f64, evidence.requests as f64),
        Metric::ProbeLoss => one(evidence.probe_loss?.get()),
        Metric::LatencyP95 => one(evidence.latency_p95_ms? as f64),
        Metric::TokensPerSecond => one(evidence.tokens_per_second?.get()),
        Metric::Confidence => one(evidence.confidence?.get()),
    }
}

/// A metric of one device of the wave, by its outcome for the new release.
fn of_member(metric: Metric, member: &Member, state: &RolloutState, now: Timestamp) -> Option<(f64, f64)> {
    match member.outcome(state, now)? {
        Outcome::NotHeardFrom => None,
        Outcome::Converged => of_evidence(metric, member.evidence_on(Some(&state.release))?),
        Outcome::CannotConverge(obstacle) => match metric {
            Metric::CannotConverge => Some((1.0, 1.0)),
            Metric::CrashingDevices => Some((f64::from(u8::from(matches!(obstacle, Obstacle::CrashLoop { .. }))), 1.0)),
            _ => None,
        },
    }
}

/// Mean of a metric on the previous release, by class, over the devices that still run it.
fn previous_by_class<'a>(
    metric: Metric,
    population: &'a Population,
    state: &RolloutState,
    now: Timestamp,
) -> BTreeMap<&'a ProfileClass, Sum> {
    let mut means: BTreeMap<&ProfileClass, Sum> = BTreeMap::new();
    for member in population
        .iter()
        .filter(|m| m.is_heard(state, now) && !state.has_new_release(m.slot))
    {
        let evidence = member.evidence_on(state.previous.as_ref());
        if let Some((value, weight)) = evidence.and_then(|e| of_evidence(metric, e)) {
            means.entry(&member.class).or_default().add(value, weight);
        }
    }
    means
}

/// How a value compares with the one before; the same nothing is a ratio of one.
fn ratio(value: f64, previous: f64) -> f64 {
    match (value, previous) {
        (v, p) if p > 0.0 => (v / p).min(GREATEST_RATIO),
        (v, _) if v > 0.0 => GREATEST_RATIO,
        _ => 1.0,
    }
}

/// What a gate reads now.
pub(super) fn read(
    gate: Gate,
    population: &Population,
    census: &Census,
    state: &RolloutState,
    now: Timestamp,
) -> GateReading {
    let relative = gate.bound.is_relative();
    let classes = if relative {
        previous_by_class(gate.metric, population, state, now)
    } else {
        BTreeMap::new()
    };
    let (mut values, mut samples, mut probes) = (Sum::default(), 0.0, 0_u64);
    for member in population.iter().filter(|m| state.has_new_release(m.slot)) {
        if member.outcome(state, now) == Some(Outcome::Converged) {
            let evidence = member.evidence_on(Some(&state.release));
            probes += evidence.map_or(0, |evidence| u64::from(evidence.probes_run));
        }
        let Some((value, weight)) = of_member(gate.metric, member, state, now) else {
            continue;
        };
        if relative {
            let own = member
                .baseline
                .as_ref()
                .and_then(|e| of_evidence(gate.metric, e))
                .map(|(value, _)| value);
            let peers = || classes.get(&member.class).and_then(|sum| sum.mean());
            let Some(previous) = own.or_else(peers) else { continue };
            values.add(ratio(value, previous), 1.0);
        } else {
            values.add(value, weight);
        }
        samples += weight;
    }
    let reading = verdict(gate, values, samples as u64, census, state);
    let probes_needed = u64::from(state.policy.minimum_evidence.probes);
    if reading.verdict == GateVerdict::Passed && probes < probes_needed {
        // A release that nobody has asked anything yet has shown nothing, however quiet its devices are.
        return GateReading {
            samples: probes,
            samples_needed: probes_needed,
            sampled: Sampled::Probes,
            verdict: GateVerdict::Missing,
            ..reading
        };
    }
    reading
}

fn verdict(gate: Gate, values: Sum, samples: u64, census: &Census, state: &RolloutState) -> GateReading {
    let minimum = state.policy.minimum_evidence;
    let devices_needed = minimum.devices.min(census.offered).max(1);
    let (sampled, samples_needed) = match gate.metric {
        Metric::ProbeExactMatch => (Sampled::Probes, u64::from(minimum.probes).max(1)),
        Metric::ErrorRate => (Sampled::Requests, minimum.requests.max(1)),
        _ => (Sampled::Devices, u64::from(devices_needed)),
    };
    let value = values.mean();
    let admits = |value: Option<f64>| value.is_some_and(|value| gate.bound.admits(value));
    let counts_devices = matches!(gate.metric, Metric::CrashingDevices | Metric::CannotConverge);
    let at_work = if counts_devices && !gate.bound.is_relative() {
        census.working
    } else {
        0
    };
    let verdict = if value.is_none() || values.devices < devices_needed || samples < samples_needed {
        GateVerdict::Missing
    } else if admits(value) {
        GateVerdict::Passed
    } else if admits(values.diluted(at_work).mean()) {
        return GateReading {
            gate,
            value,
            devices: values.devices,
            samples,
            samples_needed: samples.saturating_add(u64::from(at_work)),
            sampled,
            verdict: GateVerdict::Missing,
        };
    } else {
        GateVerdict::Failed
    };
    GateReading {
        gate,
        value,
        devices: values.devices,
        samples,
        samples_needed,
        sampled,
        verdict,
    }
}
