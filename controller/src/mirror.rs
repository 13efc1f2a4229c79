//! A copy in memory of the records that decisions read, kept up by a watch of the store.
//!
//! Readers see a state of the recent past. Whoever writes reads from the store first, so that an old copy can delay a
//! decision and never make a wrong one durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use fieldfare_fleet::rollout::RolloutState;
use fieldfare_fleet::{DeploymentName, DeviceId, JobName, ModelName, ProfileClass, RoundId, TrainerName};
use fieldfare_proto::v1;
use fieldfare_store::{Change, Entry, Key, Revision, Store, StoreError, Watch, WatchError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::keys::{Decision, Keys, Place};
use crate::limits::{MIRROR_PATIENCE, MIRROR_RELOAD_PAUSE};
use crate::records::{Record, decode};
use crate::refusal::{Refusal, chain};

/// A rollout's record, with the decider's state in it.
#[derive(Clone, Debug)]
pub struct RolloutView {
    /// The record.
    pub record: v1::RolloutRecord,
    /// What the decider keeps.
    pub state: RolloutState,
}

/// A round's record, with its cohort as a set.
#[derive(Clone, Debug)]
pub struct RoundView {
    /// The record.
    pub record: v1::RoundRecord,
    /// Who is invited.
    pub cohort: BTreeSet<DeviceId>,
}

/// The records that decisions read.
#[derive(Debug, Default)]
#[allow(
    missing_docs,
    reason = "each is the collection of the record of the same name in state.proto"
)]
pub struct Records {
    pub replicas: BTreeSet<String>,
    pub devices: BTreeMap<DeviceId, v1::DeviceRecord>,
    pub device_status: BTreeMap<DeviceId, v1::DeviceStatusRecord>,
    pub sessions: BTreeMap<DeviceId, v1::SessionRecord>,
    pub trainers: BTreeMap<TrainerName, v1::PrincipalRecord>,
    pub deployments: BTreeMap<DeploymentName, v1::DeploymentRecord>,
    pub deployment_status: BTreeMap<DeploymentName, v1::DeploymentStatusRecord>,
    pub rollouts: BTreeMap<DeploymentName, RolloutView>,
    pub assignments: BTreeMap<DeploymentName, BTreeMap<(Decision, ProfileClass), v1::AssignmentRecord>>,
    pub jobs: BTreeMap<JobName, v1::JobRecord>,
    pub job_status: BTreeMap<JobName, v1::JobStatusRecord>,
    pub claims: BTreeMap<JobName, v1::ClaimRecord>,
    pub rounds: BTreeMap<RoundId, RoundView>,
    pub drops: BTreeMap<RoundId, BTreeMap<DeviceId, v1::DropRecord>>,
    pub releases: BTreeMap<(ModelName, u64), v1::ReleaseRecord>,
}

impl Records {
    /// What a device is called; nothing for one that is not registered.
    pub fn device_name(&self, device: DeviceId) -> String {
        self.devices
            .get(&device)
            .map(|record| record.name.clone())
            .unwrap_or_default()
    }

    /// Whether a session of the device is open on a replica that lives.
    pub fn is_connected(&self, device: DeviceId) -> bool {
        self.sessions
            .get(&device)
            .is_some_and(|session| session.open && self.replicas.contains(&session.incarnation))
    }
}

/// What changed, for those who wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Devices: standing, profile, observed state, sessions.
    Devices,
    /// Deployments, rollouts and assignments: what sessions derive desired state from.
    Desired,
    /// Jobs, claims and releases.
    Jobs,
    /// Rounds and drops.
    Rounds,
    /// Trainers.
    Trainers,
}

const TOPICS: [Topic; 5] = [
    Topic::Devices,
    Topic::Desired,
    Topic::Jobs,
    Topic::Rounds,
    Topic::Trainers,
];

/// The copy, and its news.
#[derive(Debug)]
pub struct Mirror {
    records: RwLock<Records>,
    news: [watch::Sender<u64>; TOPICS.len()],
    seen: watch::Sender<Revision>,
}

impl Mirror {
    /// Reads everything once, and goes on from there until `stop`. The task ends by itself when the store is closed.
    pub async fn start(
        store: Store,
        keys: Keys,
        stop: CancellationToken,
    ) -> Result<(Arc<Self>, tokio::task::JoinHandle<()>), Refusal> {
        let mirror = Arc::new(Self {
            records: RwLock::default(),
            news: std::array::from_fn(|_| watch::Sender::new(0)),
            seen: watch::Sender::new(Revision::ZERO),
        });
        let watch = mirror.reload(&store, &keys).await?;
        let follower = Arc::clone(&mirror);
        let task = tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = follower.follow(store, keys, watch) => {}
            }
        });
        Ok((mirror, task))
    }

    /// The copy, for as long as the guard lives. Never hold it across an await.
    pub fn read(&self) -> RwLockReadGuard<'_, Records> {
        self.records.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the news of a topic. The value only says that there are some.
    pub fn subscribe(&self, topic: Topic) -> watch::Receiver<u64> {
        self.news[topic as usize].subscribe()
    }

    /// Ends when the copy shows this revision, or after a short while: what a caller did a moment ago must be there.
    pub async fn reach(&self, revision: Revision) {
        let mut seen = self.seen.subscribe();
        let _ = tokio::time::timeout(MIRROR_PATIENCE, seen.wait_for(|seen| *seen >= revision)).await;
    }

    fn tell(&self, topic: Topic) {
        self.news[topic as usize].send_modify(|count| *count += 1);
    }

    async fn reload(&self, store: &Store, keys: &Keys) -> Result<Watch, Refusal> {
        let listing = store.list_all(keys.root()).await?;
        let mut fresh = Records::default();
        for entry in &listing.entries {
            fresh.apply(keys, entry)?;
        }
        *self.records.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        self.seen.send_replace(listing.revision);
        TOPICS.into_iter().for_each(|topic| self.tell(topic));
        Ok(store.watch(keys.root(), listing.revision).await?)
    }

    async fn follow(&self, store: Store, keys: Keys, mut watch: Watch) {
        loop {
            match watch.advance().await {
                Ok(Some(changes)) => {
                    self.apply_all(&keys, changes.changes);
                    self.seen.send_replace(changes.revision);
                    continue;
                }
                Ok(None) => {
                    self.seen.send_replace(watch.seen());
                    continue;
                }
                Err(WatchError::Compacted { .. } | WatchError::Ahead { .. }) => {}
                Err(WatchError::Store(StoreError::Closed)) => return,
                Err(error @ WatchError::Store(_)) => {
                    tracing::error!(error = chain(&error), "the mirror of the store begins anew");
                }
            }
            match self.reload_patiently(&store, &keys).await {
                Some(again) => watch = again,
                None => return,
            }
        }
    }

    /// Reads everything again, however long the store does not answer: decisions rest on a copy that is old meanwhile, and what
    /// they write must hold against the store. Nothing once the store is closed.
    async fn reload_patiently(&self, store: &Store, keys: &Keys) -> Option<Watch> {
        loop {
            match self.reload(store, keys).await {
                Ok(watch) => return Some(watch),
                Err(error) => tracing::error!(error = chain(&error), "the store is not read again"),
            }
            if matches!(store.revision().await, Err(StoreError::Closed)) {
                return None;
            }
            tokio::time::sleep(MIRROR_RELOAD_PAUSE).await;
        }
    }

    fn apply_all(&self, keys: &Keys, changes: Vec<Change>) {
        let mut told = [false; TOPICS.len()];
        {
            let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
            for change in changes {
                let topic = match &change {
                    Change::Put(entry) => records.apply(keys, entry),
                    Change::Deleted(key) => Ok(records.remove(keys, key)),
                };
                match topic {
                    Ok(Some(topic)) => told[topic as usize] = true,
                    Ok(None) => {}
                    Err(error) => tracing::error!(error = chain(&error), "a changed record is left out of the mirror"),
                }
            }
        }
        TOPICS
            .into_iter()
            .filter(|topic| told[*topic as usize])
            .for_each(|topic| self.tell(topic));
    }
}

fn put<K: Ord, R: Record>(map: &mut BTreeMap<K, R>, name: K, entry: &Entry) -> Result<(), Refusal> {
    map.insert(name, decode(entry)?);
    Ok(())
}

impl Records {
    fn apply(&mut self, keys: &Keys, entry: &Entry) -> Result<Option<Topic>, Refusal> {
        let Some(place) = keys.parse(&entry.key) else {
            return Ok(None);
        };
        let topic = topic(&place);
        match place {
            Place::Replica(incarnation) => {
                self.replicas.insert(incarnation.to_owned());
            }
            Place::Device(id) => put(&mut self.devices, id, entry)?,
            Place::DeviceStatus(id) => put(&mut self.device_status, id, entry)?,
            Place::Session(id) => put(&mut self.sessions, id, entry)?,
            Place::Trainer(name) => put(&mut self.trainers, name, entry)?,
            Place::Deployment(name) => put(&mut self.deployments, name, entry)?,
            Place::DeploymentStatus(name) => put(&mut self.deployment_status, name, entry)?,
            Place::Rollout(name) => {
                let record: v1::RolloutRecord = decode(entry)?;
                let state = crate::rollout::state_of(&record);
                let state = state.map_err(|error| Refusal::broken("reading a rollout's state", error))?;
                self.rollouts.insert(name, RolloutView { record, state });
            }
            Place::Assignment(name, decision, class) => {
                put(self.assignments.entry(name).or_default(), (decision, class), entry)?;
            }
            Place::Job(name) => put(&mut self.jobs, name, entry)?,
            Place::JobStatus(name) => put(&mut self.job_status, name, entry)?,
            Place::Claim(name) => put(&mut self.claims, name, entry)?,
            Place::Round(id) => {
                let record: v1::RoundRecord = decode(entry)?;
                let cohort = record
                    .cohort
                    .iter()
                    .filter_map(|id| DeviceId::try_from(id.as_slice()).ok())
                    .collect();
                self.rounds.insert(id, RoundView { record, cohort });
            }
            Place::Drop(id, device) => put(self.drops.entry(id).or_default(), device, entry)?,
            Place::Release(model, number) => put(&mut self.releases, (model, number), entry)?,
        }
        Ok(Some(topic))
    }

    fn remove(&mut self, keys: &Keys, key: &Key) -> Option<Topic> {
        let place = keys.parse(key)?;
        let topic = topic(&place);
        match place {
            Place::Replica(incarnation) => drop(self.replicas.remove(incarnation)),
            Place::Device(id) => drop(self.devices.remove(&id)),
            Place::DeviceStatus(id) => drop(self.device_status.remove(&id)),
            Place::Session(id) => drop(self.sessions.remove(&id)),
            Place::Trainer(name) => drop(self.trainers.remove(&name)),
            Place::Deployment(name) => drop(self.deployments.remove(&name)),
            Place::DeploymentStatus(name) => drop(self.deployment_status.remove(&name)),
            Place::Rollout(name) => drop(self.rollouts.remove(&name)),
            Place::Assignment(name, decision, class) => {
                drop(
                    self.assignments
                        .get_mut(&name)
                        .and_then(|of| of.remove(&(decision, class))),
                );
            }
            Place::Job(name) => drop(self.jobs.remove(&name)),
            Place::JobStatus(name) => drop(self.job_status.remove(&name)),
            Place::Claim(name) => drop(self.claims.remove(&name)),
            Place::Round(id) => drop(self.rounds.remove(&id)),
            Place::Drop(id, device) => drop(self.drops.get_mut(&id).and_then(|of| of.remove(&device))),
            Place::Release(model, number) => drop(self.releases.remove(&(model, number))),
        }
        Some(topic)
    }
}

fn topic(place: &Place<'_>) -> Topic {
    match place {
        Place::Replica(_) | Place::Session(_) | Place::Device(_) | Place::DeviceStatus(_) => Topic::Devices,
        Place::Deployment(_) | Place::DeploymentStatus(_) | Place::Rollout(_) | Place::Assignment(..) => Topic::Desired,
        Place::Job(_) | Place::JobStatus(_) | Place::Claim(_) | Place::Release(..) => Topic::Jobs,
        Place::Round(_) | Place::Drop(..) => Topic::Rounds,
        Place::Trainer(_) => Topic::Trainers,
    }
}
