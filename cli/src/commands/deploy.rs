//! `fieldfare deploy`: a release on the devices that a selector matches, in waves behind gates.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use fieldfare_fleet::rollout::{Bound, DeadlineRule, Gate, Metric, MinimumEvidence, RolloutPolicy, WaveSize};
use fieldfare_fleet::{DeploymentName, Selector};
use fieldfare_proto::v1;

use super::devices::VariantView;
use super::plan::Needs;
use super::{Session, plan, release, rollout};
use crate::args::seconds;
use crate::exit::Advice;
use crate::output::note;

/// Arguments of `fieldfare deploy`.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// The deployment; it is made where there is none.
    pub name: DeploymentName,
    /// What to run: MODEL (the newest published), MODEL:N, or a manifest's target name.
    #[arg(long)]
    pub release: String,
    /// Which devices, for example `site=north`; all of them when empty.
    #[arg(long, short = 'l', default_value = "")]
    pub selector: String,
    /// Waves, cumulative: counts or percent, the last 100%.
    #[arg(long, value_delimiter = ',', value_parser = wave, default_value = "1,50%,100%")]
    pub waves: Vec<WaveSize>,
    /// A condition that each wave must meet, for example `probe-loss<=1.5`, `tokens-per-second>=0.5x` (times the previous release).
    /// Repeat it for more. Without any: no device crashes, none fails to converge, no probe ends in an error, and probes are
    /// answered at the speed that the deployment asks for.
    #[arg(long = "gate", value_parser = gate)]
    pub gates: Vec<Gate>,
    /// Devices that may be between releases at one time.
    #[arg(long, default_value_t = 100)]
    pub max_unavailable: u32,
    /// Probe answers, over all devices that have the release, without which no gate passes and a wave holds.
    #[arg(long, default_value_t = 1)]
    pub min_probes: u32,
    /// Seconds that a wave is watched after its devices converged.
    #[arg(long, value_parser = seconds, default_value = "60")]
    pub observe: Duration,
    /// Seconds after which a wave that has not passed is overdue.
    #[arg(long, value_parser = seconds, default_value = "3600")]
    pub wave_deadline: Duration,
    /// Roll back when a wave is overdue, instead of holding.
    #[arg(long)]
    pub roll_back_when_overdue: bool,
    /// Seconds of silence after which a device is not heard from, and no longer waited for.
    #[arg(long, value_parser = seconds, default_value = "300")]
    pub offline_after: Duration,
    /// What a variant must offer.
    #[command(flatten)]
    pub needs: Needs,
    /// Return at once rather than follow the rollout.
    #[arg(long)]
    pub detach: bool,
}

impl Arguments {
    /// The rollout policy that the arguments describe.
    ///
    /// # Errors
    /// They contradict each other.
    pub fn policy(&self) -> Result<RolloutPolicy> {
        let gates = match self.gates.as_slice() {
            [] => vec![
                Gate {
                    metric: Metric::CrashingDevices,
                    bound: Bound::AtMost(0.0),
                },
                Gate {
                    metric: Metric::CannotConverge,
                    bound: Bound::AtMost(0.0),
                },
                Gate {
                    metric: Metric::ErrorRate,
                    bound: Bound::AtMost(0.0),
                },
                Gate {
                    metric: Metric::TokensPerSecond,
                    bound: Bound::AtLeast(self.needs.min_tokens_per_second),
                },
            ],
            gates => gates.to_vec(),
        };
        let policy = RolloutPolicy {
            waves: self.waves.clone(),
            gates,
            max_unavailable: self.max_unavailable,
            minimum_evidence: MinimumEvidence {
                devices: 1,
                probes: self.min_probes,
                requests: 0,
            },
            observation: self.observe,
            wave_deadline: self.wave_deadline,
            on_deadline: if self.roll_back_when_overdue {
                DeadlineRule::RollBack
            } else {
                DeadlineRule::Hold
            },
            offline_after: self.offline_after,
        };
        policy.validate()?;
        Ok(policy)
    }
}

/// `3` or `50%`.
fn wave(text: &str) -> Result<WaveSize, String> {
    let expected = |_| format!("{text:?} is no wave; expected a count such as 3, or a percentage such as 50%");
    match text.strip_suffix('%') {
        Some(percent) => percent.parse().map(WaveSize::Percent).map_err(expected),
        None => text.parse().map(WaveSize::Count).map_err(expected),
    }
}

/// `metric<=number` or `metric>=number`, with an `x` behind the number for times the previous release.
fn gate(text: &str) -> Result<Gate, String> {
    let expected = || format!("{text:?} is no gate; expected for example probe-loss<=1.5 or tokens-per-second>=0.5x");
    let (name, least, number) = match (text.split_once("<="), text.split_once(">=")) {
        (Some((name, number)), None) => (name, false, number),
        (None, Some((name, number))) => (name, true, number),
        _ => return Err(expected()),
    };
    let (number, relative) = number
        .trim()
        .strip_suffix('x')
        .map_or((number.trim(), false), |number| (number, true));
    let value: f64 = number.parse().map_err(|_| expected())?;
    let metric = METRICS
        .iter()
        .find(|(known, _)| *known == name.trim())
        .map(|(_, metric)| *metric)
        .ok_or_else(|| {
            let names: Vec<&str> = METRICS.iter().map(|(name, _)| *name).collect();
            format!("{name:?} is no metric; expected one of {}", names.join(", "))
        })?;
    let bound = match (least, relative) {
        (false, false) => Bound::AtMost(value),
        (true, false) => Bound::AtLeast(value),
        (false, true) => Bound::AtMostTimesPrevious(value),
        (true, true) => Bound::AtLeastTimesPrevious(value),
    };
    Ok(Gate { metric, bound })
}

const METRICS: [(&str, Metric); 8] = [
    ("crashing-devices", Metric::CrashingDevices),
    ("cannot-converge", Metric::CannotConverge),
    ("probe-exact-match", Metric::ProbeExactMatch),
    ("probe-loss", Metric::ProbeLoss),
    ("latency-p95-ms", Metric::LatencyP95),
    ("tokens-per-second", Metric::TokensPerSecond),
    ("confidence", Metric::Confidence),
    ("error-rate", Metric::ErrorRate),
];

fn selector(arguments: &Arguments) -> Result<Selector> {
    let parsed = arguments.selector.parse();
    parsed.with_context(|| format!("--selector {:?}", arguments.selector))
}

/// Refuses what could only wait for ever: a selector that matches nothing, and a release that nothing can run. Whoever detaches may
/// declare a deployment for devices to come.
async fn refuse_idle(session: &Session, arguments: &Arguments) -> Result<()> {
    let selector = selector(arguments)?.to_string();
    let release = release::get(session, &arguments.release).await?;
    let (_, manifest) = release::manifest(&release)?;
    let requirements = arguments.needs.requirements(plan::context(&manifest))?;
    let placements = plan::placements(session, &release.manifest_target, &selector, &requirements).await?;
    if placements.is_empty() {
        if arguments.detach {
            note("no enrolled device matches the selector yet");
            return Ok(());
        }
        bail!(Advice::new(
            format!("no enrolled device matches the selector {selector:?}"),
            "`fieldfare devices list` shows the devices; with --detach the deployment waits for devices to come",
        ));
    }
    let reports = placements.iter().filter_map(|placement| placement.report.as_ref());
    let unplaced = reports.clone().filter(|report| report.chosen.is_empty()).count();
    if unplaced < placements.len() {
        if unplaced > 0 {
            note(format!(
                "{unplaced} of {} devices can run no variant of it, and count as unable to converge: `fieldfare plan --release {}` says why",
                placements.len(),
                arguments.release
            ));
        }
        return Ok(());
    }
    let of_all = reports
        .flat_map(|report| &report.variants)
        .cloned()
        .map(VariantView::of);
    let reasons: BTreeSet<String> = of_all
        .map(|variant| format!("{}: {}", variant.variant, variant.why.join("; ")))
        .collect();
    let reasons = anyhow!(reasons.into_iter().collect::<Vec<_>>().join("\n           "));
    Err(reasons.context(Advice::new(
        format!("none of the devices can run any variant of {}", release.manifest_target),
        "ask for less (see --min-tokens-per-second, --context-tokens, --max-memory), or import smaller variants",
    )))
}

/// Creates or replaces the deployment.
///
/// # Errors
/// The selector or the release is wrong, nothing can run it, or what else the controller says.
pub async fn apply(session: &Session, arguments: &Arguments) -> Result<v1::Deployment> {
    let selector = selector(arguments)?;
    let release = release::get(session, &arguments.release).await?;
    let (_, manifest) = release::manifest(&release)?;
    let requirements = arguments.needs.requirements(plan::context(&manifest))?;
    let spec = v1::DeploymentSpec {
        model: release.model,
        selector: selector.to_string(),
        manifest_target: release.manifest_target,
        requirements: Some((&requirements).into()),
        policy: Some((&arguments.policy()?).into()),
    };
    let request = v1::ApplyDeploymentRequest {
        name: arguments.name.to_string(),
        spec: Some(spec),
        expected: None,
        retry: true,
    };
    session
        .client
        .call(request, |mut api, request| async move {
            api.apply_deployment(request).await
        })
        .await
}

/// Does it, and follows the rollout.
///
/// # Errors
/// What the controller says, or a rollout that went back.
pub async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    refuse_idle(session, &arguments).await?;
    let deployment = apply(session, &arguments).await?;
    note(format!(
        "deployment {} runs {}",
        deployment.name,
        deployment.spec.unwrap_or_default().manifest_target
    ));
    if arguments.detach {
        return rollout::print(session.format, rollout::get(session, arguments.name.as_str()).await?);
    }
    rollout::conclude(session, arguments.name.as_str()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_are_counts_or_percent() {
        assert_eq!(wave("3"), Ok(WaveSize::Count(3)));
        assert_eq!(wave("50%"), Ok(WaveSize::Percent(50)));
        for text in ["", "%", "x", "-1", "300%"] {
            assert!(wave(text).unwrap_err().contains("expected"), "{text:?}");
        }
    }

    #[test]
    fn gates_are_bounds_on_metrics() {
        let parsed = gate("probe-loss<=1.5").unwrap();
        assert_eq!((parsed.metric, parsed.bound), (Metric::ProbeLoss, Bound::AtMost(1.5)));
        let parsed = gate("tokens-per-second >= 0.5x").unwrap();
        assert_eq!(
            (parsed.metric, parsed.bound),
            (Metric::TokensPerSecond, Bound::AtLeastTimesPrevious(0.5))
        );
        assert!(gate("speed>=1").unwrap_err().contains("tokens-per-second"));
        for text in ["", "probe-loss", "probe-loss<=", "probe-loss<=x", "probe-loss=1"] {
            assert!(gate(text).is_err(), "{text:?}");
        }
    }
}
