//! The main job with the fleet's state in etcd.

use std::path::Path;

use fieldfare_etcd_process::EtcdProcess;
use fieldfare_tests::quickstart::Quickstart;

#[test]
fn a_fleet_on_etcd_gets_a_better_model() {
    if !fieldfare_etcd_process::is_installed("a_fleet_on_etcd_gets_a_better_model") {
        return;
    }
    let server = EtcdProcess::start();
    let store = format!("etcd:{}", server.url());
    let dir = tempfile::tempdir().expect("a folder");
    let run = Quickstart::start(dir.path(), &["--store", &store, "--rounds", "3"]).finish();
    assert_eq!(run.code(), 0, "{}", run.progress.join("\n"));
    assert_eq!(run.summary["outcome"], "succeeded");
    assert!(
        run.progress.iter().any(|line| line.contains(&store)),
        "the store is not named"
    );
    let phases: Vec<&str> = run
        .array("rollouts")
        .iter()
        .filter_map(|rollout| rollout["phase"].as_str())
        .collect();
    assert_eq!(phases, ["completed", "completed"]);
    assert_eq!(run.array("rounds").len(), 3);
    assert_eq!(
        run.survivors(),
        Vec::<&serde_json::Value>::new(),
        "processes outlived the run"
    );
    let controller = Path::new(run.summary["dir"].as_str().expect("the run's folder")).join("controller");
    assert!(controller.join("fleet.json").exists() && !controller.join("store.redb").exists());

    // The same store again, from another folder: that is another fleet.
    let again = Quickstart::start(dir.path(), &["--store", &store]).finish();
    assert_ne!(again.code(), 0);
    assert!(
        again.progress.join("\n").contains("holds a fleet"),
        "{}",
        again.progress.join("\n")
    );
}
