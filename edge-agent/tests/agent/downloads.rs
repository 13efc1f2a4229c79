//! Downloads that break off, and parts that are not what they were.

use fieldfare_lm::quantize::Precision;

use crate::device::{Device, assert_answers, impatient};
use crate::fleet::Fleet;
use crate::releases::{Release, Releases, release, weights};

/// Bytes of a download that come before it breaks off.
const HELD: usize = 400_000;

/// A device with nothing installed, and a repository with one release.
async fn fresh() -> (Releases, Device, Release) {
    let fleet = Fleet::new();
    let mut releases = Releases::start(&fleet).await;
    let first = release(1, weights(Precision::F16));
    releases.publish(&first);
    let device = Device::new(&fleet, &releases);
    (releases, device, first)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_broke_off_goes_on_where_it_broke() {
    let (releases, device, first) = fresh().await;
    let running = device.start(impatient());
    releases.hold_after(&first.path(), HELD);
    running.assign(&releases, &first, 1);
    let told = running.until(|told| told.fetched_bytes == HELD as u64).await;
    assert_eq!(told.total_bytes, first.artifact.length);
    releases.break_off();
    assert_answers(&*running.serving(&first).await).await;
    assert_eq!(releases.asked(&first.path()), [None, Some(HELD)]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_after_a_restart_of_the_agent() {
    let (releases, device, first) = fresh().await;
    let running = device.start(impatient());
    releases.hold_after(&first.path(), HELD);
    running.assign(&releases, &first, 1);
    running.until(|told| told.fetched_bytes == HELD as u64).await;
    running.stop().await;
    // It goes on as soon as a session tells it again what it is to run: meanwhile that may have been withdrawn.
    let running = device.start(impatient());
    running.assign(&releases, &first, 1);
    assert_answers(&*running.serving(&first).await).await;
    assert_eq!(releases.asked(&first.path()), [None, Some(HELD)]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_was_changed_on_the_disk_is_thrown_away_and_fetched_anew() {
    let (releases, device, first) = fresh().await;
    let mut part = first.weights[..HELD].to_vec();
    part[7] ^= 1;
    std::fs::write(device.blob(&first).with_extension("part"), part).unwrap();
    let running = device.start(impatient());
    running.assign(&releases, &first, 1);
    running.serving(&first).await;
    assert_eq!(releases.asked(&first.path()), [Some(HELD), None]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_too_early_is_gone_on_with() {
    let (releases, device, first) = fresh().await;
    let running = device.start(impatient());
    releases.end_after(&first.path(), HELD);
    running.assign(&releases, &first, 1);
    running.serving(&first).await;
    assert_eq!(releases.asked(&first.path()), [None, Some(HELD)]);
    running.stop().await;
}
