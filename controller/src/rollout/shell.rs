//! The task that owns the deciders of all rollouts.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Arc;
use std::time::Duration;

use fieldfare_fleet::rollout::{Action, Event, Explanation, Rollout};
use fieldfare_fleet::{DeploymentName, DeviceId, Generation, ProfileClass, Timestamp};
use fieldfare_proto::v1::audit_record::Event as Audited;
use fieldfare_proto::v1::{self, DeploymentStatusRecord, ReleaseStanding, RolloutCommand, RolloutRecord};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::decision::{commanded_by, decision};
use super::desired::{Member, members_of};
use super::{assign, reports, status};
use crate::limits::{ROLLOUT_PACE, ROLLOUT_REQUESTS, TICK};
use crate::mirror::{Records, Topic};
use crate::placement::release_record;
use crate::plane::ControlPlane;
use crate::records::{Record, attempt};
use crate::refusal::{Refusal, chain};

type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

enum Request {
    Status(DeploymentName, Reply<v1::RolloutStatus>),
    Command(DeploymentName, RolloutCommand, String, Reply<v1::RolloutStatus>),
    Explain(DeploymentName, DeviceId, Reply<Explanation>),
    Follow(DeploymentName, Reply<watch::Receiver<v1::RolloutStatus>>),
}

/// A handle on the task.
#[derive(Clone, Debug)]
pub struct Rollouts {
    requests: mpsc::Sender<Request>,
}

/// A decider at work.
pub(super) struct Live {
    pub(super) record: RolloutRecord,
    pub(super) rollout: Rollout,
    /// Devices that were taken in, with their classes.
    joined: BTreeMap<DeviceId, ProfileClass>,
}

impl Rollouts {
    /// Starts the task, which ends at the shutdown of the plane.
    pub fn start(plane: Arc<ControlPlane>, tasks: &mut JoinSet<()>) -> Self {
        let (requests, queue) = mpsc::channel(ROLLOUT_REQUESTS);
        tasks.spawn(
            Shell {
                plane,
                live: BTreeMap::new(),
                followed: BTreeMap::new(),
            }
            .run(queue),
        );
        Self { requests }
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(request(reply))
            .await
            .map_err(|_| Refusal::ShuttingDown)?;
        answer.await.map_err(|_| Refusal::ShuttingDown)?
    }

    /// How the rollout of a deployment stands.
    pub async fn status(&self, deployment: DeploymentName) -> Result<v1::RolloutStatus, Refusal> {
        self.ask(|reply| Request::Status(deployment, reply)).await
    }

    /// How the rollout of a deployment stands, now and after each change, whatever brought it: a record, a device's word, or time.
    pub async fn follow(&self, deployment: DeploymentName) -> Result<watch::Receiver<v1::RolloutStatus>, Refusal> {
        self.ask(|reply| Request::Follow(deployment, reply)).await
    }

    /// Carries out an operator's command.
    pub async fn command(
        &self,
        deployment: DeploymentName,
        command: RolloutCommand,
        by: String,
    ) -> Result<v1::RolloutStatus, Refusal> {
        self.ask(|reply| Request::Command(deployment, command, by, reply)).await
    }

    /// Why a device runs what it runs.
    pub async fn explain(&self, deployment: DeploymentName, device: DeviceId) -> Result<Explanation, Refusal> {
        self.ask(|reply| Request::Explain(deployment, device, reply)).await
    }
}

struct Shell {
    plane: Arc<ControlPlane>,
    live: BTreeMap<DeploymentName, Live>,
    followed: BTreeMap<DeploymentName, watch::Sender<v1::RolloutStatus>>,
}

impl Shell {
    async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut devices = self.plane.mirror.subscribe(Topic::Devices);
        let mut desired = self.plane.mirror.subscribe(Topic::Desired);
        let mut presence = self.plane.presence.subscribe();
        loop {
            self.step_all().await;
            self.tell();
            let due = self.next_due();
            tokio::select! {
                () = self.plane.shutdown.cancelled() => return,
                request = queue.recv() => match request {
                    Some(request) => self.answer(request).await,
                    None => return,
                },
                () = tokio::time::sleep(due) => {}
                // News come in bursts; one look at all of them is as good as one at each.
                () = async {
                    tokio::select! {
                        _ = devices.changed() => {}
                        _ = desired.changed() => {}
                        _ = presence.changed() => {}
                    }
                    tokio::time::sleep(ROLLOUT_PACE).await;
                } => {}
            }
        }
    }

    /// Tells those who follow a rollout what is new about it.
    fn tell(&mut self) {
        let (plane, live) = (&self.plane, &self.live);
        self.followed.retain(|name, followers| match live.get(name) {
            _ if followers.is_closed() => false,
            Some(live) => {
                let now = status::status(plane, name, live);
                followers.send_if_modified(|told| std::mem::replace(told, now.clone()) != now);
                true
            }
            // It begins anew from the store in a moment, unless it is gone from there, too.
            None => plane.mirror.read().rollouts.contains_key(name),
        });
    }

    /// Heartbeats make no news; they are looked at once in a tick.
    fn next_due(&self) -> Duration {
        let now = self.plane.clock.now();
        let deadlines = self.live.values().filter_map(|live| live.rollout.next_deadline());
        deadlines
            .map(|at| at.since(now))
            .min()
            .unwrap_or(TICK)
            .clamp(ROLLOUT_PACE, TICK)
    }

    async fn step_all(&mut self) {
        let names: BTreeSet<DeploymentName> = self.plane.mirror.read().rollouts.keys().cloned().collect();
        self.live.retain(|name, _| names.contains(name));
        for name in names {
            if let Err(error) = self.step(&name).await {
                tracing::warn!(deployment = %name, error = chain(&error), "the rollout did not move on");
            }
        }
    }

    /// Takes in what is new and makes the decisions that are due.
    async fn step(&mut self, name: &DeploymentName) -> Result<(), Refusal> {
        self.refresh(name);
        let members = members_of(&self.plane.mirror.read(), name);
        let Some(live) = self.live.get_mut(name) else {
            return Ok(());
        };
        assign::assign(&self.plane, name, &live.record, live.rollout.state(), &members).await?;
        live.take_in(&self.plane, name, &members);
        let now = self.plane.clock.now();
        if live.rollout.next_deadline().is_some_and(|due| due <= now) {
            self.decide(name, now, Event::Tick).await?;
        }
        Ok(())
    }

    /// Goes on from the record in the store when somebody else wrote it.
    fn refresh(&mut self, name: &DeploymentName) {
        let records = self.plane.mirror.read();
        let Some(view) = records.rollouts.get(name) else { return };
        let held = self
            .live
            .get(name)
            .map_or(Generation::ZERO, |live| live.record.generation());
        if view.record.generation() > held {
            let (record, rollout) = (
                view.record.clone(),
                Rollout::resume(view.state.clone(), self.plane.clock.now()),
            );
            self.live.insert(
                name.clone(),
                Live {
                    record,
                    rollout,
                    joined: BTreeMap::new(),
                },
            );
        }
    }

    /// Decides, logs, persists, and only then lets the decision count.
    async fn decide(&mut self, name: &DeploymentName, now: Timestamp, event: Event) -> Result<(), Refusal> {
        let live = self
            .live
            .get_mut(name)
            .ok_or_else(|| Refusal::missing("rollout", name))?;
        let mut next = live.rollout.clone();
        let mut actions = Vec::new();
        let by = commanded_by(&event);
        next.handle(now, event, &mut actions)
            .map_err(|refused| Refusal::Unready(refused.to_string()))?;
        if next.state() != live.rollout.state() {
            fieldfare_crash::point("controller.rollout.decided");
            let decision = decision(name, &live.record, next.state(), by, &actions);
            let logged = self.plane.audit.record(Audited::RolloutDecision(decision)).await?;
            match persist(&self.plane, name, &live.record, &next).await {
                Ok(record) => {
                    fieldfare_crash::point("controller.rollout.persisted");
                    live.record = record;
                }
                Err(error) => {
                    // What is in the store counts; begin again from there.
                    self.live.remove(name);
                    if let Err(unlogged) = self.plane.audit.undone(logged, &error).await {
                        tracing::error!(
                            error = chain(&unlogged),
                            "the audit log does not say that a decision was not kept"
                        );
                    }
                    return Err(error);
                }
            }
        }
        live.rollout = next;
        for action in actions {
            act(&self.plane, name, action);
        }
        Ok(())
    }

    async fn answer(&mut self, request: Request) {
        // A caller that is gone needs no answer.
        match request {
            Request::Status(name, reply) => drop(reply.send(self.status(&name).await)),
            Request::Command(name, command, by, reply) => drop(reply.send(self.command(&name, command, by).await)),
            Request::Explain(name, device, reply) => {
                let now = self.plane.clock.now();
                let answer = match self.step(&name).await {
                    Ok(()) => self.live.get(&name).map(|live| {
                        let records = self.plane.mirror.read();
                        match Member::of(device, &records) {
                            Some(member) => live.explain(&records, now, &member),
                            None => live.rollout.explain(now, device),
                        }
                    }),
                    Err(error) => return drop(reply.send(Err(error))),
                };
                drop(reply.send(answer.ok_or_else(|| Refusal::missing("rollout", &name))));
            }
            Request::Follow(name, reply) => drop(reply.send(self.follow(name).await)),
        }
    }

    /// Devices would refuse to go back to a release that was withdrawn, and stay where they are.
    fn refuse_without_way_back(&self, name: &DeploymentName) -> Result<(), Refusal> {
        let from = self.live.get(name).map(|live| live.record.from_manifest.as_str());
        let Some(from) = from.filter(|from| !from.is_empty()) else {
            return Ok(());
        };
        if release_record(&self.plane.mirror.read(), from)?.standing() == ReleaseStanding::Published {
            return Ok(());
        }
        Err(Refusal::Unready(format!(
            "{from}, which {name} would go back to, was withdrawn: deploy a release that is published"
        )))
    }

    async fn follow(&mut self, name: DeploymentName) -> Result<watch::Receiver<v1::RolloutStatus>, Refusal> {
        let now = self.status(&name).await?;
        Ok(match self.followed.entry(name) {
            Entry::Occupied(entry) => {
                // Those who follow already may not have been told of it yet.
                entry
                    .get()
                    .send_if_modified(|told| std::mem::replace(told, now.clone()) != now);
                entry.get().subscribe()
            }
            Entry::Vacant(entry) => entry.insert(watch::Sender::new(now)).subscribe(),
        })
    }

    async fn status(&mut self, name: &DeploymentName) -> Result<v1::RolloutStatus, Refusal> {
        self.step(name).await?;
        let live = self.live.get(name).ok_or_else(|| Refusal::missing("rollout", name))?;
        Ok(status::status(&self.plane, name, live))
    }

    async fn command(
        &mut self,
        name: &DeploymentName,
        command: RolloutCommand,
        by: String,
    ) -> Result<v1::RolloutStatus, Refusal> {
        let event = match command {
            RolloutCommand::Pause => Event::Pause { by },
            RolloutCommand::Resume => Event::Resume { by },
            RolloutCommand::Promote => Event::Promote { by },
            RolloutCommand::Rollback => Event::RollBack { by },
            RolloutCommand::Abort => Event::Abort { by },
            RolloutCommand::Unspecified => return Err(Refusal::invalid("command", "is unspecified")),
        };
        self.step(name).await?;
        if command == RolloutCommand::Rollback {
            self.refuse_without_way_back(name)?;
        }
        self.decide(name, self.plane.clock.now(), event).await?;
        self.status(name).await
    }
}

impl Live {
    /// Why a device of the deployment runs what it runs.
    pub(super) fn explain(&self, records: &Records, now: Timestamp, member: &Member) -> Explanation {
        if reports::was_ever_seen(records, member.id) {
            return self.rollout.explain(now, member.id);
        }
        let state = self.rollout.state();
        Explanation::NotHeardFrom {
            last_heard: None,
            target: state.target_for(state.slot_of(member.id, member.joined_at)).release,
        }
    }

    /// Tells the decider who belongs to the deployment and what each device last said. It gathers the devices that it knows
    /// before it opens a wave; one that never came since it enrolled is not worth that wait.
    fn take_in(&mut self, plane: &ControlPlane, name: &DeploymentName, members: &[Member]) {
        let records = plane.mirror.read();
        let seen = |member: &&Member| reports::was_ever_seen(&records, member.id);
        let members: Vec<&Member> = members.iter().filter(seen).collect();
        let tell = |rollout: &mut Rollout, at: Timestamp, event: Event| {
            if let Err(refused) = rollout.handle(at, event, &mut Vec::new()) {
                tracing::debug!(deployment = %name, %refused, "a report changed nothing");
            }
        };
        let now = plane.clock.now();
        let present: BTreeSet<DeviceId> = members.iter().map(|member| member.id).collect();
        let gone: Vec<DeviceId> = self.joined.keys().filter(|id| !present.contains(id)).copied().collect();
        for device in gone {
            self.joined.remove(&device);
            tell(&mut self.rollout, now, Event::Left { device });
        }
        for member in members {
            if self.joined.get(&member.id) != Some(&member.class) {
                self.joined.insert(member.id, member.class.clone());
                let (device, class, joined_at) = (member.id, member.class.clone(), member.joined_at);
                tell(
                    &mut self.rollout,
                    now,
                    Event::Joined {
                        device,
                        class,
                        joined_at,
                    },
                );
            }
            let rollout = (&self.record, self.rollout.state());
            if let Some((heard, observation)) = reports::report(plane, &records, name, rollout, member) {
                tell(
                    &mut self.rollout,
                    heard,
                    Event::Observed {
                        device: member.id,
                        observation,
                    },
                );
            }
        }
    }
}

async fn persist(
    plane: &ControlPlane,
    name: &DeploymentName,
    held: &RolloutRecord,
    next: &Rollout,
) -> Result<RolloutRecord, Refusal> {
    let state = v1::StoredRollout::from(next.state());
    let record = attempt!("the rollout", plane.records, change, {
        let stored: Option<RolloutRecord> = change.read(&plane.keys.rollout(name)).await?;
        let mut record = stored
            .filter(|stored| stored.generation == held.generation)
            .ok_or_else(|| Refusal::Stale(format!("the rollout of {name} was changed by another controller")))?;
        record.state = Some(state.clone());
        record.updated_unix_ms = plane.unix_ms();
        change.put(plane.keys.rollout(name), &mut record);
        let key = plane.keys.deployment_status(name);
        let mut status: DeploymentStatusRecord = change.read(&key).await?.unwrap_or_default();
        let current = status::current_manifest(&record, next.state());
        if status.current_manifest != current {
            status.current_manifest = current;
            change.put(key, &mut status);
        }
        record
    });
    Ok(record)
}

fn act(plane: &ControlPlane, name: &DeploymentName, action: Action) {
    match action {
        // Sessions see the new state through the store.
        Action::PublishTargets { generation } => {
            tracing::info!(deployment = %name, %generation, "desired state published")
        }
        Action::Announce(milestone) => {
            plane.metrics.milestone(status::milestone_name(&milestone));
            tracing::info!(deployment = %name, ?milestone, "rollout");
        }
    }
}
