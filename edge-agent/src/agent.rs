//! The running device: its parts, put together and taken apart.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use fieldfare_audit::writer::Writer;
use fieldfare_files as files;
use fieldfare_member::enrolment::keep_certificate;
use fieldfare_proto::v1::RoundInvitation;
use fieldfare_release::Sha256Digest;
use fieldfare_service::limits::DRAIN_TIMEOUT;
use fieldfare_tls::{Identity, IdentityHandle};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::api::{self, ApiState, SettingsOwner};
use crate::audit::Audit;
use crate::clock;
use crate::config::{AgentConfig, ConfigError, Settings};
use crate::folder::Folder;
use crate::install::{Installer, Parts, Shelf, install_policy};
use crate::limits::{INVITATION_QUEUE, SESSION_QUEUE, STATE_RETRY};
use crate::private::PrivateStore;
use crate::process::{self, Binary};
use crate::rounds::{Participant, Readiness, RoundsView};
use crate::session::backoff::RECONNECTING;
use crate::session::pace::Pace;
use crate::session::{Connection, Session};

/// A device that is ready to run.
#[derive(Debug)]
pub struct Agent {
    folder: Folder,
    listener: TcpListener,
    installer: Installer,
    session: Session,
    participant: Participant,
    /// From the session to the participant.
    invited: mpsc::Receiver<RoundInvitation>,
    state: Arc<ApiState>,
    identity: IdentityHandle,
    config: AgentConfig,
    log: Writer,
}

impl Agent {
    /// Takes up the device of a folder: everything is read and opened, nothing runs yet.
    ///
    /// # Errors
    /// The folder is not enrolled or is damaged, another agent runs in it, or the address is taken.
    pub async fn new(folder: Folder, api_listen: Option<SocketAddr>, binary: Binary) -> anyhow::Result<Self> {
        let config = AgentConfig::load(&folder)?;
        let settings = Settings::load(&folder)?;
        folder.create()?;
        let identity = Identity::load(&folder.identity()).context("the identity")?;
        let identity = identity.ok_or(ConfigError::NotEnrolled {
            path: folder.identity().display().to_string(),
        })?;
        let private = Arc::new(PrivateStore::open(&folder.private_store())?);
        let listener = api::listen(api_listen.unwrap_or(settings.api_listen)).await?;
        let token = Sha256Digest::of(api::token(&folder)?.as_bytes());
        let spiffe_id = identity.principal().to_string();
        let (audit, log) = Audit::start(&folder, &spiffe_id).context("the audit log's thread")?;
        let identity = IdentityHandle::new(identity);
        let owner = SettingsOwner::new(folder.clone(), settings, config.profile.model_memory);
        let desired = watch::Sender::new(None);
        let parts = Parts {
            folder: folder.clone(),
            config: config.clone(),
            identity: identity.clone(),
            binary: binary.clone(),
            policy: install_policy(),
            settings: owner.subscribe(),
            desired: desired.subscribe(),
            audit: audit.clone(),
        };
        let (installer, view) = Installer::new(parts)?;
        let (invitations, invited) = mpsc::channel(INVITATION_QUEUE);
        let (answers, replies) = mpsc::channel(SESSION_QUEUE);
        let readiness = Readiness::new(owner.subscribe(), config.profile.memory);
        let said = readiness.subscribe();
        let rounds = watch::Sender::new(RoundsView::default());
        let connection = watch::Sender::new(Connection::Connecting);
        let settings = owner.subscribe();
        let state = Arc::new(ApiState {
            serving: view.serving.clone(),
            private: Arc::clone(&private),
            settings: owner,
            observed: view.observed.clone(),
            connection: connection.subscribe(),
            rounds: rounds.subscribe(),
            audit,
            config: config.clone(),
            identity: identity.clone(),
            folder: folder.clone(),
            token,
        });
        let session = Session {
            config: config.clone(),
            identity: identity.clone(),
            time: clock::time_source(),
            observed: view.observed,
            settings,
            readiness: said,
            desired,
            invitations,
            pace: Pace::default(),
            replies,
            connection,
        };
        let participant = Participant {
            identity: identity.clone(),
            time: clock::time_source(),
            binary,
            private,
            serving: view.serving,
            shelf: Shelf::new(folder.clone()),
            readiness,
            replies: answers,
            view: rounds,
        };
        Ok(Self {
            folder,
            listener,
            installer,
            session,
            participant,
            invited,
            state,
            identity,
            config,
            log,
        })
    }

    /// Where the local API listens. It is written where other programs find it once the device runs.
    ///
    /// # Errors
    /// The system does not know the address.
    pub fn announcement(&self) -> anyhow::Result<String> {
        let address = self.listener.local_addr()?;
        if let Err(error) = process::announce(&self.folder.endpoints(), address) {
            // A device whose disk is full serves all the same, to those who know the address.
            tracing::error!(
                error = process::chain(&error),
                "other programs are not told where the local API listens"
            );
        }
        Ok(format!("{} serves its local API at http://{address}", self.config.name))
    }

    /// Runs until `stop`, then lets what is under way finish.
    ///
    /// # Errors
    /// The installation's state cannot be kept, or the local API fails.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self {
            folder,
            listener,
            installer,
            session,
            participant,
            invited,
            state,
            identity,
            config,
            log,
        } = self;
        let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
        let token = || stop.clone();
        let renewing = keep_certificate(
            folder.identity(),
            identity,
            config.gateways().map_err(anyhow::Error::msg)?,
            clock::time_source(),
            |failures| RECONNECTING.after(failures).wait(clock::jitter()),
            token(),
        );
        let until = token();
        tasks.spawn(announce(folder.clone(), listener.local_addr()?, until));
        let until = token();
        tasks.spawn(async move { Ok(installer.run(until).await?) });
        let until = token();
        tasks.spawn(async move {
            session.run(until).await;
            Ok(())
        });
        tasks.spawn(async move {
            renewing.await;
            Ok(())
        });
        let until = token();
        tasks.spawn(async move {
            participant.run(invited, until).await;
            Ok(())
        });
        let until = token();
        tasks.spawn(async move {
            api::serve(listener, state, until).await;
            Ok(())
        });
        // The first task that ends, ends them all.
        let first = tokio::select! {
            () = stop.cancelled() => Ok(()),
            Some(ended) = tasks.join_next() => outcome_of(ended),
        };
        stop.cancel();
        let rest = timeout(DRAIN_TIMEOUT, async {
            let mut outcome = Ok(());
            while let Some(ended) = tasks.join_next().await {
                outcome = outcome.and(outcome_of(ended));
            }
            outcome
        });
        let outcome = match rest.await {
            Ok(rest) => first.and(rest),
            Err(_) => {
                tracing::warn!(timeout = ?DRAIN_TIMEOUT, "cutting off what did not end in time");
                tasks.shutdown().await;
                first
            }
        };
        // What was answered to the very end is in it.
        let closed = tokio::task::spawn_blocking(move || log.close()).await;
        files::remove(&folder.endpoints())?;
        outcome.and(closed.context("closing the audit log"))
    }
}

fn outcome_of(ended: Result<anyhow::Result<()>, JoinError>) -> anyhow::Result<()> {
    ended.context("a task of the agent panicked").flatten()
}

/// Says in a file where the local API listens, as soon as the disk takes it.
async fn announce(folder: Folder, api: SocketAddr, stop: CancellationToken) -> anyhow::Result<()> {
    while process::announce(&folder.endpoints(), api).is_err() {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(STATE_RETRY) => {}
        }
    }
    stop.cancelled().await;
    Ok(())
}
