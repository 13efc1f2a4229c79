//! One attempt at a round, as far as it is open: its configuration, its contributions, and who dropped out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fieldfare_files::{self as files, Secrecy};
use fieldfare_fleet::{DeviceId, Digest, RoundId, Timestamp};
use fieldfare_proto::v1::{RoundConfiguration, RoundEvent, RoundRef};
use fieldfare_release::Sha256Digest;
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Job, bench};
use crate::clock::unix_ms;
use crate::evaluation::Measured;
use crate::failure::{WorkError, chain};
use crate::gateway::{FencedGateway, backoff};
use crate::limits::EVENT_QUEUE;
use crate::rounds::{ContributionStore, Offer, OpenGuard, RoundOffered};

/// An open attempt at a round.
#[derive(Debug)]
pub(super) struct Attempted {
    pub(super) id: RoundId,
    pub(super) configuration: Bytes,
    pub(super) configuration_sha256: Digest,
    pub(super) store: ContributionStore,
    pub(super) offers: mpsc::Receiver<Offer>,
    pub(super) events: mpsc::Receiver<RoundEvent>,
    pub(super) begun: Timestamp,
    /// Why devices dropped out, as the controller says it.
    pub(super) dropped: BTreeMap<DeviceId, String>,
    pub(super) accepted: BTreeMap<DeviceId, Digest>,
    /// The state with the round's mean.
    pub(super) candidate: Vec<f32>,
    pub(super) measured: Measured,
    pub(super) open: OpenGuard,
    _watching: AbortOnDrop,
}

#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The configuration of an attempt that this trainer wrote before a restart, if the attempt can still be gone on with: with it
/// tickets and contributions stay good.
pub(super) fn kept_configuration(job: &Job<'_>, id: &RoundId) -> Result<Option<Bytes>, WorkError> {
    let path = configuration_file(job, id)?;
    let kept = files::read_text(&path).map_err(WorkError::interrupted("reading the round's configuration"))?;
    let bytes = kept.and_then(|kept| hex::decode(kept.trim()).ok()).unwrap_or_default();
    let now = unix_ms(job.workshop.time.now());
    let usable = RoundConfiguration::decode(bytes.as_slice()).is_ok_and(|kept| {
        !bytes.is_empty() && kept.deadline_unix_ms > now && kept.state_entries == job.plan.entries as u64
    });
    Ok(usable.then(|| bytes.into()))
}

/// The configuration of an attempt: the one that this trainer wrote before a restart, or a new one. Tickets and contributions
/// name its digest, so that it must not change while the attempt lives.
fn configuration(job: &Job<'_>, path: &Path, id: &RoundId, state: Sha256Digest) -> Result<Bytes, WorkError> {
    if let Some(kept) = kept_configuration(job, id)? {
        return Ok(kept);
    }
    let bytes = job
        .plan
        .configuration(id, state, job.workshop.time.now())
        .encode_to_vec();
    let kept = files::replace(path, hex::encode(&bytes).as_bytes(), Secrecy::Secret);
    kept.map_err(WorkError::interrupted("keeping the round's configuration"))?;
    Ok(bytes.into())
}

/// Where the configuration of an attempt is kept.
fn configuration_file(job: &Job<'_>, id: &RoundId) -> Result<PathBuf, WorkError> {
    let folder = job
        .workshop
        .folder
        .job(job.gateway.job())
        .map_err(WorkError::interrupted("making the job's folder"))?;
    Ok(folder.join(format!("round-{}.attempt-{}.configuration", id.round.0, id.attempt.0)))
}

impl Attempted {
    /// Opens an attempt for devices, before any of them is invited.
    pub(super) fn open(job: &Job<'_>, id: RoundId, state: &[f32]) -> Result<Self, WorkError> {
        let state: Bytes = bench::encode(state).into();
        let path = configuration_file(job, &id)?;
        let configuration = configuration(job, &path, &id, Sha256Digest::of(&state))?;
        let configuration_sha256 = Digest::from_bytes(*Sha256Digest::of(&configuration).as_bytes());
        let folder = path.parent().unwrap_or(&path);
        let store = ContributionStore::open(folder, &id).map_err(WorkError::interrupted("keeping contributions"))?;
        let (open, offers) = job.workshop.rounds.open(RoundOffered {
            id: id.clone(),
            configuration: configuration.clone(),
            configuration_sha256,
            state,
            codec: job.plan.codec,
            store: store.clone(),
        });
        let (told, events) = mpsc::channel(EVENT_QUEUE);
        let watching = tokio::spawn(watch(job.gateway.clone(), (&id).into(), told));
        Ok(Self {
            id,
            configuration,
            configuration_sha256,
            store,
            offers,
            events,
            begun: job.workshop.time.now(),
            dropped: BTreeMap::new(),
            accepted: BTreeMap::new(),
            candidate: Vec::new(),
            measured: Measured::default(),
            open,
            _watching: AbortOnDrop(watching),
        })
    }

    /// Forgets the attempt's files.
    pub(super) fn forget(self, job: &Job<'_>) {
        let removed = self.store.remove().map_err(|error| chain(&error));
        let file = configuration_file(job, &self.id).map_err(|error| chain(&error));
        let file = file.and_then(|file| std::fs::remove_file(file).map_err(|error| error.to_string()));
        if let Err(error) = removed.and(file) {
            tracing::warn!(round = %self.id, error, "the files of a closed round stay behind");
        }
    }
}

/// What becomes of the invited, for as long as anybody listens. The stream is taken up again when it breaks.
async fn watch(gateway: FencedGateway, round: RoundRef, told: mpsc::Sender<RoundEvent>) {
    let mut failures = 0;
    while !told.is_closed() {
        match gateway.watch_round(round.clone()).await {
            Ok(mut stream) => {
                let ended = loop {
                    let event = match stream.message().await {
                        Ok(Some(event)) => event,
                        Ok(None) => break "the controller closed the stream".to_owned(),
                        Err(status) => break chain(&status),
                    };
                    failures = 0;
                    if told.send(event).await.is_err() {
                        return;
                    }
                };
                tracing::debug!(ended, "the watch of the round ended; taking it up again");
            }
            Err(error) => tracing::debug!(error = chain(&error), "the round cannot be watched yet"),
        }
        tokio::time::sleep(backoff(failures)).await;
        failures += 1;
    }
}
