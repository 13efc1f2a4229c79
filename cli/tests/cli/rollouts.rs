//! `deploy` and `rollout status|pause|resume|promote|rollback|abort`, on devices that do what they are told.

use fieldfare_controller_peers::release::release;
use fieldfare_controller_peers::trainer::{connected, import_once};

use crate::binary::{Farm, MODEL_FILE, column};

/// A fleet of two devices with releases 1 and 2 published; the probes of release 2 fail on them.
async fn farm() -> Farm {
    let farm = Farm::start().await;
    let evaluation = farm.home.write("held-out.jsonl", "{\"text\": \"dry\"}\n");
    let mut kiln = connected(&farm.fleet, &farm.join("trainer", "kiln").await).await;
    for number in 1..=2 {
        let import =
            format!("release import {MODEL_FILE} --model farm-alert --evaluation {evaluation} --job import-{number}");
        let (_, ()) = tokio::join!(farm.home.ok(&import), import_once(&farm.fleet, &mut kiln));
        farm.home.ok(&format!("release publish farm-alert:{number}")).await;
    }
    for name in ["north", "south"] {
        farm.device(name, 2).await;
    }
    farm
}

/// A deployment with as little watching as there may be.
fn deploy(release: &str, more: &str) -> String {
    let with = |option: &str, value: &str| match more.contains(option) {
        true => String::new(),
        false => format!("{option} {value}"),
    };
    let (waves, observe) = (with("--waves", "1,100%"), with("--observe", "0.05"));
    format!("deploy soil --release {release} {waves} {observe} --context-tokens 128 {more}")
}

const GATE: &str = "--gate probe-exact-match>=0.9";

#[tokio::test]
async fn a_good_release_goes_out_and_a_bad_one_comes_back() {
    let farm = farm().await;
    let home = &farm.home;
    let done = home.json(&deploy("farm-alert:1", GATE)).await;
    assert_eq!(
        (&done["phase"], &done["to"]),
        (&"completed".into(), &release(1).name.to_string().into())
    );
    assert_eq!(column(&done["devices"], "outcome"), ["converged", "converged"]);
    assert_eq!(column(&done["waves"], "phase"), ["passed", "passed"]);
    let why = home.json("devices explain north").await;
    assert_eq!(why["deployments"][0]["code"], "on_target");
    assert_eq!(why["deployments"][0]["target_variant"], "q8-0");
    assert_eq!(why["deployments"][0]["speed"]["learned_from_devices"], 2);
    let why = home.ok("devices explain north").await;
    assert!(why.contains("q8-0"), "{why}");
    assert!(
        why.contains("2 devices of its class reach 0.50 times the roofline's speed"),
        "{why}"
    );
    let plan = home
        .json("plan --release farm-alert -l site=north --context-tokens 128")
        .await;
    assert_eq!(column(&plan[0]["devices"], "chosen"), ["q8-0"]);

    // The bad one fails its gate at the canary; the result is printed, and the exit code is that of a refusal.
    let bad = home.run(&(deploy("farm-alert:2", GATE) + " --output json")).await;
    assert_eq!(bad.code, Some(3), "{bad:?}");
    let result: serde_json::Value = serde_json::from_str(&bad.stdout).unwrap();
    assert_eq!(column(&result["waves"], "phase"), ["failed", "waiting"]);
    assert!(
        bad.stderr.contains("rolled back") && bad.stderr.contains("probe"),
        "{bad:?}"
    );
    let watched = home.run("rollout status soil --watch").await;
    assert_eq!(watched.code, Some(3), "{watched:?}");
    assert!(watched.stdout.contains("wave 1 failed"), "{watched:?}");
    assert_eq!(home.json("rollout status soil").await["phase"], "rolled back");
    farm.fleet.stop().await;
}

#[tokio::test]
async fn a_rollout_obeys_its_operator() {
    let farm = farm().await;
    let home = &farm.home;
    home.ok(&deploy("farm-alert:1", "")).await;
    // Each wave would be watched for an hour.
    let slow = "--observe 3600 --wave-deadline 7200 --detach";
    let rollout = async |command: &str| home.json(&format!("rollout {command} soil")).await["phase"].clone();
    let begun = home.json(&deploy("farm-alert:2", slow)).await;
    assert_eq!(begun["phase"], "running");
    assert_eq!(rollout("pause").await, "paused");
    home.fails(1, "rollout promote soil", &["paused"]).await;
    assert_eq!(rollout("resume").await, "running");
    assert_eq!(rollout("promote").await, "running");
    let status = home.json("rollout status soil").await;
    assert_eq!(status["waves"][0]["phase"], "passed", "{status}");
    let tree = home.ok("rollout status soil").await;
    assert!(tree.contains("wave 1 passed") && tree.contains("north"), "{tree}");
    home.fails(1, &deploy("farm-alert:1", ""), &["roll it back or abort it"])
        .await;
    assert_eq!(rollout("rollback").await, "rolling back");
    let back = home.run("rollout status soil --watch --output json").await;
    assert_eq!(back.code, Some(3), "{back:?}");

    // The same again after a rollback is another try.
    assert_eq!(home.json(&deploy("farm-alert:2", slow)).await["phase"], "running");
    assert_eq!(rollout("abort").await, "aborted");
    home.fails(1, "rollout pause soil", &["aborted"]).await;
    farm.fleet.stop().await;
}

#[tokio::test]
async fn what_could_only_wait_for_ever_is_refused() {
    let farm = farm().await;
    let home = &farm.home;
    let nowhere = deploy("farm-alert:1", "-l site=nowhere");
    home.fails(1, &nowhere, &["site=nowhere", "next:", "devices list", "--detach"])
        .await;
    let unread = deploy("farm-alert:1", "-l 'site in ('");
    home.fails(1, &unread, &["site in (", "parenthesis"]).await;
    let fast = deploy("farm-alert:1", "--min-tokens-per-second 900000");
    home.fails(1, &fast, &["farm-alert.r1", "q8-0: ", "tok/s", "next:"])
        .await;
    let large = deploy("farm-alert:1", "--max-memory 1kB --detach");
    home.fails(1, &large, &["the deployment allows"]).await;
    home.fails(
        1,
        &deploy("farm-alert:9", ""),
        &["release \"farm-alert:9\" does not exist"],
    )
    .await;
    home.fails(1, &deploy("farm-alert:1", "--waves 50%"), &["wave"]).await;
    home.fails(1, &deploy("farm-alert:1", "--max-unavailable 0"), &["max_unavailable"])
        .await;
    for command in ["status", "pause", "resume", "promote", "rollback", "abort"] {
        home.fails(1, &format!("rollout {command} soil"), &["\"soil\" does not exist"])
            .await;
    }
    home.fails(1, "rollout status soil --watch", &["\"soil\" does not exist"])
        .await;
    // A deployment may be declared for devices to come.
    let declared = home.json(&deploy("farm-alert:1", "-l site=nowhere --detach")).await;
    assert_eq!(
        (&declared["phase"], &declared["devices"]),
        (&"running".into(), &serde_json::json!([]))
    );
    farm.fleet.stop().await;
}
