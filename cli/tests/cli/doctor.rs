//! `fieldfare doctor`: a healthy fleet, and one broken thing at a time with what to do about it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fieldfare_controller_peers::PATIENCE;
use fieldfare_controller_peers::device::{Session, hello};
use fieldfare_controller_peers::release::{Signer, release};
use fieldfare_proto::v1::{Heartbeat, device_message};
use serde_json::Value;

use crate::binary::{Farm, Home};

/// Everything that is found, and the exit code.
async fn examined(home: &Home) -> (Option<i32>, Value) {
    let finished = home.run("doctor --output json --timeout 5").await;
    let diagnosis = serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"));
    (finished.code, diagnosis)
}

/// One finding of this check that says this, of this level; with a problem the command fails, and advice comes with every fault.
async fn finds(home: &Home, level: &str, check: &str, says: &str, advises: &str) {
    let (code, diagnosis) = examined(home).await;
    let checks = diagnosis["checks"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let found = checks
        .iter()
        .find(|found| found["check"] == check && text(&found["found"]).contains(says));
    let found = found.unwrap_or_else(|| panic!("no {check} says {says:?}: {diagnosis:#}"));
    assert_eq!(found["level"], level, "{found:#}");
    assert!(
        text(&found["advice"]).contains(advises),
        "{advises:?} is not in {found:#}"
    );
    let is_problem = checks.iter().any(|found| found["level"] == "problem");
    assert_eq!(code, Some(i32::from(is_problem)), "{diagnosis:#}");
    assert_eq!(level == "problem" || is_problem, code == Some(1));
    for found in checks {
        assert_eq!(found["level"] == "ok", found["advice"].is_null(), "{found:#}");
    }
}

/// A fleet with a published release, a device and a trainer.
async fn healthy() -> Farm {
    let farm = Farm::start().await;
    farm.device("north", 0).await;
    farm
}

#[tokio::test]
async fn a_healthy_fleet_has_nothing_wrong() {
    let farm = healthy().await;
    let (code, diagnosis) = examined(&farm.home).await;
    assert_eq!(code, Some(0), "{diagnosis:#}");
    let checks = diagnosis["checks"].as_array().unwrap();
    for check in [
        "context",
        "certificate",
        "authority",
        "key files",
        "release keys",
        "disk",
        "controller",
        "artifacts",
        "tls",
        "clock",
        "store",
        "controller disk",
        "online keys",
        "certificates",
        "metadata",
        "releases",
        "devices",
    ] {
        let found = checks.iter().find(|found| found["check"] == check);
        let found = found.unwrap_or_else(|| panic!("{check} is not in {diagnosis:#}"));
        assert_eq!(found["level"], "ok", "{found:#}");
    }
    let finished = farm.home.run("doctor").await;
    assert!(
        finished.stdout.contains("ok       tls") && finished.stderr.is_empty(),
        "{finished:?}"
    );
    finds(
        &farm.home,
        "warning",
        "trainers",
        "0 of 0 connected",
        "fieldfare-trainer run",
    )
    .await;
    farm.fleet.stop().await;
}

#[tokio::test]
async fn what_is_wrong_in_the_contexts_folder_is_told() {
    let farm = Farm::start().await;
    let (home, folder) = (&farm.home, farm.home.context("farm"));
    let mode = |file: &str, mode| fs::set_permissions(folder.join(file), fs::Permissions::from_mode(mode)).unwrap();
    mode("root-key.pem", 0o644);
    finds(home, "problem", "key files", "root-key.pem", "chmod 600").await;
    mode("root-key.pem", 0o600);

    let away = |file: &str| fs::rename(folder.join(file), folder.join("away")).unwrap();
    let back = |file: &str| fs::rename(folder.join("away"), folder.join(file)).unwrap();
    away("targets-key.pem");
    finds(home, "warning", "release keys", "targets key is not here", "backup").await;
    fs::write(folder.join("targets-key.pem"), "no key").unwrap();
    finds(home, "problem", "release keys", "targets-key.pem", "backup").await;
    back("targets-key.pem");

    away("endpoints.json");
    finds(home, "problem", "context", "endpoints.json", "context add").await;
    fs::write(folder.join("endpoints.json"), "{").unwrap();
    finds(home, "problem", "context", "endpoints.json", "context add").await;
    back("endpoints.json");

    away("chain.pem");
    finds(
        home,
        "problem",
        "certificate",
        "chain.pem",
        "token create --role operator",
    )
    .await;
    back("chain.pem");

    let nobody = Home::new();
    finds(&nobody, "problem", "context", "no fleet is known", "context add").await;
    farm.fleet.stop().await;
}

fn redirect(folder: &Path, grpc: &str) {
    let path = folder.join("endpoints.json");
    let mut endpoints: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    endpoints["grpc"] = Value::from(grpc);
    fs::write(path, endpoints.to_string()).unwrap();
}

#[tokio::test]
async fn a_controller_that_is_not_reached_is_told_by_how_far_one_gets() {
    let farm = Farm::start().await;
    let (home, folder) = (&farm.home, farm.home.context("farm"));
    redirect(&folder, "https://no-such-host.invalid:7443");
    finds(home, "problem", "controller", "does not resolve", "DNS").await;
    // A port that was free a moment ago.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    redirect(&folder, &format!("https://{free}"));
    finds(
        home,
        "problem",
        "controller",
        "nobody listens",
        "fieldfare-controller run",
    )
    .await;
    let other = Farm::without_root().await;
    redirect(&folder, &other.fleet.endpoints.grpc);
    finds(home, "problem", "tls", "not trusted", "another server's").await;
    other.fleet.stop().await;
    farm.fleet.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_the_controller_is_told() {
    let farm = Farm::start().await;
    let (home, fleet) = (&farm.home, &farm.fleet);
    let key = fleet.folder().join("online/snapshot.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    finds(home, "problem", "online keys", "online/snapshot.pem", "chmod 600").await;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fleet.pass(Duration::from_secs(20));
    finds(home, "warning", "clock", "behind the controller's", "NTP").await;
    fleet.pass(Duration::from_secs(600));
    finds(home, "problem", "clock", "behind the controller's", "NTP").await;
    farm.fleet.stop().await;
}

#[tokio::test]
async fn metadata_and_artifacts_of_the_repository_are_looked_at() {
    let farm = Farm::without_root().await;
    let (home, fleet) = (&farm.home, &farm.fleet);
    finds(home, "warning", "metadata", "no release repository", "release init").await;
    let mut signer = Signer::new(fleet);
    signer.install_root(fleet).await;
    signer.publish(fleet, &release(1)).await.unwrap();
    for role in ["root 1", "targets 1", "snapshot 1", "timestamp 1"] {
        finds(home, "ok", "metadata", role, "").await;
    }
    finds(home, "ok", "releases", "all 2 listed files are there", "").await;
    let name = release(1).name.to_string();
    let file = blob(&farm, &release(1).manifest);
    let kept = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    finds(home, "problem", "releases", &name, "backup").await;
    fs::write(&file, &kept[1..]).unwrap();
    finds(
        home,
        "problem",
        "releases",
        "1 of 2 listed files are missing or short",
        "withdraw",
    )
    .await;
    fs::write(&file, &kept).unwrap();
    // A snapshot is good for a week, and this operator's certificate for longer.
    fleet.pass(Duration::from_secs(8 * 24 * 3600));
    finds(
        home,
        "problem",
        "metadata",
        "snapshot 1 expired 24 hours ago",
        "publish anew",
    )
    .await;
    farm.fleet.stop().await;
}

/// Where the controller keeps these bytes.
fn blob(farm: &Farm, bytes: &[u8]) -> PathBuf {
    let hex = fieldfare_release::Sha256Digest::of(bytes).to_string();
    farm.fleet.folder().join("blobs/sha256").join(&hex[..2]).join(hex)
}

#[tokio::test]
async fn devices_that_need_somebody_are_named() {
    let farm = Farm::start().await;
    let home = &farm.home;
    let mut full = hello("full");
    full.profile.as_mut().unwrap().disk_free_bytes = 1 << 20;
    let identity = farm.join("device", "full").await;
    let session = Session::open(&farm.fleet, &identity, full).await.unwrap();
    finds(
        home,
        "warning",
        "devices",
        "short of disk: full (1.00 MiB free)",
        "fieldfare-agent doctor",
    )
    .await;

    let ahead = i64::try_from(farm.fleet.time.now().unix_ms()).unwrap() + 9_000_000;
    let heartbeat = Heartbeat {
        sent_unix_ms: ahead,
        ..Heartbeat::default()
    };
    session.send(device_message::Message::Heartbeat(heartbeat)).await;
    // The session's order is kept: once the controller has taken the second one, it has taken the first.
    let until = tokio::time::Instant::now() + PATIENCE;
    let path = identity.principal().to_string();
    let id = path.rsplit('/').next().unwrap().parse().unwrap();
    while farm.fleet.plane.presence.of(id).unwrap().clock_ahead_ms.is_none() {
        assert!(tokio::time::Instant::now() < until);
        tokio::task::yield_now().await;
    }
    finds(home, "warning", "devices", "clocks are off: full 2 hours ahead", "NTP").await;

    farm.join("device", "gone").await;
    farm.fleet.pass(Duration::from_secs(3 * 24 * 3600));
    finds(
        home,
        "warning",
        "devices",
        "certificates have expired: gone (silent for 3 days)",
        "within 15 days",
    )
    .await;
    drop(session);
    farm.fleet.stop().await;
}

#[tokio::test]
async fn a_controller_that_hangs_is_not_taken_for_another_server() {
    let farm = healthy().await;
    // The system takes the connection, and nobody speaks, as with a process that was stopped.
    let hung = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    redirect(
        &farm.home.context("farm"),
        &format!("https://{}", hung.local_addr().unwrap()),
    );
    for seconds in [1, 15] {
        let finished = farm
            .home
            .run(&format!("doctor --output json --timeout {seconds}"))
            .await;
        let diagnosis: Value = serde_json::from_str(&finished.stdout).unwrap();
        let checks = diagnosis["checks"].as_array().unwrap();
        let found = checks.iter().find(|found| found["check"] == "tls").unwrap();
        let advice = found["advice"].as_str().unwrap();
        assert!(
            found["level"] == "problem" && advice.contains("hangs") && !advice.contains("another server's"),
            "{found:#}"
        );
    }
}
