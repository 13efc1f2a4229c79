//! The session with a real controller over mutual TLS: what is said, what is heard, and what survives.

use std::time::{Duration, Instant};

use fieldfare_agent::agent::Agent;
use fieldfare_agent::args::Output;
use fieldfare_agent::config::{AgentConfig, Settings};
use fieldfare_agent::folder::Folder;
use fieldfare_agent::install::Desired;
use fieldfare_agent::session::pace::Pace;
use fieldfare_agent::session::{Connection, Session};
use fieldfare_agent::status::status;
use fieldfare_fleet::ByteSize;
use fieldfare_lm::quantize::Precision;
use fieldfare_member::enrolment::keep_certificate;
use fieldfare_proto::v1::{
    ApplyDeploymentRequest, DeadlineRule, DeploymentSpec, DeviceOutcome, Gate, GateMetric, GetDeviceRequest,
    GetRolloutRequest, ListDevicesRequest, MinimumEvidence, ObservedState, Requirements, RolloutPhase, RolloutPolicy,
    RolloutStatus, TrainingReadiness, WaveSize, gate, wave_size,
};
use fieldfare_tls::{Identity, IdentityHandle, TimeSource};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::binary;
use crate::controller::Controller;
use crate::device::PATIENCE;
use crate::releases::{Release, VARIANT, release, weights};

const HOUR: Duration = Duration::from_secs(3600);

/// One wave for everybody; the probe must be answered as expected.
fn spec(release: &Release) -> DeploymentSpec {
    let policy = RolloutPolicy {
        waves: vec![WaveSize {
            size: Some(wave_size::Size::Percent(100)),
        }],
        gates: vec![Gate {
            metric: GateMetric::ProbeExactMatch.into(),
            bound: Some(gate::Bound::AtLeast(0.9)),
        }],
        max_unavailable: 10,
        minimum_evidence: Some(MinimumEvidence {
            devices: 1,
            probes: 1,
            requests: 0,
        }),
        observation_ms: 50,
        wave_deadline_ms: 60_000,
        on_deadline: DeadlineRule::RollBack.into(),
        offline_after_ms: 60_000,
    };
    DeploymentSpec {
        model: crate::releases::MODEL.into(),
        selector: "site".into(),
        manifest_target: release.name.to_string(),
        requirements: Some(Requirements {
            min_tokens_per_second: 1.0,
            context_tokens: 128,
            ..Requirements::default()
        }),
        policy: Some(policy),
    }
}

/// The one deployment.
pub(crate) const DEPLOYMENT: &str = "soil";

/// Deploys a release.
pub(crate) async fn apply(controller: &Controller, release: &Release) {
    let request = ApplyDeploymentRequest {
        name: DEPLOYMENT.into(),
        spec: Some(spec(release)),
        expected: None,
        retry: false,
    };
    controller.operator().await.apply_deployment(request).await.unwrap();
}

/// Deploys a release and watches its rollout to the end.
pub(crate) async fn deploy(controller: &Controller, release: &Release) -> RolloutStatus {
    apply(controller, release).await;
    ended(controller).await
}

/// Watches the rollout to its end.
pub(crate) async fn ended(controller: &Controller) -> RolloutStatus {
    let request = GetRolloutRequest {
        deployment: DEPLOYMENT.into(),
    };
    let mut watch = controller
        .operator()
        .await
        .watch_rollout(request)
        .await
        .unwrap()
        .into_inner();
    let mut last = RolloutStatus::default();
    let ended = timeout(PATIENCE, async {
        while let Some(status) = watch.message().await.unwrap() {
            last = status;
        }
    });
    assert!(ended.await.is_ok(), "the rollout does not end: {last:?}");
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_hears_what_to_run_runs_it_and_says_so_also_after_its_controller_died() {
    let place = tempfile::tempdir().unwrap();
    let mut controller = Controller::start().await;
    let folder = controller.enrol("north", &place.path().join("north")).await;
    let agent = Agent::new(folder.clone(), None, binary()).await.unwrap();
    agent.announcement().unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(agent.run(stop.clone()));

    let first = release(1, weights(Precision::F16));
    controller.publish(&first).await;
    let rollout = deploy(&controller, &first).await;
    assert_eq!(rollout.phase(), RolloutPhase::Completed, "{rollout:?}");
    let device = &rollout.devices[0];
    assert!(
        device.outcome() == DeviceOutcome::Converged && device.variant == VARIANT,
        "{device:?}"
    );
    let request = GetDeviceRequest { device: "north".into() };
    let shown = controller
        .operator()
        .await
        .get_device(request)
        .await
        .unwrap()
        .into_inner();
    assert!(shown.connected, "{shown:?}");
    assert_eq!(shown.labels["site"], "north");
    assert_eq!(shown.agent_version, env!("CARGO_PKG_VERSION"));

    let said: Value = serde_json::from_str(&status(&folder, Output::Json).await.unwrap()).unwrap();
    assert_eq!(said["controller"]["state"], "connected");
    assert_eq!(said["serving"]["release"], first.text());
    assert_eq!(said["serving"]["weights_sha256"], first.artifact.sha256.to_string());
    assert_eq!(said["installation"][0]["progress"]["state"], "converged");
    assert_eq!(said["profile"]["emulated"], true);

    // Another controller process, on the state of the one before: the device comes back and gets the next release.
    controller.die().await;
    controller.come_back().await;
    let second = release(2, weights(Precision::Q8_0));
    controller.publish(&second).await;
    let rollout = deploy(&controller, &second).await;
    assert_eq!(rollout.phase(), RolloutPhase::Completed, "{rollout:?}");
    let said: Value = serde_json::from_str(&status(&folder, Output::Json).await.unwrap()).unwrap();
    assert_eq!(said["serving"]["release"], second.text());

    stop.cancel();
    timeout(PATIENCE, running).await.unwrap().unwrap().unwrap();
    assert!(
        !folder.endpoints().exists(),
        "nobody is told of an agent that has ended"
    );
}

/// A session alone, and what the rest of an agent would hold of it.
struct Alone {
    connection: watch::Receiver<Connection>,
    identity: IdentityHandle,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    _desired: watch::Receiver<Option<Desired>>,
    _observed: watch::Sender<ObservedState>,
    _readiness: watch::Sender<TrainingReadiness>,
    settings: watch::Sender<Settings>,
}

impl Alone {
    fn start(folder: &Folder, time: &TimeSource) -> Self {
        let identity = IdentityHandle::new(Identity::load(&folder.identity()).unwrap().unwrap());
        let observed = watch::Sender::new(ObservedState::default());
        let readiness = watch::Sender::new(TrainingReadiness::default());
        let settings = watch::Sender::new(Settings::load(folder).unwrap());
        let desired = watch::Sender::new(None);
        let connection = watch::Sender::new(Connection::Connecting);
        let (heard, shown) = (desired.subscribe(), connection.subscribe());
        let session = Session {
            config: AgentConfig::load(folder).unwrap(),
            identity: identity.clone(),
            time: time.clone(),
            observed: observed.subscribe(),
            settings: settings.subscribe(),
            readiness: readiness.subscribe(),
            desired,
            invitations: mpsc::channel(1).0,
            pace: Pace::default(),
            replies: mpsc::channel(1).1,
            connection,
        };
        let stop = CancellationToken::new();
        Self {
            connection: shown,
            identity,
            running: tokio::spawn(session.run(stop.clone())),
            stop,
            _desired: heard,
            _observed: observed,
            _readiness: readiness,
            settings,
        }
    }

    async fn until(&mut self, holds: impl FnMut(&Connection) -> bool) -> Connection {
        let found = timeout(PATIENCE, self.connection.wait_for(holds)).await;
        found.expect("the session gets there").unwrap().clone()
    }

    async fn up(&mut self) {
        self.until(|connection| matches!(connection, Connection::Up(_))).await;
    }

    /// Why there is no session, once there is none.
    async fn down(&mut self) -> String {
        match self.until(|connection| matches!(connection, Connection::Down(_))).await {
            Connection::Down(reason) => reason,
            other => unreachable!("{other:?}"),
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.running).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_lose_their_controller_together_come_back_one_by_one() {
    const DEVICES: usize = 12;
    let place = tempfile::tempdir().unwrap();
    let mut controller = Controller::start().await;
    let mut sessions = Vec::new();
    for number in 0..DEVICES {
        let name = format!("device-{number}");
        let folder = controller.enrol(&name, &place.path().join(&name)).await;
        sessions.push(Alone::start(&folder, &controller.time));
    }
    for session in &mut sessions {
        session.up().await;
    }
    controller.die().await;
    // Whoever comes is let in and left waiting for the handshake, so that each comes once.
    let door = TcpListener::bind(controller.address()).await.unwrap();
    let mut arrivals = Vec::new();
    while arrivals.len() < DEVICES {
        let (stream, _) = timeout(PATIENCE, door.accept()).await.unwrap().unwrap();
        arrivals.push((Instant::now(), stream));
    }
    // Uniform over half a second at least: that twelve of them fall within a tenth has a chance of one in four million.
    let spread = arrivals[DEVICES - 1].0 - arrivals[0].0;
    assert!(spread > Duration::from_millis(100), "all within {spread:?}");
    drop((door, arrivals));

    controller.come_back().await;
    for session in &mut sessions {
        session.up().await;
    }
    let request = ListDevicesRequest::default();
    let listed = controller
        .operator()
        .await
        .list_devices(request)
        .await
        .unwrap()
        .into_inner();
    let connected = listed.devices.iter().filter(|device| device.connected).count();
    assert_eq!(connected, DEVICES);
    for session in sessions {
        session.stop().await;
    }
}

/// The memory for models that the controller knows of, once it is this.
async fn is_granted(controller: &Controller, device: &str, memory: u64) {
    let mut operator = controller.operator().await;
    let shown = async {
        loop {
            let request = GetDeviceRequest { device: device.into() };
            let shown = operator.get_device(request).await.unwrap().into_inner();
            if shown
                .profile
                .is_some_and(|profile| profile.model_memory_bytes == memory)
            {
                return;
            }
        }
    };
    timeout(PATIENCE, shown).await.expect("the controller hears of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controller_places_by_the_memory_that_the_owner_grants_now() {
    let place = tempfile::tempdir().unwrap();
    let controller = Controller::start().await;
    let folder = controller.enrol("north", &place.path().join("north")).await;
    let granted = AgentConfig::load(&folder).unwrap().profile.model_memory.get();
    let mut session = Alone::start(&folder, &controller.time);
    session.up().await;
    is_granted(&controller, "north", granted).await;
    session
        .settings
        .send_modify(|settings| settings.model_memory = ByteSize::new(granted / 2));
    is_granted(&controller, "north", granted / 2).await;
    session.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_drains_says_when_to_come_back() {
    let place = tempfile::tempdir().unwrap();
    let mut controller = Controller::start().await;
    let folder = controller.enrol("north", &place.path().join("north")).await;
    let mut session = Alone::start(&folder, &controller.time);
    session.up().await;
    controller.drain();
    let reason = session.down().await;
    assert!(reason.contains("asks to come back"), "{reason}");
    // A session that waits is told to stop like any other.
    session.stop().await;
}

/// One look at the certificate, as the agent's task takes it again and again.
async fn look_at_certificate(controller: &Controller, folder: &Folder, identity: &IdentityHandle) {
    let stop = CancellationToken::new();
    stop.cancel();
    let controllers = AgentConfig::load(folder).unwrap().gateways().unwrap();
    let (time, handle) = (controller.time.clone(), identity.clone());
    keep_certificate(folder.identity(), handle, controllers, time, |_| Duration::ZERO, stop).await;
}

fn saved(folder: &Folder) -> Vec<u8> {
    Identity::load(&folder.identity()).unwrap().unwrap().chain()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_at_half_its_life_and_kept() {
    let place = tempfile::tempdir().unwrap();
    let controller = Controller::start().await;
    let folder = controller.enrol("north", &place.path().join("north")).await;
    let first = Identity::load(&folder.identity()).unwrap().unwrap();
    let handle = IdentityHandle::new(first.clone());
    look_at_certificate(&controller, &folder, &handle).await;
    assert_eq!(
        saved(&folder),
        first.chain()[0].to_vec(),
        "there was no reason to renew"
    );

    controller.pass(13 * HOUR);
    look_at_certificate(&controller, &folder, &handle).await;
    let renewed = handle.current();
    assert_eq!(renewed.principal(), first.principal());
    assert_ne!(renewed.key().digest(), first.key().digest());
    assert_eq!(saved(&folder), renewed.chain()[0].to_vec());
    let mut session = Alone::start(&folder, &controller.time);
    session.up().await;
    session.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_renewed_within_its_grace_and_the_session_goes_on() {
    let place = tempfile::tempdir().unwrap();
    let mut controller = Controller::start().await;
    let folder = controller.enrol("north", &place.path().join("north")).await;
    // A night in the cellar: the controller came back with a certificate of today, the device with one of yesterday.
    controller.die().await;
    controller.pass(25 * HOUR);
    controller.come_back().await;
    let mut session = Alone::start(&folder, &controller.time);
    let reason = session.down().await;
    assert!(reason.contains("expired"), "{reason}");
    look_at_certificate(&controller, &folder, &session.identity).await;
    session.up().await;
    session.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expired_beyond_its_grace_stays_what_it_is() {
    let place = tempfile::tempdir().unwrap();
    let mut controller = Controller::start().await;
    let folder = controller.enrol("north", &place.path().join("north")).await;
    let before = saved(&folder);
    controller.die().await;
    controller.pass(25 * HOUR + fieldfare_tls::limits::RENEWAL_GRACE);
    controller.come_back().await;
    let handle = IdentityHandle::new(Identity::load(&folder.identity()).unwrap().unwrap());
    look_at_certificate(&controller, &folder, &handle).await;
    assert_eq!(saved(&folder), before);
    assert_eq!(handle.current().chain()[0].to_vec(), before);
}
