//! A trainer: its disk, which survives, and its process, which does not.

mod admission;
mod drive;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use fieldfare_fleet::round::{Action, JobState};
use fieldfare_fleet::{DeviceId, Digest, RoundId, Timestamp};

use crate::ground::{Ground, Happening};
use crate::message::Work;
use crate::round::{Ask, Checkpoint, Configuration, JobMade, Told};
use admission::Offer;

/// How often a claim is renewed, and how often a question is repeated.
const RENEW: Duration = Duration::from_secs(5);
const REPEAT: Duration = Duration::from_secs(3);

/// What survives a crash.
#[derive(Debug, Default)]
struct Disk {
    configurations: BTreeMap<RoundId, Rc<Configuration>>,
    /// There before they are acknowledged, and never replaced.
    contributions: BTreeMap<RoundId, BTreeMap<DeviceId, Rc<Vec<u8>>>>,
}

/// An open attempt at a round.
#[derive(Debug)]
struct Attempted {
    configuration: Rc<Configuration>,
    digest: Digest,
    accepted: BTreeMap<DeviceId, Digest>,
    sum: Vec<i64>,
}

/// What follows once the controller has answered.
#[derive(Clone, Debug)]
enum Then {
    /// The attempt is opened.
    Open(RoundId),
    /// The round counts.
    Committed(Checkpoint),
    /// The work is over.
    Finished,
    /// The next action.
    GoOn,
}

/// The work that is claimed.
#[derive(Debug)]
struct Job {
    token: u64,
    made: Rc<JobMade>,
    checkpoint: Checkpoint,
    machine: JobState,
    actions: VecDeque<Action>,
    attempted: Option<Attempted>,
    /// What devices ask while something else is under way waits here.
    offers: VecDeque<Offer>,
    then: Then,
    /// The number of the computation that is under way.
    computing: u64,
    /// Until when the claim certainly lives.
    claimed_until: Timestamp,
}

#[derive(Debug, Default)]
struct Process {
    next: u64,
    /// The question that is not answered yet.
    asked: Option<(u64, Rc<Ask>)>,
    renewing: u64,
    renewal_sent: Timestamp,
    job: Option<Job>,
}

#[derive(Debug)]
pub(crate) struct Trainer {
    number: usize,
    disk: Disk,
    life: u32,
    process: Option<Process>,
}

impl Trainer {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            number,
            disk: Disk::default(),
            life: 0,
            process: None,
        }
    }

    pub(crate) fn boot(&mut self, ground: &mut Ground) {
        if self.process.is_none() {
            ground.say(|| format!("trainer {} starts", self.number));
            self.process = Some(Process::default());
            self.plan(ground, Duration::ZERO, Work::Claim);
            self.plan(ground, RENEW, Work::Renew);
        }
    }

    /// The process dies. What is on its disk stays.
    pub(crate) fn crash(&mut self, ground: &mut Ground, down_for: Duration) {
        if self.process.take().is_some() {
            ground.say(|| format!("trainer {} dies for {} s", self.number, down_for.as_secs()));
            self.life += 1;
            self.plan(ground, down_for, Work::Boot);
        }
    }

    fn dies(&mut self, ground: &mut Ground) -> bool {
        if !ground.dies_here() {
            return false;
        }
        let down_for = ground.dice.seconds(1..=60);
        self.crash(ground, down_for);
        true
    }

    fn plan(&self, ground: &mut Ground, wait: Duration, what: Work) {
        let (trainer, life) = (self.number, self.life);
        ground.put(wait, Happening::Trainer { trainer, life, what });
    }

    fn job(&mut self) -> Option<&mut Job> {
        self.process.as_mut()?.job.as_mut()
    }

    pub(crate) fn act_on(&mut self, ground: &mut Ground, life: u32, what: Work) {
        if life != self.life {
            return;
        }
        match what {
            Work::Boot => self.boot(ground),
            Work::Claim => self.claim(ground),
            Work::Renew => self.renew(ground),
            Work::Repeat { number } => self.repeat(ground, number),
            Work::Tick => self.drive(ground),
            Work::Reopen { number } => self.reopen(ground, number),
            Work::Computed { number } => self.computed(ground, number),
        }
    }

    fn claim(&mut self, ground: &mut Ground) {
        let Some(process) = &self.process else { return };
        if process.job.is_none() && process.asked.is_none() {
            self.ask(ground, Ask::Claim);
        }
    }

    /// A claim that could not be renewed in time is lost, whatever the controller will say.
    fn renew(&mut self, ground: &mut Ground) {
        self.plan(ground, RENEW, Work::Renew);
        let (number, now) = (self.number, ground.now);
        let Some(process) = &mut self.process else { return };
        let Some(job) = &process.job else { return };
        let token = job.token;
        if now >= job.claimed_until {
            ground.say(|| format!("trainer {number} lost its claim"));
            return self.lose_work(ground);
        }
        process.next += 1;
        (process.renewing, process.renewal_sent) = (process.next, now);
        ground.ask(number, process.next, &Rc::new(Ask::Renew { token }));
    }

    fn lose_work(&mut self, ground: &mut Ground) {
        if let Some(process) = &mut self.process {
            (process.job, process.asked) = (None, None);
        }
        self.plan(ground, REPEAT, Work::Claim);
    }

    fn ask(&mut self, ground: &mut Ground, ask: Ask) {
        let Some(process) = &mut self.process else { return };
        process.next += 1;
        let (number, ask) = (process.next, Rc::new(ask));
        process.asked = Some((number, Rc::clone(&ask)));
        ground.ask(self.number, number, &ask);
        self.plan(ground, REPEAT, Work::Repeat { number });
    }

    fn repeat(&mut self, ground: &mut Ground, number: u64) {
        let asked = self.process.as_ref().and_then(|process| process.asked.as_ref());
        if let Some((_, ask)) = asked.filter(|(waiting, _)| *waiting == number) {
            ground.ask(self.number, number, ask);
            self.plan(ground, REPEAT, Work::Repeat { number });
        }
    }

    /// The controller answers, or tells something.
    pub(crate) fn hear(&mut self, ground: &mut Ground, number: u64, told: Told) {
        let Some(process) = &mut self.process else { return };
        if let Told::Dropped { round, device, reason } = told {
            return self.hear_of_drop(ground, round, device, reason);
        }
        if process.renewing == number {
            let sent = process.renewal_sent;
            match (told, &mut process.job) {
                (Told::Stale, _) => self.lose_work(ground),
                (_, Some(job)) => job.claimed_until = sent.saturating_add(crate::controller::CLAIM_LEASE),
                (_, None) => {}
            }
            return;
        }
        if process.asked.as_ref().is_none_or(|(waiting, _)| *waiting != number) {
            return;
        }
        process.asked = None;
        match told {
            Told::Stale => self.lose_work(ground),
            Told::Refused(why) => {
                ground.say(|| format!("trainer {} gives its work up: {why}", self.number));
                self.lose_work(ground);
            }
            Told::Claimed(None) => self.plan(ground, REPEAT, Work::Claim),
            Told::Claimed(Some((token, made, checkpoint))) => self.begin(ground, token, made, checkpoint),
            Told::Opened(cohort) => self.opened(ground, cohort),
            Told::Done => self.go_on(ground),
            Told::Dropped { .. } => {}
        }
    }
}
