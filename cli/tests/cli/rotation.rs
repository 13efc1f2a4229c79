//! `release rotate-root`: every key is replaced, and devices follow over real TLS.

use std::fs;

use fieldfare_controller_peers::TestStore;
use fieldfare_controller_peers::release::{MODEL, updated};
use fieldfare_controller_peers::trainer::{connected, import_once};
use serde_json::Value;

use crate::binary::{Farm, Home, MODEL_FILE};

/// Imports and publishes the first release.
async fn published(farm: &Farm) {
    let mut kiln = connected(&farm.fleet, &farm.join("trainer", "kiln").await).await;
    let evaluation = farm.home.write("held-out.jsonl", "{\"text\": \"dry\"}\n");
    let import = format!("release import {MODEL_FILE} --model {MODEL} --evaluation {evaluation} --job first");
    tokio::join!(farm.home.json(&import), import_once(&farm.fleet, &mut kiln));
    farm.home.ok("release publish farm-alert:1").await;
}

async fn rotated(home: &Home, options: &str) -> Value {
    home.json(&format!("release rotate-root {options}")).await["root_version"].clone()
}

#[tokio::test]
async fn every_key_is_replaced_and_devices_follow() {
    let farm = Farm::start().await;
    published(&farm).await;
    let (fleet, home) = (&farm.fleet, &farm.home);
    let device = farm.join("device", "north").await;
    let slept = updated(fleet, &device, None).await;
    let key = |name: &str| fs::read(home.context("farm").join(name)).ok();
    let before = (key("root-key.pem"), key("targets-key.pem"));
    home.fails(
        1,
        "release rotate-root --online-keys",
        &["fieldfare-controller next-online-keys --dir DIR"],
    )
    .await;
    fleet.make_next_online_keys();
    // Two roots: both targets keys may sign until the new one has.
    assert_eq!(rotated(home, "--root-key --targets-key --online-keys").await, 3);
    let after = (key("root-key.pem"), key("targets-key.pem"));
    assert!(before.0 != after.0 && before.1 != after.1);
    assert_eq!((key("next-root-key.pem"), key("next-targets-key.pem")), (None, None));
    assert!(!fleet.folder().join("online/next-snapshot.pem").exists());

    let awake = updated(fleet, &device, Some(slept.clone())).await;
    assert_eq!(awake.root().version().get(), 3);
    home.ok("release verify farm-alert:1").await;
    // What is published and renewed from now on is signed with the new keys.
    assert_eq!(home.json("release withdraw farm-alert:1").await["targets_version"], 3);
    assert_eq!(rotated(home, "").await, 4);
    assert_eq!(rotated(home, "--root-key").await, 5);
    updated(fleet, &device, Some(awake)).await;
    // One that slept through all of it follows as well.
    assert_eq!(updated(fleet, &device, Some(slept)).await.root().version().get(), 5);
    // Tokens pin the newest root.
    let token = farm.token("").await;
    assert_eq!(token.root.version, 5);
    farm.fleet.stop().await;
}

#[tokio::test]
async fn an_interrupted_rotation_goes_on_with_the_keys_that_it_made() {
    let farm = Farm::start().await;
    published(&farm).await;
    let folder = farm.home.context("farm");
    // Killed after the controller took the root: nothing of it is known here but the key.
    let trust = fs::read(folder.join("trust.json")).unwrap();
    let key = fs::read(folder.join("root-key.pem")).unwrap();
    assert_eq!(rotated(&farm.home, "--root-key").await, 2);
    fs::rename(folder.join("root-key.pem"), folder.join("next-root-key.pem")).unwrap();
    fs::write(folder.join("root-key.pem"), &key).unwrap();
    fs::write(folder.join("trust.json"), trust).unwrap();
    assert_eq!(rotated(&farm.home, "").await, 3);
    assert_ne!(fs::read(folder.join("root-key.pem")).unwrap(), key);
    assert!(!folder.join("next-root-key.pem").exists());
    farm.fleet.stop().await;
}

/// Releases were published after the backup: devices know newer lists than the restored fleet has, and refuse it as a rollback until
/// its online keys are replaced.
#[tokio::test]
async fn a_fleet_that_lost_publications_is_accepted_again_after_its_online_keys_were_replaced() {
    let place = tempfile::tempdir().unwrap();
    let farm = Farm::start().await;
    published(&farm).await;
    let device = farm.join("device", "north").await;
    let file = place.path().join("fleet.tar");
    farm.fleet.backup(&file).await.unwrap();
    farm.home.ok("release withdraw farm-alert:1").await;
    // The root was renewed since as well.
    assert_eq!(rotated(&farm.home, "").await, 2);
    let seen = updated(&farm.fleet, &device, None).await;

    let Farm { fleet, home } = farm;
    let (fleet, _) = fleet.restored_on(&file, TestStore::start()).await;
    let farm = Farm { fleet, home };
    let endpoints = fs::read(farm.fleet.folder().join("operator/endpoints.json")).unwrap();
    fs::write(farm.home.context("farm").join("endpoints.json"), endpoints).unwrap();
    farm.fleet.make_next_online_keys();
    assert_eq!(rotated(&farm.home, "--online-keys").await, 3);
    let seen = updated(&farm.fleet, &device, Some(seen)).await;
    farm.home.ok("release withdraw farm-alert:1").await;
    updated(&farm.fleet, &device, Some(seen)).await;
    farm.fleet.stop().await;
}
