//! Devices that were away: without a network, asleep through a rollback, with an expired certificate, in 1970. Each is the real
//! agent as a process of its own, against a real controller.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use fieldfare_agent::clock;
use fieldfare_agent::folder::Folder;
use fieldfare_lm::quantize::Precision;
use fieldfare_proto::v1::{CommandRolloutRequest, DeviceOutcome, RolloutCommand, RolloutPhase, RolloutStatus};
use fieldfare_tls::Identity;
use fieldfare_tls::limits::RENEWAL_GRACE;

use crate::audit::{changes, events};
use crate::controller::Controller;
use crate::process::{Running, set_clock};
use crate::releases::{Release, release, weights};
use crate::session::{DEPLOYMENT, apply, deploy, ended};

/// Longer than a certificate lives.
const A_DAY: Duration = Duration::from_secs(25 * 3600);

/// A fleet of one device that has run release 1, confirmed, and was then switched off.
struct Scene {
    controller: Controller,
    folder: Folder,
    first: Release,
    shift: PathBuf,
    _place: tempfile::TempDir,
}

fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap()
}

impl Scene {
    async fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let mut controller = Controller::start().await;
        let folder = controller.enrol("north", &place.path().join("north")).await;
        let first = release(1, weights(Precision::F16));
        controller.publish(&first).await;
        let agent = Running::start(&folder).await;
        completed(&deploy(&controller, &first).await);
        agent.kill().await;
        let shift = place.path().join("shift");
        set_clock(&shift, 0);
        Self {
            controller,
            folder,
            first,
            shift,
            _place: place,
        }
    }

    /// Deploys another release while the device is away.
    async fn deploy_another(&mut self) -> Release {
        let second = release(2, weights(Precision::Q8_0));
        self.controller.publish(&second).await;
        apply(&self.controller, &second).await;
        second
    }

    /// What lies on the device, by digest.
    fn blobs(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.folder.blobs()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    fn certificate(&self) -> Vec<u8> {
        Identity::load(&self.folder.identity()).unwrap().unwrap().chain()[0].to_vec()
    }

    /// An agent without a controller serves the first release, and has nothing else.
    async fn serves_the_first_alone(&self, agent: &Running) {
        agent.serves(&self.first.text()).await;
        assert_eq!(agent.owner().is_answered().await, self.first.text());
        agent.says(&["no session"]).await;
        let said = agent.status().await;
        assert_eq!(said["controller"]["state"], "disconnected", "{said}");
        assert_eq!(said["serving"]["release"], self.first.text(), "{said}");
        assert_eq!(self.blobs(), BTreeSet::from([self.first.artifact.sha256.to_string()]));
    }

    /// Whether the device's audit log tells of a release, in whatever role.
    fn ever_ran(&self, release: &Release) -> bool {
        let changes = changes(&events(&self.folder));
        changes.iter().any(|change| {
            change
                .model
                .as_ref()
                .is_some_and(|model| model.release == release.text())
        })
    }
}

/// The one device runs what the rollout is about.
fn completed(rollout: &RolloutStatus) {
    assert_eq!(rollout.phase(), RolloutPhase::Completed, "{rollout:?}");
    assert_eq!(rollout.devices[0].outcome(), DeviceOutcome::Converged, "{rollout:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_a_device_that_restarts_without_a_network_serves_on_installs_nothing_and_converges_when_it_is_back() {
    let mut scene = Scene::new().await;
    let second = scene.deploy_another().await;
    scene.controller.die().await;
    // Twice: what one start without a network leaves behind, the next one finds.
    for _ in 0..2 {
        let agent = Running::start(&scene.folder).await;
        scene.serves_the_first_alone(&agent).await;
        agent.kill().await;
    }
    let agent = Running::start(&scene.folder).await;
    scene.serves_the_first_alone(&agent).await;
    scene.controller.come_back().await;
    completed(&ended(&scene.controller).await);
    assert_eq!(agent.owner().is_answered().await, second.text());
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_a_device_that_slept_through_a_rollback_never_installs_the_bad_release() {
    let mut scene = Scene::new().await;
    // It falls asleep when it has every byte of the release that will turn out to be bad, before it serves it.
    let dying = ("FIELDFARE_CRASH_AT", OsStr::new("agent.install.artifact-fetched:1"));
    let agent = Running::with(&scene.folder, &[dying]).await;
    agent.serves(&scene.first.text()).await;
    let bad = scene.deploy_another().await;
    agent.dies().await;
    assert!(
        scene.blobs().contains(&bad.artifact.sha256.to_string()),
        "{:?}",
        scene.blobs()
    );

    let command = CommandRolloutRequest {
        deployment: DEPLOYMENT.into(),
        command: RolloutCommand::Rollback.into(),
    };
    scene
        .controller
        .operator()
        .await
        .command_rollout(command)
        .await
        .unwrap();
    assert_eq!(ended(&scene.controller).await.phase(), RolloutPhase::RolledBack);

    // It wakes up without a network, knows only that it was told to install the release, and waits to hear whether it still is.
    scene.controller.die().await;
    let agent = Running::start(&scene.folder).await;
    agent.serves(&scene.first.text()).await;
    agent.says(&["no session"]).await;
    assert_eq!(agent.owner().is_answered().await, scene.first.text());
    // The bytes and their metadata can be had, the word of the controller cannot: it asks again and again, and does nothing.
    scene.controller.come_back_without_its_gateway().await;
    let before = agent.said(&["no session"]).len();
    agent.says_often(&["no session"], before + 4).await;
    assert_eq!(agent.owner().is_answered().await, scene.first.text());
    scene.controller.die().await;
    scene.controller.come_back().await;
    agent.says(&["in a session"]).await;
    // The next release is the proof that it has heard everything that was decided.
    let third = release(3, weights(Precision::Q4_0));
    scene.controller.publish(&third).await;
    completed(&deploy(&scene.controller, &third).await);
    assert_eq!(agent.owner().is_answered().await, third.text());
    agent.kill().await;
    assert!(scene.ever_ran(&scene.first) && scene.ever_ran(&third));
    assert!(!scene.ever_ran(&bad), "{:?}", changes(&events(&scene.folder)));
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_a_device_whose_certificate_expired_serves_renews_it_within_the_grace_and_converges() {
    let mut scene = Scene::new().await;
    scene.controller.die().await;
    scene.controller.pass(A_DAY);
    set_clock(&scene.shift, ms(A_DAY));
    let before = scene.certificate();
    let agent = Running::with_clock(&scene.folder, &scene.shift).await;
    scene.serves_the_first_alone(&agent).await;
    assert_eq!(agent.status().await["certificate"]["state"], "renewable");
    scene.controller.come_back().await;
    let second = scene.deploy_another().await;
    agent.says(&["the certificate was renewed"]).await;
    completed(&ended(&scene.controller).await);
    assert_eq!(agent.status().await["certificate"]["state"], "valid");
    assert_eq!(agent.owner().is_answered().await, second.text());
    assert_ne!(scene.certificate(), before);
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_a_device_whose_certificate_expired_beyond_the_grace_serves_and_says_that_it_must_enrol_anew() {
    let mut scene = Scene::new().await;
    scene.deploy_another().await;
    let long = A_DAY + RENEWAL_GRACE;
    scene.controller.die().await;
    scene.controller.pass(long);
    scene.controller.come_back().await;
    set_clock(&scene.shift, ms(long));
    let before = scene.certificate();
    let agent = Running::with_clock(&scene.folder, &scene.shift).await;
    agent.says(&["the certificate cannot be renewed"]).await;
    scene.serves_the_first_alone(&agent).await;
    let said = agent.status().await;
    assert_eq!(said["certificate"]["state"], "expired", "{said}");
    let reason = said["certificate"]["reason"].as_str().unwrap();
    assert!(reason.contains("enrol this device anew"), "{said}");
    assert_eq!(scene.certificate(), before);
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_a_device_whose_clock_says_1970_serves_says_so_and_converges_when_the_clock_is_right() {
    let mut scene = Scene::new().await;
    let second = scene.deploy_another().await;
    set_clock(&scene.shift, -i64::try_from(clock::now().unix_ms()).unwrap());
    // More starts than crashes that revert a release: none of them counts as one.
    for _ in 0..4 {
        let agent = Running::with_clock(&scene.folder, &scene.shift).await;
        agent.serves(&scene.first.text()).await;
        agent.kill().await;
    }
    let agent = Running::with_clock(&scene.folder, &scene.shift).await;
    scene.serves_the_first_alone(&agent).await;
    let line = agent
        .says(&["no controller can be heard before the clock is right"])
        .await;
    assert!(line.contains("the clock says 1970-01-01"), "{line}");
    let said = agent.status().await;
    assert_eq!(said["clock"]["state"], "behind", "{said}");
    let reason = said["clock"]["reason"].as_str().unwrap();
    assert!(
        reason.contains("1970-01-01") && reason.ends_with("set the clock"),
        "{reason}"
    );

    set_clock(&scene.shift, 0);
    completed(&ended(&scene.controller).await);
    let said = agent.status().await;
    assert_eq!(
        (&said["clock"]["state"], &said["serving"]["release"]),
        (&"plausible".into(), &second.text().into())
    );
    agent.kill().await;
}
