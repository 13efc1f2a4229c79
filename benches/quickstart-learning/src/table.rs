//! The table that the study prints.

use std::fmt::Write;

use crate::study::{Arm, Judged};

/// A Markdown table: one row an arm, means over seeds and devices.
///
/// `seeds` holds the arms of each seed, in one order. The worst device is the one with the fewest exact matches, in the
/// mean over the seeds.
pub(crate) fn arms(seeds: &[Vec<Arm>]) -> String {
    let mut table =
        "| arm | mean exact match | by seed | worst device | mean loss |\n|---|---|---|---|---|\n".to_owned();
    for index in 0..seeds.first().map_or(0, Vec::len) {
        let rows: Vec<&Arm> = seeds.iter().map(|arms| &arms[index]).collect();
        let by_seed: Vec<f64> = rows.iter().map(|arm| mean(&arm.exact)).collect();
        let devices = rows[0].exact.len();
        let of_device = |device: usize| mean(&rows.iter().map(|arm| arm.exact[device]).collect::<Vec<_>>());
        let worst = (0..devices).map(of_device).fold(f64::INFINITY, f64::min);
        let losses: Vec<f64> = rows.iter().flat_map(|arm| arm.loss.iter().copied()).collect();
        let loss = if losses.is_empty() {
            "-".to_owned()
        } else {
            format!("{:.3}", mean(&losses))
        };
        let seeds = by_seed
            .iter()
            .map(|value| percent(*value))
            .collect::<Vec<_>>()
            .join(", ");
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "| {} | {} | {seeds} | {} | {loss} |",
            rows[0].name,
            percent(mean(&by_seed)),
            percent(worst)
        );
    }
    table
}

/// A Markdown table: what jobs do to the consented evaluation set.
pub(crate) fn judged(jobs: &[Judged]) -> String {
    let mut table = "| job | loss before | loss after | exact before | exact after | majority answer |\n".to_owned();
    table.push_str("|---|---|---|---|---|---|\n");
    for Judged {
        name,
        before,
        after,
        majority,
    } in jobs
    {
        let exact = [before.exact_match, after.exact_match, *majority]
            .map(percent)
            .join(" | ");
        let _ = writeln!(table, "| {name} | {:.3} | {:.3} | {exact} |", before.loss, after.loss);
    }
    table
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn percent(part: f64) -> String {
    format!("{:.1} %", 100.0 * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_hold_means_over_seeds_and_the_worst_device() {
        let arm = |exact: [f64; 2], loss| {
            vec![Arm {
                name: "arm",
                exact: exact.to_vec(),
                loss: vec![loss; 2],
            }]
        };
        let table = arms(&[arm([0.5, 1.0], 1.0), arm([0.7, 0.8], 3.0)]);
        assert!(
            table.ends_with("| arm | 75.0 % | 75.0 %, 75.0 % | 60.0 % | 2.000 |\n"),
            "{table}"
        );
    }
}
