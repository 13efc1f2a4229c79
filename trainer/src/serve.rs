//! `run`: builds the parts, announces the trainer, works, and drains.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use fieldfare_files::{self as files, Secrecy};
use fieldfare_member::enrolment::{connect_first, keep_certificate};
use fieldfare_proto::PROTOCOL_VERSION;
use fieldfare_proto::v1::TrainerHello;
use fieldfare_service::limits::DRAIN_TIMEOUT;
use fieldfare_tls::{Acceptor, AcceptorSettings, DenyList, Endpoint, Identity, IdentityHandle, TimeSource};
use ring::rand::SystemRandom;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::artifacts::Artifacts;
use crate::compute::Compute;
use crate::config::{EndpointsFile, Run, TrainerConfig};
use crate::download::internet_client;
use crate::failure::chain;
use crate::folder::Folder;
use crate::gateway::{Gateway, backoff};
use crate::rounds;
use crate::work::{Workshop, watch_for_work};

/// A trainer that listens and works.
#[derive(Debug)]
pub struct Server {
    endpoint: Endpoint,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Server {
    /// Starts every part. Waits for a controller that can be reached.
    ///
    /// # Errors
    /// The folder is not enrolled, the address is taken, or a certificate is not usable.
    pub async fn start(options: &Run, time: TimeSource) -> Result<Self> {
        let folder = Folder::new(&options.dir);
        let (_, controllers) = TrainerConfig::load(&folder)?;
        // Whoever waits for this file waits for this process, not for an earlier one.
        folder.forget_endpoints()?;
        let identity = Identity::load(&folder.identity())?.context("the folder has no identity: enrol first")?;
        let delegation = Arc::new(folder.delegation_key(&SystemRandom::new())?);
        let identity = IdentityHandle::new(identity);
        let listener = TcpListener::bind(options.rounds_listen)
            .await
            .with_context(|| format!("--rounds-listen {}", options.rounds_listen))?;
        let endpoint = advertised(options, listener.local_addr()?.ip(), listener.local_addr()?.port())?;
        let gateway = first_gateway(&controllers, &identity, &time).await;
        let (artifact_base, base) = watch::channel(String::new());
        let (hints, hinted) = watch::channel(0);
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();

        let settings = AcceptorSettings::enrolled_only(identity.clone(), DenyList::default(), time.clone());
        let (service, rounds) = rounds::service(identity.clone(), time.clone(), rounds::Patience::default());
        tasks.spawn(rounds::serve(
            Acceptor::new(listener, settings)?,
            service,
            shutdown.clone(),
        ));
        tasks.spawn(keep_certificate(
            folder.identity(),
            identity.clone(),
            controllers,
            time.clone(),
            backoff,
            shutdown.clone(),
        ));

        let hello = TrainerHello {
            protocol_version: PROTOCOL_VERSION,
            features: Vec::new(),
            rounds_endpoint: endpoint.to_string(),
            delegation_public_key_pem: delegation.public().to_pem().to_owned(),
        };
        let watching = watch_for_work(gateway.clone(), hello, artifact_base, hints);
        tasks.spawn(until(shutdown.clone(), watching));
        let artifacts = Artifacts::new(&identity, &time, base)?;
        let workshop = Workshop {
            gateway,
            artifacts,
            compute: Compute::new(),
            rounds,
            folder: folder.clone(),
            hub: options.hub.clone(),
            internet: internet_client()?,
            identity,
            delegation,
            time,
        };
        let stop = shutdown.clone();
        tasks.spawn(async move { workshop.run(hinted, stop).await });
        files::replace_json(
            &folder.endpoints(),
            &EndpointsFile {
                rounds: endpoint.to_string(),
            },
            Secrecy::Secret,
        )?;
        Ok(Self {
            endpoint,
            shutdown,
            tasks,
        })
    }

    /// Where devices reach the rounds service.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Works until `signal`, then hands the claim back and drains.
    pub async fn run_until(mut self, signal: impl Future<Output = ()>) {
        signal.await;
        tracing::info!("draining");
        self.shutdown.cancel();
        let joined =
            tokio::time::timeout(DRAIN_TIMEOUT, async { while self.tasks.join_next().await.is_some() {} }).await;
        if joined.is_err() {
            tracing::warn!(timeout = ?DRAIN_TIMEOUT, "cutting off what did not end in time");
            self.tasks.shutdown().await;
        }
    }
}

/// Where devices are told to find the rounds service.
fn advertised(options: &Run, listening: IpAddr, port: u16) -> Result<Endpoint> {
    let host = match &options.advertise {
        Some(host) => host.clone(),
        None if listening.is_unspecified() => {
            anyhow::bail!(
                "--rounds-listen {} needs --advertise: devices cannot reach {listening}",
                options.rounds_listen
            )
        }
        None => listening.to_string(),
    };
    Endpoint::new(&host, port).with_context(|| format!("--advertise {host}"))
}

async fn until(shutdown: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = task => {}
    }
}

/// A gateway on the first controller that answers; the link comes back by itself when it breaks.
async fn first_gateway(controllers: &[Endpoint], identity: &IdentityHandle, time: &TimeSource) -> Gateway {
    let mut failures = 0;
    loop {
        match connect_first(controllers, identity, time).await {
            Ok(link) => return Gateway::new(link.channel()),
            Err(error) => tracing::warn!(error = chain(&error), "no controller answers; trying again"),
        }
        tokio::time::sleep(backoff(failures)).await;
        failures += 1;
    }
}
