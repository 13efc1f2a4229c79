//! What a run tells people at its end.

use std::path::Path;

use super::learning::figures;
use super::report::{Device, Report};
use crate::output::table;

/// Digits of a digest that tell two files apart.
const SHORT_DIGEST: usize = 12;

/// Each device before and after, on its own held-out examples, with what it has installed.
pub(super) fn comparison(devices: &[Device]) -> String {
    let short = |digest: &str| digest.chars().take(SHORT_DIGEST).collect::<String>();
    table(
        [
            "device", "runs", "held out", "before", "after", "change", "weights", "adapter",
        ],
        devices.iter().map(|device| {
            [
                device.name.clone(),
                format!(
                    "{} {}",
                    device.release.trim_end_matches(".release.json"),
                    device.variant
                ),
                device.held_out.to_string(),
                figures(device.loss_before, device.exact_match_before),
                figures(device.loss_after, device.exact_match_after),
                change(device),
                short(&device.weights_sha256),
                device.adapter_sha256.as_deref().map(short).unwrap_or_default(),
            ]
        }),
    )
}

/// What the new release changed: the loss in nats per token, exact answers in percentage points.
fn change(device: &Device) -> String {
    let difference = |before: Option<f64>, after: Option<f64>| before.zip(after).map(|(before, after)| after - before);
    let loss = difference(device.loss_before, device.loss_after).map(|change| format!("{change:+.3}"));
    let exact = difference(device.exact_match_before, device.exact_match_after);
    let exact = exact.map(|change| format!("{:+.0} points", change * 100.0));
    loss.into_iter().chain(exact).collect::<Vec<_>>().join(", ")
}

/// The last words of a run that succeeded.
pub(super) fn summary(report: &Report, own: &Path, operator: &Path) -> String {
    let times: Vec<String> = report
        .stages
        .iter()
        .map(|stage| format!("{} {:.1} s", stage.name, stage.seconds))
        .collect();
    let total: f64 = report.stages.iter().map(|stage| stage.seconds).sum();
    let mut lines = vec![format!("done in {total:.0} s: {}", times.join(", "))];
    lines.push(format!(
        "everything lies in {}: keys, logs, and each device's own folder",
        report.dir
    ));
    let fieldfare = format!("FIELDFARE_CONFIG={} {}", operator.display(), own.display());
    if report.kept {
        let running = report
            .processes
            .iter()
            .filter(|process| Path::new(&format!("/proc/{}", process.pid)).exists());
        let running: Vec<String> = running
            .map(|process| format!("{} ({})", process.name, process.pid))
            .collect();
        let pids: Vec<&str> = running
            .iter()
            .filter_map(|text| text.rsplit_once('('))
            .map(|(_, pid)| pid.trim_end_matches(')'))
            .collect();
        lines.push(format!("still running: {}", running.join(", ")));
        lines.push("try next:".to_owned());
        lines.push(format!("  {fieldfare} devices list"));
        lines.push(format!("  {fieldfare} rollout status quickstart"));
        lines.push(format!("stop it all with: kill {}", pids.join(" ")));
    } else {
        lines.push("nothing is left running; --keep leaves the fleet up".to_owned());
        lines.push(format!(
            "try next: {} plan llama-2-7b, or quickstart --data DIR with a file NAME.jsonl for each device",
            own.display()
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quickstart::report::{StageTime, StartedProcess};

    #[test]
    fn the_comparison_names_the_bytes_that_were_measured() {
        let device = Device {
            name: "gate".to_owned(),
            variant: "q4-0".to_owned(),
            release: "adapter.farm.r2.release.json".to_owned(),
            weights_sha256: "a".repeat(64),
            adapter_sha256: Some("b".repeat(64)),
            held_out: 50,
            loss_before: Some(2.5),
            loss_after: Some(0.5),
            exact_match_before: Some(0.0),
            exact_match_after: Some(0.82),
        };
        let text = comparison(&[device]);
        for part in [
            "gate",
            "adapter.farm.r2 q4-0",
            "loss 2.500, exact 0 %",
            "loss 0.500, exact 82 %",
            "-2.000, +82 points",
            "aaaaaaaaaaaa",
            "bbbbbbbbbbbb",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(!text.contains(&"a".repeat(13)));
    }

    #[test]
    fn a_kept_fleet_says_what_runs_and_how_to_stop_it() {
        let mut report = Report::new("/x/run-1".to_owned());
        report.stages = vec![
            StageTime {
                name: "fleet",
                seconds: 1.0,
            },
            StageTime {
                name: "import",
                seconds: 2.0,
            },
        ];
        report.processes = vec![StartedProcess {
            name: "agent".to_owned(),
            pid: std::process::id(),
        }];
        let stopped = summary(&report, Path::new("fieldfare"), Path::new("/x/run-1/operator"));
        assert!(
            stopped.contains("done in 3 s") && stopped.contains("nothing is left running"),
            "{stopped}"
        );
        report.kept = true;
        let kept = summary(&report, Path::new("fieldfare"), Path::new("/x/run-1/operator"));
        assert!(kept.contains(&format!("kill {}", std::process::id())), "{kept}");
        assert!(
            kept.contains("FIELDFARE_CONFIG=/x/run-1/operator fieldfare devices list"),
            "{kept}"
        );
    }
}
