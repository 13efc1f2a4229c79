//! A fleet gets a model, uses it, improves it privately, and gets the better model back.

use std::collections::BTreeSet;

use fieldfare_tests::quickstart::Quickstart;

use crate::refusals::assert_refused;

#[test]
fn a_fleet_gets_a_better_model_and_a_second_run_that_learns_nothing_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let run = Quickstart::start(dir.path(), &[]).finish();
    assert_eq!(run.code(), 0, "{}", run.progress.join("\n"));
    assert_eq!(run.summary["outcome"], "succeeded");
    assert_eq!(
        run.survivors(),
        Vec::<&serde_json::Value>::new(),
        "processes outlived the run"
    );

    let placement = run.array("placement");
    assert_eq!(placement.len(), 5);
    assert!(
        placement
            .iter()
            .all(|device| !device["emulated"].as_str().unwrap_or_default().is_empty())
    );
    let variants: BTreeSet<&str> = placement
        .iter()
        .filter_map(|device| device["variant"].as_str())
        .collect();
    assert!(variants.len() >= 3, "variants that win: {variants:?}");

    let rounds = run.array("rounds");
    assert_eq!(rounds.len(), 5);
    let epsilons: Vec<f64> = rounds.iter().filter_map(|round| round["epsilon"].as_f64()).collect();
    assert!(
        epsilons.is_sorted() && epsilons[0] > 0.0 && epsilons[4] <= 8.0,
        "{epsilons:?}"
    );

    let judged: Vec<_> = run.array("evaluations").iter().collect();
    assert_eq!(
        judged.len(),
        variants.len(),
        "every variant in use is judged: {judged:?}"
    );
    assert!(judged.iter().all(|judged| judged["passed"] == true), "{judged:?}");

    let phases: Vec<&str> = run
        .array("rollouts")
        .iter()
        .filter_map(|rollout| rollout["phase"].as_str())
        .collect();
    assert_eq!(phases, ["completed", "completed"]);

    let devices = run.array("devices");
    assert_eq!(devices.len(), 5);
    for device in devices {
        let number = |field: &str| device[field].as_f64().unwrap_or_else(|| panic!("{field} of {device}"));
        assert!(number("loss_after") < number("loss_before"), "{device}");
        assert_eq!(device["adapter_sha256"].as_str().map(str::len), Some(64), "{device}");
    }
    let mean = |field: &str| devices.iter().filter_map(|device| device[field].as_f64()).sum::<f64>() / 5.0;
    assert!(
        mean("exact_match_after") > mean("exact_match_before") + 0.2,
        "{devices:?}"
    );

    // The same folder again, with a job that cannot learn: nothing is published.
    let again = Quickstart::start(dir.path(), &["--learning-rate", "0", "--rounds", "1"]).finish();
    assert_refused(&again);
}
