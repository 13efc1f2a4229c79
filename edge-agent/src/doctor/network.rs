//! The controllers, and the release repository behind them: reached, and judged.

use std::time::Duration;

use fieldfare_files as files;
use fieldfare_fleet::Timestamp;
use fieldfare_member::diagnosis::{Check, ok, problem, warning};
use fieldfare_release::UnixSeconds;
use fieldfare_release::tuf::TrustedState;
use fieldfare_tls::{
    ConnectError, Endpoint, ExpectedServer, Identity, IdentityHandle, ServerTrust, TimeSource, connect,
};

use super::Patient;
use crate::clock;
use crate::config::AgentConfig;
use crate::folder::Folder;
use crate::install::{Looked, RemoteRepository, RepositoryError, TrustFile, standing};
use crate::limits::METADATA_NEARLY_EXPIRED;
use crate::process;

/// What the network gave.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// Each controller, and whether it could be reached under the machine's own clock.
    controllers: Vec<(Endpoint, Result<Genuine, ConnectError>)>,
    /// The release repository, where it is known who serves it.
    repository: Option<(String, Result<Looked, RepositoryError>)>,
}

/// By which clock a server is genuine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Genuine {
    /// By this machine's.
    Now,
    /// By another time alone: the clocks differ, or the server's certificate is out of date.
    AtAnotherTime,
}

impl Reached {
    /// The controller's time, by its artifact server.
    pub(super) fn server_time(&self) -> Option<Timestamp> {
        self.repository.as_ref()?.1.as_ref().ok()?.server_time
    }
}

/// Times by which a server may be judged: this machine's, and where that is wrong, some of the own certificate's life. The lives of
/// certificates that are in use overlap.
fn judging_times(identity: &Identity, now: Timestamp) -> Vec<Timestamp> {
    let window = identity.certificate().validity;
    let last = Timestamp::from_unix_ms(window.not_after().unix_ms().saturating_sub(1000));
    vec![now, window.half_life(), last, window.not_before()]
}

/// Speaks to everybody whom the device speaks to, opening no session.
pub(super) async fn reach(folder: &Folder, config: &AgentConfig, identity: &Identity, now: Timestamp) -> Reached {
    let times = judging_times(identity, now);
    let handle = IdentityHandle::new(identity.clone());
    let mut reached = Reached::default();
    for endpoint in config.gateways().unwrap_or_default() {
        let trust = ServerTrust::by(identity, ExpectedServer::Controller);
        let mut found = connect(&endpoint, Some(&handle), &trust, &TimeSource::fixed(now))
            .await
            .map(|_| Genuine::Now);
        for at in times.iter().skip(1) {
            if !matches!(found, Err(ConnectError::Server { .. } | ConnectError::Tls { .. })) {
                break;
            }
            if connect(&endpoint, Some(&handle), &trust, &TimeSource::fixed(*at))
                .await
                .is_ok()
            {
                found = Ok(Genuine::AtAnotherTime);
            }
        }
        reached.controllers.push((endpoint, found));
    }
    let known = standing(folder).ok().and_then(|standing| standing.artifact_endpoint);
    if let Some(text) = known
        && let Ok(endpoint) = text.parse()
    {
        let mut looked = look(&endpoint, &handle, config, folder, now).await;
        for at in times.into_iter().skip(1) {
            if !looked.as_ref().is_err_and(RepositoryError::is_outage) {
                break;
            }
            looked = look(&endpoint, &handle, config, folder, at).await;
        }
        reached.repository = Some((text, looked));
    }
    reached
}

async fn look(
    endpoint: &Endpoint,
    identity: &IdentityHandle,
    config: &AgentConfig,
    folder: &Folder,
    at: Timestamp,
) -> Result<Looked, RepositoryError> {
    let (trust, time) = (TrustFile::new(folder.trusted_state()), TimeSource::fixed(at));
    let repository = RemoteRepository::new(endpoint, identity, config, folder, &trust, &time)?;
    repository.look(UnixSeconds::new(at.unix_ms() / 1000)).await
}

/// The controllers: one of them is enough.
pub(super) fn controllers(patient: &Patient<'_>) -> Vec<Check> {
    const CHECK: &str = "controller";
    let reached = &patient.reached.controllers;
    let any = reached.iter().any(|(_, found)| matches!(found, Ok(Genuine::Now)));
    let judge = |(endpoint, found): &(Endpoint, Result<Genuine, ConnectError>)| {
        let (text, advice) = match found {
            Ok(Genuine::Now) => {
                let session = patient
                    .presence
                    .says("/controller/state")
                    .and_then(|state| state.as_str());
                let session = session
                    .map(|state| format!("; the agent is {state}"))
                    .unwrap_or_default();
                return ok(CHECK, format!("{endpoint} answers and is the fleet's{session}"));
            }
            Ok(Genuine::AtAnotherTime) => (
                format!("{endpoint} is the fleet's, but its certificate is not valid by this clock"),
                "set the clock of this device, or the controller's".to_owned(),
            ),
            Err(error) => (process::chain(error), advice(endpoint, error)),
        };
        match any {
            true => warning(CHECK, text, advice),
            false => problem(CHECK, text, advice),
        }
    };
    reached.iter().map(judge).collect()
}

fn advice(endpoint: &Endpoint, error: &ConnectError) -> String {
    let (host, port) = (endpoint.host(), endpoint.port());
    match error {
        ConnectError::Tcp { source, .. } if source.kind() == std::io::ErrorKind::ConnectionRefused => {
            format!("nobody listens at {host}:{port}: start the controller, or see that its address is still this one")
        }
        ConnectError::Tcp { .. } => {
            format!(
                "see that this device has a network, that {host} resolves (getent hosts {host}), and that a firewall lets TCP port {port} out"
            )
        }
        ConnectError::Timeout { .. } => {
            format!("see that a firewall lets TCP port {port} out, and that the controller is not overloaded")
        }
        ConnectError::Server { .. } => format!(
            "whoever answers at {host}:{port} is not a controller of this fleet: see what listens there; if the fleet was made anew, enrol \
            this device anew in another folder"
        ),
        ConnectError::Tls { .. } | ConnectError::Http2 { .. } | ConnectError::Settings(_) => {
            format!(
                "see what listens at {host}:{port}: it does not speak as a controller does. A proxy between must pass TLS on as it is"
            )
        }
    }
}

/// What is trusted of the release repository, and what it publishes now.
pub(super) fn metadata(patient: &Patient<'_>) -> Vec<Check> {
    let mut checks = vec![trusted(patient)];
    checks.extend(
        patient
            .reached
            .repository
            .as_ref()
            .map(|(endpoint, looked)| published(patient, endpoint, looked)),
    );
    checks
}

fn trusted(patient: &Patient<'_>) -> Check {
    const CHECK: &str = "trust";
    let path = patient.folder.trusted_state();
    let advice = format!(
        "move {} away: the device then trusts the root that its join token promised, and learns the rest anew",
        path.display()
    );
    let bytes = match files::read(&path) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            return ok(
                CHECK,
                "nothing was looked up yet; the root is the one that the join token promised",
            );
        }
        Err(error) => return problem(CHECK, process::chain(&error), advice),
    };
    let state = match TrustedState::from_bytes(&bytes) {
        Ok(state) => state,
        Err(error) => return problem(CHECK, process::chain(&error), advice),
    };
    let (root, signed) = (state.root(), clock::of_seconds(state.time_floor()));
    let expires = clock::of_seconds(root.payload().header.expires);
    let version = root.version();
    if patient.probable_time() >= expires {
        let found = format!("root {version} expired at {expires}");
        let advice = "the operator has to sign a newer root; nothing is installed before this device has it, and what runs goes on";
        return problem(CHECK, found, advice);
    }
    ok(
        CHECK,
        format!("root {version}, good until {expires}; the newest metadata were signed at {signed}"),
    )
}

fn published(patient: &Patient<'_>, endpoint: &str, looked: &Result<Looked, RepositoryError>) -> Check {
    const CHECK: &str = "metadata";
    let looked = match looked {
        Ok(looked) => looked,
        Err(error) => {
            let advice = "the artifact server belongs to the controller: see what is said of that, and that a firewall lets its port out";
            return warning(CHECK, format!("{endpoint}: {}", process::chain(error)), advice);
        }
    };
    if let Err(error) = &looked.update {
        let advice = "nothing is installed by these metadata, and what runs goes on. Expired: see that the controller runs, it signs the \
            timestamp by itself; the operator signs targets and root. Older than what was seen, or not signed: somebody serves what \
            the fleet did not publish";
        return problem(CHECK, format!("{endpoint}: {}", process::chain(error)), advice);
    }
    let Some(expires) = looked.expires else {
        return ok(CHECK, format!("{endpoint} has published nothing yet"));
    };
    let expires = clock::of_seconds(expires);
    let left: Duration = expires.since(patient.probable_time());
    if left < METADATA_NEARLY_EXPIRED {
        let found = format!("{endpoint}: the timestamp expires at {expires}");
        return warning(
            CHECK,
            found,
            "see that the controller runs and its clock is right: it signs the timestamp anew by itself",
        );
    }
    ok(CHECK, format!("{endpoint}: genuine, and good until {expires}"))
}
