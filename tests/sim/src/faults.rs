//! What goes wrong, and what the operator does.

use std::time::Duration;

use fieldfare_fleet::rollout::Event;

use crate::ground::Happening;
use crate::life::Life;
use crate::message::Fault;

impl Life {
    pub(crate) fn go_wrong(&mut self, fault: Fault) {
        let troubles = self.ground.setting.troubles;
        match fault {
            Fault::DeviceCrashes => {
                let down_for = self.ground.dice.seconds(1..=60);
                self.strike(down_for);
                self.again(fault, troubles.device_crash);
            }
            Fault::PowerFails => {
                let down_for = self.ground.dice.seconds(300..=3600);
                self.strike(down_for);
                self.again(fault, troubles.power_off);
            }
            Fault::NetworkParts => {
                self.part();
                self.again(fault, troubles.cut);
            }
            Fault::ControllerCrashes => {
                let down_for = self.ground.dice.seconds(1..=180);
                self.controller.crash(&mut self.ground, down_for);
                self.again(fault, troubles.controller_crash);
            }
            Fault::TrainerCrashes => {
                let down_for = self.ground.dice.seconds(1..=120);
                let trainer = self.ground.dice.index(self.trainers.len());
                self.trainers[trainer].crash(&mut self.ground, down_for);
                self.again(fault, troubles.trainer_crash);
            }
            Fault::OwnerChanges => {
                self.change_mind();
                self.again(fault, troubles.owner);
            }
            Fault::ServerLies => {
                let device = self.someone();
                self.hostile.invite(&mut self.ground, &self.devices[device]);
                self.again(fault, troubles.server_lies);
            }
            Fault::StartJob => self.start_job(),
            Fault::BytesChange => {
                self.damage();
                self.again(fault, troubles.damage);
            }
            Fault::Whim => {
                self.whim();
                self.again(fault, troubles.whim);
            }
            Fault::Deploy => self.deploy(),
            Fault::Quiet => self.fall_quiet(),
            Fault::LastOrder => self.give_last_order(),
        }
    }

    fn someone(&mut self) -> usize {
        self.ground.dice.index(self.devices.len())
    }

    /// A device dies, and comes back.
    fn strike(&mut self, down_for: Duration) {
        let left = self.ground.setting.quiet_at.since(self.ground.now);
        let device = self.someone();
        self.devices[device].crash(&mut self.ground, down_for.min(left));
    }

    /// Some devices are cut off for a while.
    fn part(&mut self) {
        let share = self.ground.dice.one_of(&[0.02, 0.2, 0.9]);
        let lasts = self.ground.dice.seconds(5..=1200);
        let until = self.ground.now.saturating_add(lasts).min(self.ground.setting.quiet_at);
        self.ground
            .say(|| format!("{share} of the devices are cut off for {} s", lasts.as_secs()));
        for device in 0..self.ground.setting.devices {
            if self.ground.dice.chance(share) {
                self.ground.cut(device, until);
            }
        }
    }

    /// Installed bytes change on a disk.
    fn damage(&mut self) {
        let device = self.someone();
        let device = &mut self.devices[device];
        let Some(active) = &device.disk.kept.install.active else {
            return;
        };
        if device.disk.shelf.damage(active) {
            self.ground
                .say(|| format!("bytes of {active:?} change on device {}", device.number));
            self.ground.checks.damages(device.number);
        }
    }

    /// An owner takes examples back, or consent, or gives it again.
    fn change_mind(&mut self) {
        let device = self.someone();
        let number = self.devices[device].number;
        let private = &mut self.devices[device].disk.private;
        if self.ground.dice.chance(0.5) {
            private.removals += 1;
            self.ground.checks.takes_back(number);
        } else {
            private.consent = !private.consent;
        }
    }

    fn start_job(&mut self) {
        if self.ground.is_quiet() {
            return;
        }
        let (setting, number) = (self.ground.setting.clone(), self.ground.dice.number());
        if self
            .controller
            .start_job(&mut self.ground, |base| setting.job(number, base))
        {
            self.outcome.jobs += 1;
        }
        let wait = self.ground.dice.seconds(15..=120);
        self.ground.put(wait, Happening::Fault(Fault::StartJob));
    }

    /// The operator does what nobody expects.
    fn whim(&mut self) {
        let by = "ada".to_owned();
        let order = match self.ground.dice.below(10) {
            0 => Event::Abort { by },
            1 => Event::RollBack { by },
            2..=5 => Event::Promote { by },
            6 | 7 => Event::Pause { by },
            _ => Event::Resume { by },
        };
        self.order(order);
    }

    /// The operator rolls the next release out as soon as the last one is through.
    fn deploy(&mut self) {
        let quiet = self.ground.is_quiet();
        let releases = &self.ground.setting.releases;
        if quiet && self.next_release > 0 || self.next_release >= releases.len() {
            return;
        }
        // Now and then the one before is tried again.
        let again = self.next_release > 0 && self.ground.dice.chance(0.2);
        let release = releases[if again {
            self.next_release - 1
        } else {
            self.next_release
        }]
        .id
        .clone();
        let over = self
            .controller
            .store
            .rollout
            .as_ref()
            .is_none_or(|state| state.phase.is_over());
        let runs_it = self.controller.store.rollout.as_ref().is_some_and(|state| {
            let completed = matches!(state.phase, fieldfare_fleet::rollout::Phase::Completed { .. });
            completed && state.release == release
        });
        if over && !runs_it {
            let ended = self.controller.store.rollout.clone();
            if self.controller.deploy(&mut self.ground, release) {
                self.outcome.count(ended.as_ref());
                self.outcome.rollouts += 1;
                self.next_release += usize::from(!again);
            }
        }
        let wait = self.ground.dice.seconds(30..=600);
        self.ground.put(wait, Happening::Fault(Fault::Deploy));
    }

    /// Nothing goes wrong any more. Who paused lets go on.
    fn fall_quiet(&mut self) {
        self.ground.say(|| "from now on nothing goes wrong".to_owned());
        self.order(Event::Resume { by: "ada".to_owned() });
    }

    /// What still waits for evidence that does not come is sent back.
    fn give_last_order(&mut self) {
        let status = self.controller.status(self.ground.now);
        self.ground.say(|| format!("before the last order: {status:?}"));
        self.order(Event::RollBack { by: "ada".to_owned() });
        let over = self
            .controller
            .store
            .rollout
            .as_ref()
            .is_some_and(|state| state.phase.is_over());
        if !over {
            self.ground
                .put(Duration::from_secs(60), Happening::Fault(Fault::LastOrder));
        }
    }
}
