//! What all processes of a life stand on: the clock, the queue, the network, chance, and whoever watches.

use std::rc::Rc;
use std::time::Duration;

use fieldfare_fleet::Timestamp;

use crate::checks::Checks;
use crate::dice::Dice;
use crate::message::{Doing, Down, Fault, Look, Up, Work};
use crate::queue::Queue;
use crate::round::{Answered, Ask, Knock, Ticket, Told};
use crate::setting::{BEGINNING, Setting};

/// Something that happens in a life.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A message of a device reaches the controller.
    Up { device: u32, link: u64, message: Up },
    /// A message of the controller reaches a device.
    Down { device: u32, link: u64, message: Down },
    /// A device notices that its connection is broken.
    DeviceHungUp { device: u32, link: u64 },
    /// The controller notices it.
    ControllerHungUp { device: u32, link: u64 },
    /// Something that a device does by itself; nothing when the process that meant to do it is gone.
    Device { device: u32, life: u32, what: Doing },
    /// Something that the controller does by itself.
    Controller { life: u32, what: Look },
    /// A trainer's question reaches the controller.
    Asked { trainer: usize, number: u64, ask: Rc<Ask> },
    /// The controller's word reaches a trainer.
    Told {
        trainer: usize,
        number: u64,
        told: Rc<Told>,
    },
    /// A device knocks at a trainer's door.
    Knock {
        device: u32,
        number: u64,
        ticket: Rc<Ticket>,
        what: Rc<Knock>,
    },
    /// A trainer's answer reaches a device.
    Answered {
        device: u32,
        number: u64,
        answered: Rc<Answered>,
    },
    /// Something that a trainer does by itself.
    Trainer { trainer: usize, life: u32, what: Work },
    /// Something goes wrong, or right again.
    Fault(Fault),
}

/// The newest connection of a device.
#[derive(Clone, Debug)]
struct Link {
    number: u64,
    whole: bool,
    /// When the last message up arrives, and the last one down.
    last: [Timestamp; 2],
    /// The device reaches nobody until then.
    cut_until: Timestamp,
}

/// How long a connection may be broken before a keep-alive notices it.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long a repeated call may be on its way.
const STALL_MAX: Duration = Duration::from_secs(120);

/// The two ways of a connection.
const UP: usize = 0;
const DOWN: usize = 1;

#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) now: Timestamp,
    pub(crate) dice: Dice,
    pub(crate) setting: Setting,
    pub(crate) checks: Checks,
    queue: Queue<Happening>,
    links: Vec<Link>,
    next_link: u64,
    trace: Option<Vec<String>>,
}

impl Ground {
    pub(crate) fn new(setting: Setting, dice: Dice, trace: bool) -> Self {
        let link = Link {
            number: 0,
            whole: false,
            last: [BEGINNING; 2],
            cut_until: BEGINNING,
        };
        Self {
            now: BEGINNING,
            dice,
            checks: Checks::new(&setting),
            links: vec![link; setting.devices as usize],
            setting,
            queue: Queue::new(),
            next_link: 1,
            trace: trace.then(Vec::new),
        }
    }

    /// Whether nothing goes wrong any more.
    pub(crate) fn is_quiet(&self) -> bool {
        self.now >= self.setting.quiet_at
    }

    pub(crate) fn take(&mut self) -> Option<Happening> {
        let (at, what) = self.queue.take()?;
        self.now = self.now.max(at);
        Some(what)
    }

    pub(crate) fn put(&mut self, wait: Duration, what: Happening) {
        self.queue.put(self.now.saturating_add(wait), what);
    }

    pub(crate) fn put_at(&mut self, at: Timestamp, what: Happening) {
        self.queue.put(at.max(self.now), what);
    }

    /// Notes what happens, where somebody wants to read it.
    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>10.3} {}", self.now.since(BEGINNING).as_secs_f64(), line()));
        }
    }

    pub(crate) fn trace(self) -> Vec<String> {
        self.trace.unwrap_or_default()
    }

    /// Whether the process that has just decided something dies here.
    pub(crate) fn dies_here(&mut self) -> bool {
        !self.is_quiet() && self.dice.chance(self.setting.troubles.crash_at_step)
    }

    /// A new connection of a device to the controller; the one before it is given up.
    pub(crate) fn connect(&mut self, device: u32) -> u64 {
        self.hang_up(device);
        let number = self.next_link;
        self.next_link += 1;
        let (now, link) = (self.now, &mut self.links[device as usize]);
        (link.number, link.whole, link.last) = (number, true, [now; 2]);
        number
    }

    /// The device ends its connection, or dies; the controller hears of it, or notices it after a while.
    pub(crate) fn hang_up(&mut self, device: u32) {
        let link = &mut self.links[device as usize];
        if std::mem::replace(&mut link.whole, false) {
            let number = link.number;
            let wait = self.dice.millis(0..=30_000);
            self.put(wait, Happening::ControllerHungUp { device, link: number });
        }
    }

    /// The controller ends a connection, or dies.
    pub(crate) fn drop_link(&mut self, device: u32, number: u64) {
        let link = &mut self.links[device as usize];
        if link.number == number && std::mem::replace(&mut link.whole, false) {
            let wait = self.dice.millis(0..=5000);
            self.put(wait, Happening::DeviceHungUp { device, link: number });
        }
    }

    /// Cuts a device off from everybody.
    pub(crate) fn cut(&mut self, device: u32, until: Timestamp) {
        let link = &mut self.links[device as usize];
        link.cut_until = link.cut_until.max(until);
    }

    /// Whether a device reaches anybody.
    pub(crate) fn is_cut(&self, device: u32) -> bool {
        self.now < self.links[device as usize].cut_until
    }

    pub(crate) fn is_current(&self, device: u32, number: u64) -> bool {
        self.links[device as usize].number == number
    }

    /// When a message arrives: twice at most, or never.
    fn carry(&mut self, device: u32, number: u64, way: usize) -> [Option<Timestamp>; 2] {
        let (cut, troubles, quiet) = (self.is_cut(device), self.setting.troubles, self.is_quiet());
        let link = &self.links[device as usize];
        if link.number != number || !link.whole {
            return [None; 2];
        }
        if cut || (!quiet && self.dice.chance(troubles.loss)) {
            self.links[device as usize].whole = false;
            let waits = [0, 1].map(|_| self.dice.millis(0..=KEEP_ALIVE.as_millis() as u64));
            self.put(waits[0], Happening::DeviceHungUp { device, link: number });
            self.put(waits[1], Happening::ControllerHungUp { device, link: number });
            return [None; 2];
        }
        let at = self.now.saturating_add(self.dice.until_next(troubles.latency));
        let unordered = troubles.unordered && !quiet;
        let again = unordered && self.dice.chance(0.05);
        if unordered && way == UP {
            let later = troubles.latency * 4;
            return [Some(at), again.then(|| at.saturating_add(self.dice.until_next(later)))];
        }
        let last = &mut self.links[device as usize].last[way];
        *last = at.max(*last);
        [Some(*last), again.then_some(*last)]
    }

    /// Sends a message to the controller.
    pub(crate) fn up(&mut self, device: u32, link: u64, message: Up) {
        for at in self.carry(device, link, UP).into_iter().flatten() {
            let message = message.clone();
            self.queue.put(at, Happening::Up { device, link, message });
        }
    }

    /// Sends a message to a device.
    pub(crate) fn down(&mut self, device: u32, link: u64, message: Down) {
        for at in self.carry(device, link, DOWN).into_iter().flatten() {
            let message = message.clone();
            self.queue.put(at, Happening::Down { device, link, message });
        }
    }

    /// When one call arrives, and a repetition of it: each of them may be lost. A repetition may come long after its answer: it was
    /// sent on a connection that stalled.
    fn call(&mut self, cut: bool) -> [Option<Timestamp>; 2] {
        let (troubles, quiet) = (self.setting.troubles, self.is_quiet());
        let again = !quiet && troubles.unordered && self.dice.chance(0.05);
        [(true, Duration::ZERO), (again, STALL_MAX)].map(|(sent, stalls)| {
            let lost = cut || (!quiet && self.dice.chance(troubles.loss));
            let stalled = self.dice.millis(0..=stalls.as_millis() as u64);
            let wait = self.dice.until_next(troubles.latency).saturating_add(stalled);
            (sent && !lost).then(|| self.now.saturating_add(wait))
        })
    }

    /// Sends a trainer's question to the controller.
    pub(crate) fn ask(&mut self, trainer: usize, number: u64, ask: &Rc<Ask>) {
        for at in self.call(false).into_iter().flatten() {
            let ask = Rc::clone(ask);
            self.queue.put(at, Happening::Asked { trainer, number, ask });
        }
    }

    /// Sends the controller's word to a trainer.
    pub(crate) fn tell(&mut self, trainer: usize, number: u64, told: &Told) {
        // Who dropped out is told on a stream, which is taken up again when it breaks.
        let sent = if matches!(told, Told::Dropped { .. }) {
            let wait = self.dice.until_next(self.setting.troubles.latency);
            [Some(self.now.saturating_add(wait)), None]
        } else {
            self.call(false)
        };
        for at in sent.into_iter().flatten() {
            let told = Rc::new(told.clone());
            self.queue.put(at, Happening::Told { trainer, number, told });
        }
    }

    /// Sends a device's knock to the trainer of its ticket.
    pub(crate) fn knock(&mut self, device: u32, number: u64, ticket: &Rc<Ticket>, what: &Rc<Knock>) {
        for at in self.call(self.is_cut(device)).into_iter().flatten() {
            let (ticket, what) = (Rc::clone(ticket), Rc::clone(what));
            let knock = Happening::Knock {
                device,
                number,
                ticket,
                what,
            };
            self.queue.put(at, knock);
        }
    }

    /// Sends a trainer's answer to a device.
    pub(crate) fn reply(&mut self, device: u32, number: u64, answered: Answered) {
        let answered = Rc::new(answered);
        for at in self.call(self.is_cut(device)).into_iter().flatten() {
            let answered = Rc::clone(&answered);
            self.queue.put(
                at,
                Happening::Answered {
                    device,
                    number,
                    answered,
                },
            );
        }
    }
}
