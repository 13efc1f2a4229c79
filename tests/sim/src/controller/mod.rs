//! A controller: its store, which survives, and its process, which does not.

mod jobs;
mod rollouts;
mod sessions;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use fieldfare_fleet::rollout::{Observation, Rollout, RolloutState, Slot};
use fieldfare_fleet::{DeviceId, ProfileClass, ReleaseId, RoundId, Timestamp, VariantName};

use crate::ground::{Ground, Happening};
use crate::message::{Desired, Look, Readiness, Up};
pub(crate) use jobs::CLAIM_LEASE;
use jobs::Job;

/// What is kept of a device.
#[derive(Clone, Debug)]
pub(crate) struct Enrolled {
    pub(crate) id: DeviceId,
    pub(crate) class: ProfileClass,
    pub(crate) joined_at: Timestamp,
    fence: u64,
    observed: Option<Rc<Observation>>,
}

/// What survives a crash: each change of it is one commit.
#[derive(Debug)]
pub(crate) struct Store {
    /// By their numbers.
    pub(crate) devices: Vec<Option<Enrolled>>,
    pub(crate) rollout: Option<RolloutState>,
    /// The variant of a release for a class of devices, decided once; none where none fits.
    pub(crate) assignments: BTreeMap<(ReleaseId, ProfileClass), Option<VariantName>>,
    /// The newest federated job.
    pub(crate) job: Option<Job>,
}

/// The newest session of a device here.
#[derive(Debug)]
struct Sign {
    link: u64,
    open: bool,
    last_heard: Timestamp,
    observed: Option<Rc<Observation>>,
    sent: Option<Rc<Desired>>,
    /// Of which version of the records that is what follows.
    seen: u64,
    /// Whether it could train, as it last said.
    ready: Readiness,
    /// The openings of rounds that it was invited to.
    invited: BTreeSet<(RoundId, u64)>,
}

/// What a crash takes away.
#[derive(Debug)]
struct Process {
    signs: Vec<Option<Sign>>,
    live: Option<Rollout>,
    joined: Vec<bool>,
    /// Counts the changes of records on which desired state depends.
    version: u64,
    /// Of which version assignments were written and devices joined.
    assigned: u64,
    /// Devices whose report may be another one than the decider has.
    news: Vec<bool>,
    /// Desired state by what it depends on, until the rollout changes.
    desired: BTreeMap<(bool, ProfileClass), Rc<Desired>>,
    /// The attempt and the claim for which a trainer watches, whom it was told of, and who has no session since when.
    watched: Option<(RoundId, u64)>,
    told_of: BTreeSet<DeviceId>,
    away: BTreeMap<DeviceId, Timestamp>,
}

#[derive(Debug)]
pub(crate) struct Controller {
    pub(crate) store: Store,
    life: u32,
    process: Option<Process>,
}

impl Process {
    fn new(devices: usize) -> Self {
        Self {
            signs: (0..devices).map(|_| None).collect(),
            live: None,
            joined: vec![false; devices],
            version: 1,
            assigned: 0,
            news: vec![false; devices],
            desired: BTreeMap::new(),
            watched: None,
            told_of: BTreeSet::new(),
            away: BTreeMap::new(),
        }
    }

    /// The newest session of a device, if this link is its and it is open.
    fn session(&mut self, device: u32, link: u64) -> Option<&mut Sign> {
        self.signs[device as usize]
            .as_mut()
            .filter(|sign| sign.open && sign.link == link)
    }
}

impl Controller {
    pub(crate) fn new(devices: u32) -> Self {
        Self {
            store: Store {
                devices: vec![None; devices as usize],
                rollout: None,
                assignments: BTreeMap::new(),
                job: None,
            },
            life: 0,
            process: None,
        }
    }

    pub(crate) const fn is_up(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn boot(&mut self, ground: &mut Ground) {
        ground.say(|| "the controller starts".to_owned());
        self.process = Some(Process::new(self.store.devices.len()));
        ground.checks.controller_restarts();
        self.plan(ground, Duration::ZERO, Look::News);
    }

    /// The process dies. What was committed stays.
    pub(crate) fn crash(&mut self, ground: &mut Ground, down_for: Duration) {
        let Some(process) = self.process.take() else { return };
        ground.say(|| format!("the controller dies for {} s", down_for.as_secs()));
        for (device, sign) in (0..).zip(process.signs) {
            if let Some(sign) = sign {
                ground.drop_link(device, sign.link);
            }
        }
        self.life += 1;
        self.plan(ground, down_for, Look::Boot);
    }

    fn plan(&self, ground: &mut Ground, wait: Duration, what: Look) {
        let life = self.life;
        ground.put(wait, Happening::Controller { life, what });
    }

    pub(crate) fn act_on(&mut self, ground: &mut Ground, life: u32, what: Look) {
        if life != self.life {
            return;
        }
        match what {
            Look::Boot => self.boot(ground),
            Look::News => {
                let wait = ground.setting.look;
                self.plan(ground, wait, Look::News);
                self.end_silent_sessions(ground);
                self.step(ground);
                self.tell_all(ground);
                self.tell_trainer(ground);
            }
        }
    }

    /// Whether the process dies where it has just committed something, or was about to.
    fn dies(&mut self, ground: &mut Ground) -> bool {
        if !ground.dies_here() {
            return false;
        }
        let down_for = ground.dice.seconds(1..=60);
        self.crash(ground, down_for);
        true
    }

    pub(crate) fn hear(&mut self, ground: &mut Ground, device: u32, id: DeviceId, link: u64, message: Up) {
        if self.process.is_none() {
            return ground.drop_link(device, link);
        }
        match message {
            Up::Hello {
                profile,
                observed,
                ready,
            } => self.welcome(ground, (device, id), link, &profile, (observed, ready)),
            Up::Heartbeat(ready) => drop(self.heard(ground, device, link, Some(ready))),
            Up::Observed(observation) => {
                if self.heard(ground, device, link, None) {
                    self.note(device, observation);
                }
            }
            Up::Declined { round, reason } => {
                if self.heard(ground, device, link, None) {
                    self.take_reply(id, &round, reason);
                }
            }
        }
    }

    /// Where a device stands in the rollout that is kept.
    pub(crate) fn slot(&self, device: u32) -> Option<(Slot, &Enrolled)> {
        let enrolled = self.store.devices[device as usize].as_ref()?;
        let state = self.store.rollout.as_ref()?;
        Some((state.slot_of(enrolled.id, enrolled.joined_at), enrolled))
    }
}
