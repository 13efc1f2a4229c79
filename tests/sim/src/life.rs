//! One life of a fleet, from its seed to its end.

use std::time::Duration;

use fieldfare_fleet::Timestamp;
use fieldfare_fleet::rollout::{Event, Phase, RolloutState};

use crate::checks::Broken;
use crate::controller::Controller;
use crate::device::Device;
use crate::dice::Dice;
use crate::ground::{Ground, Happening};
use crate::hostile::Hostile;
use crate::message::{Doing, Fault};
use crate::round::Told;
use crate::setting::{BEGINNING, Setting, device_id, number_of, private, profile};
use crate::trainer::Trainer;

/// Most steps of one life: far more than any takes, so that a life that cannot end is found.
const MAX_STEPS: u64 = 200_000_000;

/// Trainers of a fleet: one takes over where the other dies.
const TRAINERS: usize = 2;

/// How a life went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The first promise that was broken; the life ends there.
    pub broken: Option<Broken>,
    /// Things that happened.
    pub steps: u64,
    /// Rollouts that were begun.
    pub rollouts: u32,
    /// Of these, complete.
    pub completed: u32,
    /// Of these, gone back.
    pub rolled_back: u32,
    /// Federated jobs that were started.
    pub jobs: u32,
    /// Contributions that were paid for.
    pub paid: u32,
    /// Rounds that were committed.
    pub committed: u32,
    /// A line for each thing that happened, where they were asked for.
    pub trace: Vec<String>,
}

impl std::ops::AddAssign<&Self> for Outcome {
    /// Adds what happened; promises and traces stay apart.
    fn add_assign(&mut self, other: &Self) {
        self.steps += other.steps;
        self.rollouts += other.rollouts;
        self.completed += other.completed;
        self.rolled_back += other.rolled_back;
        self.jobs += other.jobs;
        self.paid += other.paid;
        self.committed += other.committed;
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rollouts, completed, rolled_back) = (self.rollouts, self.completed, self.rolled_back);
        write!(
            f,
            "{} steps; {rollouts} rollouts, {completed} complete, {rolled_back} gone back; ",
            self.steps
        )?;
        write!(
            f,
            "{} jobs, {} rounds committed, {} contributions paid for",
            self.jobs, self.committed, self.paid
        )
    }
}

impl Outcome {
    /// Counts how a rollout ended.
    pub(crate) fn count(&mut self, ended: Option<&RolloutState>) {
        match ended.map(|state| &state.phase) {
            Some(Phase::Completed { .. }) => self.completed += 1,
            Some(Phase::RolledBack { .. }) => self.rolled_back += 1,
            _ => {}
        }
    }
}

pub(crate) struct Life {
    pub(crate) ground: Ground,
    pub(crate) controller: Controller,
    pub(crate) devices: Vec<Device>,
    pub(crate) trainers: Vec<Trainer>,
    pub(crate) hostile: Hostile,
    /// The next release to roll out.
    pub(crate) next_release: usize,
    pub(crate) outcome: Outcome,
}

/// Lives the life of this seed with so many devices: the same seed is always the same life.
#[must_use]
pub fn live(seed: u64, devices: u32, trace: bool) -> Outcome {
    let mut life = Life::new(seed, devices, trace);
    life.run();
    life.outcome.broken = life.ground.checks.broken().cloned();
    life.outcome.paid = life.ground.checks.rounds_paid();
    life.outcome.committed = life.ground.checks.rounds_committed();
    life.outcome.trace = life.ground.trace();
    life.outcome
}

impl Life {
    fn new(seed: u64, devices: u32, trace: bool) -> Self {
        let mut dice = Dice::new(crate::dice::mixed(seed.wrapping_add(u64::from(devices) << 40)));
        let setting = Setting::draw(devices, &mut dice);
        let mut ground = Ground::new(setting, dice, trace);
        ground.say(|| format!("seed {seed}"));
        let troubles = ground.setting.troubles;
        ground.say(|| format!("{troubles:?}"));
        let fleet = (0..devices).map(|number| {
            let profile = profile(&mut ground.dice);
            let liar = ground.dice.chance(troubles.liars);
            let private = private(&mut ground.dice);
            Device::new(number, device_id(number, seed), profile, liar, private, &ground.setting)
        });
        let devices: Vec<Device> = fleet.collect();
        let controller = Controller::new(ground.setting.devices);
        let mut life = Self {
            ground,
            controller,
            devices,
            trainers: (0..TRAINERS).map(Trainer::new).collect(),
            hostile: Hostile::default(),
            next_release: 0,
            outcome: Outcome::default(),
        };
        life.begin();
        life
    }

    fn begin(&mut self) {
        self.controller.boot(&mut self.ground);
        self.trainers
            .iter_mut()
            .for_each(|trainer| trainer.boot(&mut self.ground));
        let life_ms = u64::try_from(self.ground.setting.quiet_at.since(BEGINNING).as_millis()).unwrap_or(u64::MAX);
        for device in 0..self.ground.setting.devices {
            // Most devices are there from the beginning; the others enrol some time.
            let soon = self.ground.dice.chance(0.85);
            let wait = self.ground.dice.millis(0..=if soon { 20_000 } else { life_ms });
            let (life, what) = (0, Doing::Boot);
            self.ground.put(wait, Happening::Device { device, life, what });
        }
        let troubles = self.ground.setting.troubles;
        let faults = [
            (Fault::DeviceCrashes, troubles.device_crash),
            (Fault::PowerFails, troubles.power_off),
            (Fault::NetworkParts, troubles.cut),
            (Fault::ControllerCrashes, troubles.controller_crash),
            (Fault::BytesChange, troubles.damage),
            (Fault::TrainerCrashes, troubles.trainer_crash),
            (Fault::OwnerChanges, troubles.owner),
            (Fault::ServerLies, troubles.server_lies),
            (Fault::Whim, troubles.whim),
        ];
        for (fault, mean) in faults {
            self.again(fault, mean);
        }
        self.ground
            .put(Duration::from_secs(30), Happening::Fault(Fault::Deploy));
        self.ground
            .put(Duration::from_secs(120), Happening::Fault(Fault::StartJob));
        let (quiet_at, last) = (self.ground.setting.quiet_at, self.ground.setting.last_order_at());
        self.ground.put_at(quiet_at, Happening::Fault(Fault::Quiet));
        self.ground.put_at(last, Happening::Fault(Fault::LastOrder));
    }

    fn run(&mut self) {
        let mut looked_at = BEGINNING;
        while let Some(what) = self.ground.take() {
            self.outcome.steps += 1;
            self.happen(what);
            let now = self.ground.now;
            if self.ground.checks.broken().is_some() {
                return;
            }
            if self.ground.is_quiet() && now.since(looked_at) >= Duration::from_secs(10) {
                looked_at = now;
                let unsettled = self.unsettled();
                let Some(unsettled) = unsettled else {
                    return self.outcome.count(self.controller.store.rollout.as_ref());
                };
                if now >= self.ground.setting.settled_by {
                    let promise = "after faults stop, everything converges in bounded time";
                    return self.ground.checks.fail(promise, unsettled, now);
                }
            }
            if self.outcome.steps >= MAX_STEPS {
                return self
                    .ground
                    .checks
                    .fail("a life ends", format!("{MAX_STEPS} steps"), now);
            }
        }
    }

    fn happen(&mut self, what: Happening) {
        let ground = &mut self.ground;
        match what {
            Happening::Up { device, link, message } => {
                let id = self.devices[device as usize].id;
                self.controller.hear(ground, device, id, link, message);
            }
            Happening::Down { device, link, message } => self.devices[device as usize].hear(ground, link, message),
            Happening::DeviceHungUp { device, link } => self.devices[device as usize].lose_session(ground, link),
            Happening::ControllerHungUp { device, link } => self.controller.lose_session(device, link),
            Happening::Device { device, life, what } => self.devices[device as usize].act_on(ground, life, what),
            Happening::Controller { life, what } => self.controller.act_on(ground, life, what),
            Happening::Asked { trainer, number, ask } => self.controller.asked(ground, trainer, number, &ask),
            Happening::Told { trainer, number, told } => {
                self.trainers[trainer].hear(ground, number, Told::clone(&told));
            }
            Happening::Trainer { trainer, life, what } => self.trainers[trainer].act_on(ground, life, what),
            Happening::Knock {
                device,
                number,
                ticket,
                what,
            } => match self.trainers.get_mut(ticket.trainer) {
                Some(trainer) => trainer.knock(ground, self.devices[device as usize].id, number, &ticket, &what),
                None => self.hostile.knock(ground, device, number, &ticket, &what),
            },
            Happening::Answered {
                device,
                number,
                answered,
            } => self.devices[device as usize].answered(ground, number, &answered),
            Happening::Fault(fault) => self.go_wrong(fault),
        }
    }

    /// What is not as it shall be, if anything.
    fn unsettled(&self) -> Option<String> {
        let Some(state) = &self.controller.store.rollout else {
            return Some("nothing was rolled out".to_owned());
        };
        if !self.controller.is_up() {
            return Some("the controller is down".to_owned());
        }
        if !state.phase.is_over() || self.next_release == 0 {
            return Some(format!("the rollout of {} is {:?}", state.release, state.phase));
        }
        if let Some(job) = self.controller.store.job.as_ref().filter(|job| !job.over) {
            return Some(format!("{} is not over", job.made.name));
        }
        self.devices.iter().find_map(|device| self.unsettled_device(device))
    }

    fn unsettled_device(&self, device: &Device) -> Option<String> {
        // What a liar says may stand against it for as long as the controller remembers.
        if device.liar {
            return None;
        }
        let install = &device.disk.kept.install;
        let state = || {
            format!(
                "device {}, {install:?}, serves {:?}",
                number_of(device.id),
                device.serving()
            )
        };
        let Some((slot, enrolled)) = self.controller.slot(device.number) else {
            return Some(format!("not enrolled: {}", state()));
        };
        let rollout = self.controller.store.rollout.as_ref()?;
        let target = rollout.target_for(slot);
        let Some(release) = target.release else {
            let nothing = device.serving().is_none() && install.active.is_none();
            return (!nothing).then(|| format!("shall run nothing: {}", state()));
        };
        let assigned = self
            .controller
            .store
            .assignments
            .get(&(release.clone(), enrolled.class.clone()));
        let Some(Some(variant)) = assigned else { return None };
        let has = |installed: &fieldfare_fleet::install::Installed| {
            (&installed.release, &installed.variant) == (&release, variant)
        };
        if install.assignment == target.assignment && install.candidate.is_none() && install.obstacle.is_some() {
            return None;
        }
        let settled = install.active.as_ref().is_some_and(has)
            && install.candidate.is_none()
            && install.switched_at.is_none()
            && install.assignment == target.assignment;
        // A release that keeps crashing after it was confirmed serves now and then.
        (!settled).then(|| format!("shall run {release} {variant} by {}: {}", target.assignment, state()))
    }

    /// Does something again, some time, for as long as things go wrong.
    pub(crate) fn again(&mut self, fault: Fault, mean: Duration) {
        let wait = self.ground.dice.until_next(mean);
        let at: Timestamp = self.ground.now.saturating_add(wait);
        if at < self.ground.setting.quiet_at {
            self.ground.put_at(at, Happening::Fault(fault));
        }
    }

    pub(crate) fn order(&mut self, event: Event) {
        self.ground.say(|| format!("the operator orders {event:?}"));
        self.controller.command(&mut self.ground, event);
    }
}
