//! A server that signs what it likes: rounds replayed with other parameters, jobs that ask for more than any ledger allows,
//! invitations by the dozen.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use fieldfare_fleet::{Attempt, Digest, JobName, RoundId, RoundNumber};
use fieldfare_privacy::Budget;

use crate::device::Device;
use crate::ground::Ground;
use crate::message::Down;
use crate::round::{Answered, Configuration, JobMade, Knock, Ticket, digest_of};

/// The number under which its trainer is known.
pub(crate) const HOSTILE: usize = 99;

#[derive(Debug, Default)]
pub(crate) struct Hostile {
    configurations: BTreeMap<Digest, Rc<Configuration>>,
    rounds: u32,
}

impl Hostile {
    /// Invites a device to what it should not take part in.
    pub(crate) fn invite(&mut self, ground: &mut Ground, device: &Device) {
        let (Some(link), Some(serving)) = (device.open_link(), device.serving()) else {
            return;
        };
        let paid = device.disk.private.contributions.values();
        let paid: Vec<&Rc<Configuration>> = paid.map(|paid| &paid.configuration).collect();
        let made = ground.setting.job(ground.dice.number(), serving.release.clone());
        let many = if ground.dice.chance(0.2) { 20 } else { 1 };
        for _ in 0..many {
            let configuration = match paid.len() {
                known if known > 0 && ground.dice.chance(0.5) => replayed(paid[ground.dice.index(known)], ground),
                _ => self.greedy(&made, ground),
            };
            let digest = configuration.digest();
            let ticket = Ticket {
                round: configuration.round.clone(),
                configuration: digest,
                device: device.number + u32::from(ground.dice.chance(0.1)),
                trainer: HOSTILE,
                not_after: configuration.deadline,
            };
            ground.say(|| {
                format!(
                    "device {} is invited by somebody hostile to {}",
                    device.number, ticket.round
                )
            });
            self.configurations.insert(digest, Rc::new(configuration));
            ground.down(device.number, link, Down::Invitation(Rc::new(ticket)));
        }
    }

    /// A job of its own, with all the budget that a message can ask for.
    fn greedy(&mut self, made: &JobMade, ground: &Ground) -> Configuration {
        self.rounds += 1;
        let mut mechanism = made.mechanism;
        mechanism.steps *= 1 + u64::from(self.rounds % 4);
        Configuration {
            round: RoundId {
                job: JobName::new(format!("greedy-{}", self.rounds % 3)).expect("a name of the simulation"),
                round: RoundNumber(self.rounds),
                attempt: Attempt(1),
            },
            base: made.base.clone(),
            state: digest_of(b"anything"),
            mechanism,
            budget: Budget::from_numbers(1e4, 1e-5).expect("the largest budget"),
            codec: made.codec,
            deadline: ground.now.saturating_add(Duration::from_secs(300)),
        }
    }

    /// A device knocks at its door, and gets what it wants.
    pub(crate) fn knock(&self, ground: &mut Ground, device: u32, number: u64, ticket: &Ticket, what: &Knock) {
        let answered = match (what, self.configurations.get(&ticket.configuration)) {
            (Knock::Contribute { bytes, .. }, _) => Answered::Taken(digest_of(bytes)),
            (Knock::Configure, Some(configuration)) => Answered::Configured(Rc::clone(configuration)),
            (Knock::Configure, None) => Answered::TurnedAway { outage: false },
        };
        ground.reply(device, number, answered);
    }
}

/// A round that the device has paid for, with other parameters.
fn replayed(paid: &Configuration, ground: &mut Ground) -> Configuration {
    let mut again = paid.clone();
    again.deadline = ground.now.saturating_add(Duration::from_secs(300));
    if ground.dice.chance(0.5) {
        again.mechanism.steps *= 2;
    } else {
        again.state = digest_of(b"another state");
    }
    again
}
