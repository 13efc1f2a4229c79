//! An agent: its disk, which survives, and its process, which does not.

mod install;
mod lies;
mod rounds;
mod session;
mod shelf;

use std::rc::Rc;
use std::time::Duration;

use fieldfare_fleet::install::{Action, Event, InstallState, Installed, is_overtaken};
use fieldfare_fleet::rollout::{Evidence, Observation};
use fieldfare_fleet::{Backoff, CapabilityProfile, DeviceId, Generation, Obstacle, ReleaseId, VariantName};

use crate::ground::{Ground, Happening};
use crate::message::{Desired, Doing, Down, Readiness};
use crate::setting::Setting;

/// The waits of a device that lost its controller: those of the agent.
const RECONNECTING: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(120));

pub(crate) use rounds::Private;
use rounds::Rounds;
pub(crate) use shelf::{Bytes, Shelf};

/// What the agent keeps of its installation, in one file that is replaced whole.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) install: InstallState,
    deployed: bool,
    target: Option<ReleaseId>,
    evidence: Evidence,
}

/// What survives a crash.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) kept: Kept,
    pub(crate) shelf: Shelf,
    pub(crate) private: Private,
}

/// An assignment that is being looked up.
#[derive(Clone, Debug)]
struct Unresolved {
    generation: Generation,
    release: ReleaseId,
    variant: VariantName,
    obstacle: Option<Obstacle>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Session {
    Down,
    Opening(u64),
    Open(u64),
}

/// What a crash takes away.
#[derive(Debug)]
struct Process {
    session: Session,
    backoff: Backoff,
    desired: Option<Rc<Desired>>,
    unresolved: Option<Unresolved>,
    /// Numbers for what is under way: a step, a look-up, a start. An older number is that of something that was given up.
    next: u64,
    step: u64,
    look_up: u64,
    start: u64,
    restarts: u32,
    candidate: Option<(Rc<Installed>, Evidence)>,
    serving: Option<(Rc<Installed>, u64)>,
    told: Option<Rc<Observation>>,
    rounds: Rounds,
}

impl Process {
    const fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// A device of the fleet.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) number: u32,
    pub(crate) id: DeviceId,
    pub(crate) profile: Rc<CapabilityProfile>,
    /// Whether it lies, until the quiet.
    pub(crate) liar: bool,
    pub(crate) disk: Disk,
    life: u32,
    process: Option<Process>,
    /// Whether anything changed on its disk, or in what serves, since somebody looked.
    touched: bool,
}

impl Device {
    pub(crate) fn new(
        number: u32,
        id: DeviceId,
        profile: CapabilityProfile,
        liar: bool,
        private: Private,
        setting: &Setting,
    ) -> Self {
        Self {
            number,
            id,
            profile: Rc::new(profile),
            liar,
            disk: Disk {
                kept: Kept {
                    install: InstallState::empty(setting.install.clone()),
                    deployed: false,
                    target: None,
                    evidence: Evidence::default(),
                },
                shelf: Shelf::default(),
                private,
            },
            life: 0,
            process: None,
            touched: false,
        }
    }

    /// What follows a step: a report of what is new, and a look of whoever watches.
    fn settle(&mut self, ground: &mut Ground) {
        if std::mem::take(&mut self.touched) {
            self.report(ground);
            ground.checks.serves(self, ground.now);
        }
    }

    /// What serves now.
    pub(crate) fn serving(&self) -> Option<&Installed> {
        let (installed, _) = self.process.as_ref()?.serving.as_ref()?;
        Some(installed)
    }

    pub(crate) fn open_link(&self) -> Option<u64> {
        match self.process.as_ref()?.session {
            Session::Open(link) => Some(link),
            Session::Down | Session::Opening(_) => None,
        }
    }

    fn ready(&self) -> Readiness {
        Readiness {
            consent: self.disk.private.consent,
            busy: self.process.as_ref().is_some_and(|process| process.rounds.is_busy()),
        }
    }

    fn lies(&self, ground: &Ground) -> bool {
        self.liar && !ground.is_quiet()
    }

    /// Means to do something after a while, if this process lives then.
    fn plan(&self, ground: &mut Ground, wait: Duration, what: Doing) {
        let (device, life) = (self.number, self.life);
        ground.put(wait, Happening::Device { device, life, what });
    }

    /// The process dies. What was kept stays.
    pub(crate) fn crash(&mut self, ground: &mut Ground, down_for: Duration) {
        if self.process.take().is_none() {
            return;
        }
        ground.say(|| format!("device {} dies for {} s", self.number, down_for.as_secs()));
        self.life += 1;
        ground.hang_up(self.number);
        ground.checks.serves(self, ground.now);
        self.plan(ground, down_for, Doing::Boot);
    }

    /// Does what it meant to do.
    pub(crate) fn act_on(&mut self, ground: &mut Ground, life: u32, what: Doing) {
        if life != self.life {
            return;
        }
        match what {
            Doing::Boot => self.boot(ground),
            Doing::Connect => self.connect(ground),
            Doing::WelcomeDue { link } => self.miss_welcome(ground, link),
            Doing::Beat { link } => self.beat(ground, link),
            Doing::Resolved { number } => self.hear_of_release(ground, number),
            Doing::LookUp { number } => {
                if self.process.as_ref().is_some_and(|process| process.look_up == number) {
                    self.hear_desired(ground);
                }
            }
            Doing::StepEnds { number, stage, install } => self.end_step(ground, number, stage, install),
            Doing::Tick => {
                if self
                    .disk
                    .kept
                    .install
                    .next_deadline()
                    .is_some_and(|due| due <= ground.now)
                {
                    self.tell(ground, Event::Tick);
                }
            }
            Doing::Started { number, install } => self.hear_of_start(ground, number, install),
            Doing::ServingDies { number } => self.hear_of_end(ground, number),
            Doing::Trained { number } => self.trained(ground, number),
            Doing::KnockAgain { number } => self.knock_again(ground, number),
            Doing::RoundOver { round } => self.round_over(ground, &round),
        }
        self.settle(ground);
    }

    fn boot(&mut self, ground: &mut Ground) {
        if self.process.is_some() {
            return;
        }
        ground.say(|| format!("device {} starts", self.number));
        self.process = Some(Process {
            session: Session::Down,
            backoff: RECONNECTING,
            desired: None,
            unresolved: None,
            next: 0,
            step: 0,
            look_up: 0,
            start: 0,
            restarts: 0,
            candidate: None,
            serving: None,
            told: None,
            rounds: Rounds::default(),
        });
        ground.checks.boots(self);
        self.tell(ground, Event::Started);
        let wait = ground.dice.millis(0..=2000);
        self.plan(ground, wait, Doing::Connect);
    }

    /// A message of the controller.
    pub(crate) fn hear(&mut self, ground: &mut Ground, link: u64, message: Down) {
        // What came on an earlier connection is read by nobody.
        if self.process.is_none() || !ground.is_current(self.number, link) {
            return;
        }
        match message {
            Down::Welcome { fence } => self.welcome(ground, link, fence),
            Down::Desired(desired) => {
                ground.checks.hears(self.number, &desired);
                let Some(process) = &mut self.process else { return };
                let newest = process.desired.as_ref().map(|known| known.generation);
                if !is_overtaken(desired.generation, newest) {
                    process.desired = Some(desired);
                    self.hear_desired(ground);
                }
            }
            Down::Invitation(ticket) => self.invited(ground, ticket),
            Down::Refused => self.lose_session(ground, link),
        }
        self.settle(ground);
    }

    /// Decides, keeps the decision, and does what it says; dies anywhere in between where that is this life's lot.
    fn tell(&mut self, ground: &mut Ground, event: Event) {
        self.tell_with(ground, event, |_| {});
    }

    fn tell_with(&mut self, ground: &mut Ground, event: Event, note: impl FnOnce(&mut Kept)) {
        if self.process.is_none() {
            return;
        }
        self.touched = true;
        let dies = ground.dies_here();
        let unkept = (dies && ground.dice.chance(0.3)).then(|| self.disk.kept.clone());
        note(&mut self.disk.kept);
        let mut actions = Vec::new();
        ground.say(|| format!("device {} is told {event:?}", self.number));
        if let Err(refused) = self.disk.kept.install.handle(ground.now, event, &mut actions) {
            ground.say(|| format!("device {} refuses: {refused}", self.number));
            return;
        }
        if let Some(unkept) = unkept {
            self.disk.kept = unkept;
        }
        let done = if dies {
            ground.dice.index(actions.len() + 1)
        } else {
            actions.len()
        };
        if self.disk.kept.install.next_deadline().is_some() {
            self.plan_tick(ground);
        }
        if dies && done == 0 {
            let down_for = ground.dice.seconds(1..=20);
            return self.crash(ground, down_for);
        }
        for action in actions.into_iter().take(done) {
            self.act(ground, action);
        }
        if dies {
            let down_for = ground.dice.seconds(1..=20);
            self.crash(ground, down_for);
        }
    }

    fn plan_tick(&self, ground: &mut Ground) {
        let Some(at) = self.disk.kept.install.next_deadline() else {
            return;
        };
        let (device, life) = (self.number, self.life);
        let what = Doing::Tick;
        ground.put_at(at, Happening::Device { device, life, what });
    }

    fn act(&mut self, ground: &mut Ground, action: Action) {
        ground.say(|| format!("device {} does {action:?}", self.number));
        match action {
            Action::Run { stage, install } => self.begin_step(ground, stage, Rc::new(install)),
            Action::Serve(installed) => self.start(ground, Rc::new(installed)),
            Action::StopServing => {
                if let Some(process) = &mut self.process {
                    process.serving = None;
                }
            }
            Action::Discard(_) => self.keep_only(),
            Action::Report => {}
        }
    }
}
