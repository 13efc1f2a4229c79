//! A device's folder, and an installation that runs in it.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use fieldfare_agent::audit::Audit;
use fieldfare_agent::clock;
use fieldfare_agent::config::{AgentConfig, Consent, SCHEMA, Settings};
use fieldfare_agent::folder::Folder;
use fieldfare_agent::install::{
    Desired, InstallError, Installer, Parts, RemoteRepository, TrustFile, View, install_policy,
};
use fieldfare_agent::process::Binary;
use fieldfare_agent::serving::Served;
use fieldfare_agent::serving::protocol::{Options, Prompt};
use fieldfare_audit::writer::Writer;
use fieldfare_files::{self as files, Secrecy};
use fieldfare_fleet::install::InstallPolicy;
use fieldfare_fleet::{ByteSize, Labels, Obstacle, reference_profile};
use fieldfare_proto::v1::{DesiredModel, DesiredState, Generation, ObservedModel, ObservedState, progress};
use fieldfare_tls::{Endpoint, Identity, IdentityHandle};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::binary;
use crate::fleet::Fleet;
use crate::releases::{ANSWER, MODEL, PROMPT, Release, Releases, VARIANT};

/// Longer than anything here takes; a test that waits for more has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Memory that the owner lets models use.
pub(crate) const MODEL_MEMORY: ByteSize = ByteSize::from_mib(512);

/// Retries and confirms at once, where a test has no reason to wait.
pub(crate) fn impatient() -> InstallPolicy {
    InstallPolicy {
        confirm_window: Duration::from_millis(50),
        max_attempts: 3,
        retry_after: Duration::from_millis(20),
        ..install_policy()
    }
}

/// An enrolled device.
pub(crate) struct Device {
    pub(crate) folder: Folder,
    pub(crate) identity: Identity,
    pub(crate) settings: Settings,
    pub(crate) binary: Binary,
    config: AgentConfig,
    _place: tempfile::TempDir,
}

impl Device {
    /// Writes what enrolment writes.
    pub(crate) fn new(fleet: &Fleet, releases: &Releases) -> Self {
        // Nobody listens there: what is installed needs no controller.
        Self::of(fleet, releases, &Endpoint::new("127.0.0.1", 1).unwrap())
    }

    /// With this controller.
    pub(crate) fn of(fleet: &Fleet, releases: &Releases, controller: &Endpoint) -> Self {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::new(&place.path().join("agent"));
        folder.create().unwrap();
        let (root_version, root_sha256) = releases.root;
        let config = AgentConfig {
            schema: SCHEMA,
            name: "gateway".into(),
            labels: Labels::default(),
            endpoints: vec![controller.to_string()],
            root_sha256,
            root_version,
            profile: reference_profile("raspberry-pi-5").unwrap(),
        };
        let settings = Settings::new(Consent::Given, MODEL_MEMORY);
        let identity = fleet.device();
        files::replace_json(&folder.config(), &config, Secrecy::Secret).unwrap();
        files::replace_json(&folder.settings(), &settings, Secrecy::Secret).unwrap();
        identity.save(&folder.identity()).unwrap();
        Self {
            folder,
            identity,
            settings,
            binary: binary(),
            config,
            _place: place,
        }
    }

    /// The repository behind an artifact server, as the device sees it.
    pub(crate) fn repository(&self, releases: &Releases) -> RemoteRepository {
        let identity = IdentityHandle::new(self.identity.clone());
        let trust = TrustFile::new(self.folder.trusted_state());
        let time = clock::time_source();
        RemoteRepository::new(&releases.endpoint, &identity, &self.config, &self.folder, &trust, &time).unwrap()
    }

    /// Takes up the installation, as a start of the agent does.
    pub(crate) fn start(&self, policy: InstallPolicy) -> Installation {
        let desired = watch::Sender::new(None);
        let spiffe_id = self.identity.principal().to_string();
        let (audit, log) = Audit::start(&self.folder, &spiffe_id).unwrap();
        let settings = watch::Sender::new(self.settings.clone());
        let parts = Parts {
            folder: self.folder.clone(),
            config: self.config.clone(),
            identity: IdentityHandle::new(self.identity.clone()),
            binary: self.binary.clone(),
            policy,
            settings: settings.subscribe(),
            desired: desired.subscribe(),
            audit,
        };
        let (installer, view) = Installer::new(parts).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(installer.run(stop.clone()));
        Installation {
            desired,
            view,
            stop,
            task,
            log,
            _settings: settings,
        }
    }

    /// Runs the real agent, up to the moment when it serves what is installed.
    pub(crate) async fn run(&self) -> Child {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_fieldfare-agent"))
            .args(["run", "--dir"])
            .arg(self.folder.path())
            .env("FIELDFARE_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(agent.stderr.take().unwrap()).lines();
        let mut seen = Vec::new();
        let serves = async {
            while let Some(line) = log.next_line().await.unwrap() {
                let serves = line.contains("serving") && line.contains(MODEL);
                seen.push(line);
                if serves {
                    return true;
                }
            }
            false
        };
        let serves = timeout(PATIENCE, serves).await;
        assert!(serves == Ok(true), "it never served:\n{}", seen.join("\n"));
        // What is logged from now on is read, so that the agent never waits for a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        agent
    }

    /// Where the weights of a release lie once they are whole.
    pub(crate) fn blob(&self, release: &Release) -> PathBuf {
        self.folder.blobs().join(release.artifact.sha256.to_string())
    }
}

/// An installation under way.
pub(crate) struct Installation {
    desired: watch::Sender<Option<Desired>>,
    pub(crate) view: View,
    stop: CancellationToken,
    task: JoinHandle<Result<(), InstallError>>,
    log: Writer,
    _settings: watch::Sender<Settings>,
}

impl Installation {
    /// Tells the device what a session would.
    pub(crate) fn assign(&self, releases: &Releases, release: &Release, counter: u64) {
        self.assign_variant(releases, &release.name.to_string(), VARIANT, counter);
    }

    pub(crate) fn assign_variant(&self, releases: &Releases, target: &str, variant: &str, counter: u64) {
        let generation = Some(Generation { epoch: 1, counter });
        let model = DesiredModel {
            deployment: "soil".into(),
            model: MODEL.into(),
            generation,
            manifest_target: target.into(),
            variant: variant.into(),
        };
        let state = DesiredState {
            generation,
            models: vec![model],
        };
        self.desired.send_replace(Some(Desired {
            state,
            artifact_endpoint: releases.endpoint.to_string(),
        }));
    }

    /// Waits until the device tells something of its one model.
    pub(crate) async fn until(&self, told: impl Fn(&ObservedModel) -> bool) -> ObservedModel {
        let mut observed = self.view.observed.clone();
        let holds = |state: &ObservedState| state.models.first().is_some_and(&told);
        let found = timeout(PATIENCE, observed.wait_for(holds)).await;
        match found {
            Ok(state) => state.unwrap().models[0].clone(),
            Err(_) => panic!("it never came: {:?}", self.view.observed.borrow()),
        }
    }

    /// Waits until the device says that it cannot reach its target, and why.
    pub(crate) async fn obstacle(&self) -> Obstacle {
        let told = self.until(|model| obstacle_of(model).is_some()).await;
        obstacle_of(&told).unwrap()
    }

    /// Waits until the device has what it is assigned, confirmed.
    pub(crate) async fn converged(&self, release: &Release) -> ObservedModel {
        let converged = |model: &ObservedModel| {
            let kind = model.progress.as_ref().and_then(|progress| progress.kind.as_ref());
            matches!(kind, Some(progress::Kind::Converged(_))) && model.running_release == release.text()
        };
        self.until(converged).await
    }

    /// Waits until a release serves.
    pub(crate) async fn serving(&self, release: &Release) -> Arc<Served> {
        self.serving_anew(release, None).await
    }

    /// Waits until a release serves in another process than the one before.
    pub(crate) async fn serving_anew(&self, release: &Release, before: Option<u32>) -> Arc<Served> {
        let mut serving = self.view.serving.clone();
        let is_it = |served: &Option<Arc<Served>>| {
            served.as_ref().is_some_and(|served| {
                served.manifest_target == release.name && (before.is_none() || served.engine.pid() != before)
            })
        };
        let found = timeout(PATIENCE, serving.wait_for(is_it)).await;
        match found {
            Ok(served) => served.unwrap().clone().unwrap(),
            Err(_) => panic!("{} never served: {:?}", release.name, self.view.observed.borrow()),
        }
    }

    /// The process that serves now, if one does.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.view
            .serving
            .borrow()
            .as_ref()
            .and_then(|served| served.engine.pid())
    }

    /// Stops the agent's part and its processes.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
        tokio::task::spawn_blocking(|| self.log.close()).await.unwrap();
    }
}

pub(crate) fn obstacle_of(model: &ObservedModel) -> Option<Obstacle> {
    match model.progress.as_ref()?.kind.clone()? {
        progress::Kind::CannotConverge(obstacle) => Some(obstacle.try_into().unwrap()),
        _ => None,
    }
}

/// Asks what the shipped model is known to answer.
pub(crate) async fn assert_answers(served: &Served) {
    let request = served.engine.generate(Prompt::Text(PROMPT.into()), Options::greedy(48));
    let (text, _) = request.unwrap().whole().await.unwrap();
    assert_eq!(text.trim(), ANSWER);
}
