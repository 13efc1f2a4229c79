//! What a repository that lies, or is out of date, gets from a device: a refusal, while what runs goes on.

use fieldfare_agent::process::chain;
use fieldfare_fleet::{ByteSize, Obstacle};
use fieldfare_lm::quantize::Precision;
use fieldfare_release::TargetName;
use fieldfare_release::manifest::ArtifactRole;

use crate::device::{Device, assert_answers, impatient};
use crate::fleet::Fleet;
use crate::install::Stage;
use crate::releases::{Releases, VARIANT, release, release_with, weights};

fn refusal(obstacle: Obstacle) -> String {
    match obstacle {
        Obstacle::Verification { detail } => detail,
        other => panic!("expected a refusal, found: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tampered_bytes_are_refused_and_the_running_release_serves_on() {
    let stage = Stage::new().await;
    let Stage {
        running,
        releases,
        second,
        ..
    } = &stage;
    let (pid, honest) = (running.pid(), releases.files());
    releases.tamper(&second.path());
    running.assign(releases, second, 2);
    match running.obstacle().await {
        Obstacle::Fetch { attempts: 3, detail } => assert!(detail.contains("are not what"), "{detail}"),
        other => panic!("expected a failed fetch, found: {other}"),
    }
    assert_eq!(
        releases.asked(&second.path()),
        [None, None, None],
        "nothing of them is kept"
    );
    assert!(!stage.device.blob(second).exists());
    assert_eq!(running.pid(), pid);
    assert_answers(&*running.serving(&stage.first).await).await;

    releases.serve_instead(honest);
    running.assign(releases, second, 3);
    running.serving(second).await;
    stage.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_metadata_stop_an_installation_and_nothing_that_runs() {
    let mut stage = Stage::new().await;
    stage.releases.expire();
    let pid = stage.running.pid();
    stage.running.assign(&stage.releases, &stage.second, 2);
    let detail = refusal(stage.running.obstacle().await);
    assert!(detail.contains("timestamp.json: expired"), "{detail}");
    assert_eq!(stage.running.pid(), pid);
    assert!(stage.releases.asked(&stage.second.path()).is_empty());

    stage.running.stop().await;
    stage.running = stage.device.start(impatient());
    assert_answers(&*stage.running.serving(&stage.first).await).await;

    stage.releases.renew();
    stage.running.assign(&stage.releases, &stage.second, 3);
    stage.running.serving(&stage.second).await;
    stage.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_installed_serves_without_any_server() {
    let Stage {
        releases,
        device,
        running,
        first,
        ..
    } = Stage::new().await;
    running.stop().await;
    releases.stop().await;
    let running = device.start(impatient());
    assert_answers(&*running.serving(&first).await).await;
    running.converged(&first).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_repository_is_refused() {
    let mut stage = Stage::new().await;
    let old = stage.releases.files();
    let third = release(3, weights(Precision::Q4_0));
    stage.releases.publish(&third);
    stage.running.assign(&stage.releases, &third, 2);
    stage.running.converged(&third).await;

    // Everything of it is genuine and unexpired, and it lists the release that is asked for: it is only not the newest.
    stage.releases.serve_instead(old);
    stage.running.assign(&stage.releases, &stage.second, 3);
    let detail = refusal(stage.running.obstacle().await);
    assert!(detail.contains("timestamp.json"), "{detail}");
    assert!(stage.releases.asked(&stage.second.path()).is_empty());
    stage.running.serving(&third).await;
    stage.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_look_ups_neither_trip_over_each_other_nor_go_back() {
    let fleet = Fleet::new();
    let mut releases = Releases::start(&fleet).await;
    let first = release(1, weights(Precision::F16));
    releases.publish(&first);
    let old = releases.files();
    let device = Device::new(&fleet, &releases);
    let repository = device.repository(&releases);
    let look_ups = |target: &TargetName| {
        let look_up = || {
            let (repository, target) = (repository.clone(), target.clone());
            tokio::spawn(async move { repository.resolve(&target).await })
        };
        std::iter::repeat_with(look_up).take(16).collect::<Vec<_>>()
    };
    let mut under_way = look_ups(&first.name);
    let second = release(2, weights(Precision::Q8_0));
    releases.publish(&second);
    under_way.extend(look_ups(&second.name));
    for look_up in under_way {
        look_up.await.unwrap().unwrap();
    }
    // What is kept in the end is the newest: the older repository is a step back.
    releases.serve_instead(old);
    let error = device.repository(&releases).resolve(&first.name).await.unwrap_err();
    let text = chain(&error);
    assert!(text.contains("timestamp.json"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_without_end_are_given_up_at_their_limit() {
    let stage = Stage::new().await;
    let Stage {
        running,
        releases,
        second,
        ..
    } = &stage;
    // White space behind JSON changes nothing of it but its length.
    let mut files = releases.files();
    let timestamp = files.get_mut("metadata/timestamp.json").unwrap();
    timestamp.resize(8 << 20, b' ');
    releases.serve_instead(files);
    running.assign(releases, second, 2);
    let detail = refusal(running.obstacle().await);
    assert!(detail.contains("timestamp.json is longer than 16384 bytes"), "{detail}");
    assert_answers(&*running.serving(&stage.first).await).await;
    stage.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_whose_manifest_changes_while_it_is_fetched_is_not_installed() {
    let mut stage = Stage::new().await;
    let held = 100_000;
    stage.releases.hold_after(&stage.second.path(), held);
    stage.running.assign(&stage.releases, &stage.second, 2);
    stage.running.until(|told| told.fetched_bytes == held as u64).await;
    let other = release_with(2, weights(Precision::Q8_0), |variant| {
        variant.figures.held_out_loss = 0.5
    });
    stage.releases.publish(&other);
    stage.releases.break_off();
    let obstacle = stage.running.obstacle().await.to_string();
    assert!(
        obstacle.contains("the signed metadata list another manifest"),
        "{obstacle}"
    );
    assert_answers(&*stage.running.serving(&stage.first).await).await;
    stage.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_listed_or_not_allowed_is_refused_by_name() {
    let stage = Stage::new().await;
    let Stage {
        running,
        releases,
        second,
        ..
    } = &stage;
    let second = second.name.to_string();
    let cases = [
        ("farm-alert.r9.release.json", VARIANT, "do not list farm-alert.r9"),
        (
            "adapter.farm-alert.r2.release.json",
            VARIANT,
            "do not list adapter.farm-alert.r2",
        ),
        (second.as_str(), "other", "has no variant other"),
    ];
    for (counter, (target, variant, expected)) in (2..).zip(cases) {
        running.assign_variant(releases, target, variant, counter);
        let told = running.until(|told| {
            told.generation.is_some_and(|found| found.counter == counter)
                && told
                    .progress
                    .as_ref()
                    .is_some_and(|progress| format!("{progress:?}").contains(expected))
        });
        told.await;
    }
    assert_answers(&*running.serving(&stage.first).await).await;
    stage.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_beyond_the_owners_memory_is_refused() {
    let greedy = release_with(2, weights(Precision::Q8_0), |variant| {
        variant.requirements.memory_bytes = 1 << 40
    });
    let stage = Stage::with(greedy, impatient()).await;
    stage.running.assign(&stage.releases, &stage.second, 2);
    let detail = refusal(stage.running.obstacle().await);
    assert!(
        detail.contains("needs 1024 GiB of memory for a context of 64 tokens, and the owner grants 512 MiB"),
        "{detail}"
    );
    stage.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_in_numbers_before_the_first_byte() {
    let huge = 1 << 60;
    let vast = release_with(2, weights(Precision::Q8_0), |variant| {
        variant.artifacts.get_mut(&ArtifactRole::Weights).unwrap().length = huge;
    });
    let stage = Stage::with(vast, impatient()).await;
    stage.running.assign(&stage.releases, &stage.second, 2);
    let Obstacle::DiskTooSmall { needed, available } = stage.running.obstacle().await else {
        panic!("expected a full disk: {}", stage.running.obstacle().await)
    };
    assert_eq!(needed, ByteSize::new(huge).saturating_add(impatient().disk_reserve));
    assert!(available > ByteSize::ZERO && available < needed);
    assert!(
        stage.releases.asked(&stage.second.path()).is_empty(),
        "not a byte was fetched"
    );
    stage.running.stop().await;
}
