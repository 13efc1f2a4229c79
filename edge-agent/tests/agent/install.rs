//! Installing: the real steps with the real binary, from a signed repository over mutual TLS.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use fieldfare_agent::limits::CRASH_WINDOW;
use fieldfare_agent::process::Binary;
use fieldfare_fleet::Obstacle;
use fieldfare_fleet::install::InstallPolicy;
use fieldfare_lm::quantize::Precision;
use rustix::process::{Pid, Signal, kill_process};

use crate::device::{Device, Installation, assert_answers, impatient};
use crate::fleet::Fleet;
use crate::releases::{Release, Releases, release, weights};
use crate::script;

/// A device that runs release 1, confirmed, and release 2 beside it in the repository.
pub(crate) struct Stage {
    pub(crate) releases: Releases,
    pub(crate) device: Device,
    pub(crate) running: Installation,
    pub(crate) first: Release,
    pub(crate) second: Release,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(release(2, weights(Precision::Q8_0)), impatient()).await
    }

    /// The second release serves until it crashes for the third time.
    pub(crate) async fn patient_with_crashes() -> Self {
        let policy = InstallPolicy {
            confirm_window: Duration::from_secs(600),
            max_crashes: 3,
            ..impatient()
        };
        Self::with(release(2, weights(Precision::Q8_0)), policy).await
    }

    /// Kills the second release each of the three times that it serves. `served` looks at it before, and is told how often it crashed.
    pub(crate) async fn crash_the_second(&self, served: impl Fn(u32)) {
        self.running.assign(&self.releases, &self.second, 2);
        let mut pid = None;
        for crashes in 0..3 {
            pid = self.running.serving_anew(&self.second, pid).await.engine.pid();
            served(crashes);
            kill(pid);
        }
    }

    pub(crate) async fn with(second: Release, policy: InstallPolicy) -> Self {
        let fleet = Fleet::new();
        let mut releases = Releases::start(&fleet).await;
        let first = release(1, weights(Precision::F16));
        releases.publish(&first);
        let device = Device::new(&fleet, &releases);
        let running = device.start(impatient());
        running.assign(&releases, &first, 1);
        running.converged(&first).await;
        running.stop().await;
        releases.publish(&second);
        let running = device.start(policy);
        running.serving(&first).await;
        Self {
            releases,
            device,
            running,
            first,
            second,
        }
    }
}

/// Names of the files in a folder.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_release_is_installed_and_the_next_one_takes_its_place() {
    let mut stage = Stage::new().await;
    let Stage {
        running, first, second, ..
    } = &stage;
    let before = running.serving(first).await;
    assert_answers(&before).await;
    running.assign(&stage.releases, second, 2);
    let served = running.serving(second).await;
    assert_answers(&served).await;
    assert_ne!(served.engine.pid(), before.engine.pid());
    assert!(before.engine.ended().await.contains("told to stop"));
    let told = running.converged(second).await;
    assert_eq!(told.running_weights_sha256, second.artifact.sha256.as_bytes());
    let evidence = told.evidence.unwrap();
    assert_eq!(
        (evidence.probes_run, evidence.probes_matched, evidence.errors),
        (1, 1, 0)
    );

    // The release before stays on the disk to go back to; the one before that does not.
    let blob = |release: &Release| release.artifact.sha256.to_string();
    let blobs = stage.device.folder.blobs();
    assert_eq!(names(&blobs), BTreeSet::from([blob(first), blob(second)]));
    let third = release(3, weights(Precision::Q4_0));
    stage.releases.publish(&third);
    stage.running.assign(&stage.releases, &third, 3);
    stage.running.converged(&third).await;
    assert_eq!(names(&blobs), BTreeSet::from([blob(&stage.second), blob(&third)]));
    stage.running.stop().await;
}

pub(crate) fn kill(pid: Option<u32>) {
    let pid = Pid::from_raw(i32::try_from(pid.unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_keeps_crashing_gives_way_to_the_one_before() {
    let stage = Stage::patient_with_crashes().await;
    let Stage {
        running,
        releases,
        first,
        second,
        ..
    } = &stage;
    stage.crash_the_second(|_| {}).await;
    let obstacle = running.obstacle().await;
    assert!(matches!(obstacle, Obstacle::CrashLoop { crashes: 3, .. }), "{obstacle}");
    assert_answers(&*running.serving(first).await).await;
    assert!(!stage.device.blob(second).exists());

    // The same assignment is not tried again, a new one is.
    running.assign(releases, second, 2);
    assert!(matches!(running.obstacle().await, Obstacle::CrashLoop { .. }));
    running.assign(releases, second, 3);
    running.serving(second).await;
    stage.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_crashes_long_after_it_was_found_good_gives_way_too() {
    let stage = Stage::with(release(2, weights(Precision::Q8_0)), impatient()).await;
    let Stage {
        running,
        releases,
        first,
        second,
        ..
    } = &stage;
    running.assign(releases, second, 2);
    let mut pid = None;
    for _ in 0..3 {
        let serving = running.serving_anew(second, pid).await;
        running.converged(second).await;
        pid = serving.engine.pid();
        kill(pid);
    }
    let obstacle = running.obstacle().await;
    assert!(
        matches!(obstacle, Obstacle::CrashLoop { crashes: 3, within } if within == CRASH_WINDOW),
        "{obstacle}"
    );
    assert_answers(&*running.serving(first).await).await;
    assert!(!stage.device.blob(second).exists());
    stage.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_does_not_load_never_serves() {
    let cut = weights(Precision::Q8_0)[..100_000].to_vec();
    let stage = Stage::with(release(2, cut), impatient()).await;
    let pid = stage.running.pid();
    stage.running.assign(&stage.releases, &stage.second, 2);
    let obstacle = stage.running.obstacle().await;
    assert!(matches!(&obstacle, Obstacle::WarmUp { .. }), "{obstacle}");
    assert_eq!(stage.running.pid(), pid, "the release before serves on, undisturbed");
    assert_answers(&*stage.running.serving(&stage.first).await).await;
    stage.running.stop().await;
}

/// The agent's binary behind a script that dies by a signal where a file `crash` lies beside it, once.
fn dying(folder: &Path) -> Binary {
    let real = env!("CARGO_BIN_EXE_fieldfare-agent");
    let crash = folder.join("crash");
    let text = format!(
        "if rm '{}' 2>/dev/null; then kill -9 $$; fi\nexec '{real}' \"$@\"",
        crash.display()
    );
    script(folder, &text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_it_loads_is_tried_again_beside_the_release_before() {
    let mut stage = Stage::new().await;
    stage.running.stop().await;
    let folder = stage.device.folder.path().to_owned();
    stage.device.binary = dying(&folder);
    stage.running = stage.device.start(impatient());
    let Stage {
        running,
        releases,
        first,
        second,
        ..
    } = &stage;
    let before = running.serving(first).await;
    std::fs::write(folder.join("crash"), "").unwrap();
    running.assign(releases, second, 2);
    running.serving(second).await;
    assert!(!folder.join("crash").exists(), "the first attempt died");
    assert!(
        before.engine.ended().await.contains("told to stop"),
        "and took nothing with it"
    );
    stage.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_bytes_are_never_started_and_are_fetched_again_where_they_are_assigned() {
    let mut stage = Stage::new().await;
    stage.running.stop().await;
    let blob = stage.device.blob(&stage.first);
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[500_000] ^= 1;
    std::fs::write(&blob, bytes).unwrap();

    stage.running = stage.device.start(impatient());
    stage.running.until(|told| told.running_release.is_empty()).await;
    assert_eq!(stage.running.pid(), None);
    assert!(!blob.exists());
    assert_eq!(stage.releases.asked(&stage.first.path()).len(), 1);
    stage.running.assign(&stage.releases, &stage.first, 1);
    let served = stage.running.serving(&stage.first).await;
    assert_answers(&served).await;
    assert_eq!(stage.releases.asked(&stage.first.path()).len(), 2);
    stage.running.stop().await;
}
