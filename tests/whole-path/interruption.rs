//! Ctrl-C at any moment stops every process and says so.

use fieldfare_tests::quickstart::Quickstart;

fn interrupted_at(moment: &str) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut run = Quickstart::start(dir.path(), &[]);
    run.until(moment);
    run.interrupt();
    let run = run.finish();
    assert_eq!(run.code(), 130, "at {moment:?}: {}", run.progress.join("\n"));
    assert_eq!(run.summary["outcome"], "interrupted");
    assert!(
        run.progress.iter().any(|line| line.contains("stopped")),
        "{}",
        run.progress.join("\n")
    );
    assert!(!run.array("processes").is_empty());
    assert_eq!(
        run.survivors(),
        Vec::<&serde_json::Value>::new(),
        "processes outlived the run"
    );
}

#[test]
fn ctrl_c_while_the_fleet_enrols() {
    interrupted_at("enrol");
}

#[test]
fn ctrl_c_during_a_round() {
    interrupted_at("round 1/");
}
