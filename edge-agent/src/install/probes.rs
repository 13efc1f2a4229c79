//! A release's own probe prompts, answered by the process that would serve: the evidence of the gates.

use std::time::Instant;

use fieldfare_fleet::rollout::Evidence;
use fieldfare_fleet::{Fraction, NatsPerToken, TokensPerSecond};
use fieldfare_lm::example::Example;
use fieldfare_release::manifest::Probe;
use tokio::time::timeout;

use crate::limits::PROBE_TIMEOUT;
use crate::serving::Engine;
use crate::serving::protocol::{Options, Prompt};

/// What the probes have shown so far.
#[derive(Debug, Default)]
struct Tally {
    run: u32,
    matched: u32,
    requests: u64,
    errors: u64,
    latencies_ms: Vec<u64>,
    speeds: Vec<f64>,
    confidences: Vec<f64>,
    spoke: bool,
}

/// What the probes showed.
#[derive(Debug)]
pub(super) struct Answers {
    /// The figures.
    pub(super) evidence: Evidence,
    /// Whether every answer was empty.
    pub(super) all_empty: bool,
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The value below which 95 in a hundred lie, by the nearest rank.
fn p95(values: &mut [u64]) -> Option<u64> {
    values.sort_unstable();
    let rank = (values.len() * 95).div_ceil(100);
    values.get(rank.checked_sub(1)?).copied()
}

/// Runs the probes one after the other. A probe without an answer counts as an error, and the others go on.
#[allow(clippy::disallowed_methods)]
pub(super) async fn run(engine: &Engine, probes: &[Probe]) -> Answers {
    let mut tally = Tally::default();
    for probe in probes {
        let begun = Instant::now();
        tally.requests += 1;
        let request = engine.generate(
            Prompt::Text(probe.prompt.clone()),
            Options::greedy(probe.max_tokens as usize),
        );
        let answer = match request {
            Ok(request) => timeout(PROBE_TIMEOUT, request.whole()).await.ok().and_then(Result::ok),
            Err(_) => None,
        };
        let Some((text, summary)) = answer else {
            tally.errors += 1;
            continue;
        };
        tally.run += 1;
        tally.spoke |= !text.trim().is_empty();
        tally.matched += u32::from(text.trim() == probe.expected.trim());
        tally
            .latencies_ms
            .push(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
        tally.confidences.push(f64::from(summary.confidence));
        if summary.tokens_per_second > 0.0 {
            tally.speeds.push(summary.tokens_per_second);
        }
    }
    let expected = |probe: &Probe| Example::Completion {
        prompt: probe.prompt.clone(),
        completion: probe.expected.clone(),
    };
    let scored: Vec<Example> = probes
        .iter()
        .filter(|probe| !probe.expected.is_empty())
        .map(expected)
        .collect();
    let loss = match scored.is_empty() {
        true => None,
        false => timeout(PROBE_TIMEOUT, engine.evaluate(scored))
            .await
            .ok()
            .and_then(Result::ok)
            .and_then(|e| e.loss()),
    };
    let all_empty = tally.run > 0 && !tally.spoke;
    let evidence = Evidence {
        crashes: 0,
        probes_run: tally.run,
        probes_matched: tally.matched,
        probe_loss: loss.map(NatsPerToken::clamped),
        requests: tally.requests,
        errors: tally.errors,
        latency_p95_ms: p95(&mut tally.latencies_ms),
        tokens_per_second: mean(&tally.speeds).map(TokensPerSecond::clamped),
        confidence: mean(&tally.confidences).map(Fraction::clamped),
    };
    Answers { evidence, all_empty }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_95th_percentile_is_the_nearest_rank() {
        assert_eq!(p95(&mut []), None);
        assert_eq!(p95(&mut [7]), Some(7));
        assert_eq!(p95(&mut (1..=20).rev().collect::<Vec<_>>()), Some(19));
        assert_eq!(p95(&mut (1..=100).collect::<Vec<_>>()), Some(95));
    }
}
