//! The shell around taking part in rounds, one at a time: an invitation is checked, trained for, paid for, and only then
//! contributed to.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use fieldfare_fleet::round::Decline;
use fieldfare_fleet::{Digest, RoundId, Timestamp};
use fieldfare_privacy::ledger::payment::{self, Budgets, Due, Kept, Payment, Trained, Unpaid, is_kept, price};
use fieldfare_privacy::{Budget, ChargeKey, ChargeRecord, JobName};

use super::Device;
use crate::ground::Ground;
use crate::message::{Doing, Up};
use crate::round::{Answered, Configuration, Knock, Ticket, digest_of};

/// Most invitations that wait.
const QUEUE: usize = 8;

/// How long one answer of a trainer may take.
const TRAINER_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest wait before a trainer is asked again, and attempts at having a configuration.
const RETRY_MAX: Duration = Duration::from_secs(15);
const CONFIGURE_ATTEMPTS: u32 = 8;

/// A contribution that was paid for.
#[derive(Clone, Debug)]
pub(crate) struct Paid {
    pub(crate) configuration: Rc<Configuration>,
    pub(crate) digest: Digest,
    pub(crate) bytes: Rc<Vec<u8>>,
}

/// Examples, ledger and contributions: one file, each change of which is one transaction.
#[derive(Clone, Debug)]
pub(crate) struct Private {
    pub(crate) budget: Budget,
    pub(crate) consent: bool,
    pub(crate) removals: u64,
    pub(crate) records: Vec<ChargeRecord>,
    pub(crate) contributions: BTreeMap<RoundId, Paid>,
}

/// How far the present round is.
#[derive(Clone, Debug)]
enum Stage {
    Configuring,
    Training {
        configuration: Rc<Configuration>,
        removals: u64,
    },
    /// Whether the round still takes contributions.
    Confirming {
        configuration: Rc<Configuration>,
        removals: u64,
    },
    Uploading(Paid),
}

#[derive(Clone, Debug)]
struct Taking {
    ticket: Rc<Ticket>,
    stage: Stage,
    /// The number of what is waited for.
    number: u64,
    attempts: u32,
}

/// What a process knows of rounds.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    taking: Option<Taking>,
    waiting: VecDeque<Rc<Ticket>>,
}

impl Rounds {
    pub(super) const fn is_busy(&self) -> bool {
        self.taking.is_some()
    }
}

fn key(round: &RoundId) -> Option<ChargeKey> {
    let job = JobName::new(round.job.as_str()).ok()?;
    Some(ChargeKey {
        job,
        round: u64::from(round.round.0),
        attempt: round.attempt.0,
    })
}

/// Why the device takes no part, as it says it.
const fn reason(unpaid: &Unpaid) -> Decline {
    match unpaid {
        Unpaid::Refused(_) => Decline::BudgetSpent,
        Unpaid::OtherConfiguration | Unpaid::BytesLost => Decline::Configuration,
        Unpaid::TakenBack | Unpaid::Ledger(_) => Decline::TrainingFailed,
    }
}

impl Device {
    fn rounds(&mut self) -> Option<&mut Rounds> {
        self.process.as_mut().map(|process| &mut process.rounds)
    }

    /// The same round at a trainer that listens elsewhere takes the place of the one under way; others wait.
    pub(super) fn invited(&mut self, ground: &mut Ground, ticket: Rc<Ticket>) {
        let Some(rounds) = self.rounds() else { return };
        let moved = rounds
            .taking
            .as_ref()
            .is_some_and(|taking| taking.ticket.round == ticket.round && taking.ticket.trainer != ticket.trainer);
        if moved {
            rounds.taking = None;
            rounds.waiting.push_front(ticket);
        } else if rounds.waiting.len() < QUEUE {
            rounds.waiting.push_back(ticket);
        } else {
            return self.decline(ground, &ticket.round, Decline::Busy);
        }
        self.take_next(ground);
    }

    fn take_next(&mut self, ground: &mut Ground) {
        let now = ground.now;
        loop {
            let Some(rounds) = self.rounds() else { return };
            if rounds.taking.is_some() {
                return;
            }
            let Some(ticket) = rounds.waiting.pop_front() else {
                return;
            };
            if ticket.not_after <= now || ticket.device != self.number {
                self.decline(ground, &ticket.round, Decline::Ticket);
                continue;
            }
            let round = Rc::new(ticket.round.clone());
            self.plan(ground, ticket.not_after.since(now), Doing::RoundOver { round });
            if let Err(reason) = self.begin_round(ground, &ticket) {
                self.decline(ground, &ticket.round, reason);
            }
        }
    }

    /// The bytes of an earlier payment are sent; otherwise the device asks for the configuration.
    fn begin_round(&mut self, ground: &mut Ground, ticket: &Rc<Ticket>) -> Result<(), Decline> {
        let paid = self.disk.private.contributions.get(&ticket.round);
        let kept = is_kept(
            paid.map(|paid| *paid.digest.as_bytes()),
            *ticket.configuration.as_bytes(),
        );
        let kept = kept.map_err(|unpaid| reason(&unpaid))?;
        let stage = match paid.filter(|_| kept) {
            Some(paid) => Stage::Uploading(paid.clone()),
            None if !self.disk.private.consent => return Err(Decline::NoConsent),
            None => Stage::Configuring,
        };
        if let Some(rounds) = self.rounds() {
            let ticket = Rc::clone(ticket);
            rounds.taking = Some(Taking {
                ticket,
                stage,
                number: 0,
                attempts: 0,
            });
        }
        self.knock(ground);
        Ok(())
    }

    /// Asks the trainer for what comes next.
    pub(super) fn knock(&mut self, ground: &mut Ground) {
        let lies = self.lies(ground);
        let Some(process) = &mut self.process else { return };
        let number = process.number();
        let Some(taking) = &mut process.rounds.taking else {
            return;
        };
        taking.number = number;
        taking.attempts += 1;
        let what = match &taking.stage {
            Stage::Training { .. } => return,
            Stage::Configuring | Stage::Confirming { .. } => Knock::Configure,
            Stage::Uploading(paid) => Knock::Contribute {
                configuration: paid.digest,
                bytes: Rc::clone(&paid.bytes),
            },
        };
        let ticket = Rc::clone(&taking.ticket);
        let (ticket, what) = if lies {
            self.lie_to_trainer(ground, ticket, what)
        } else {
            (ticket, what)
        };
        if let Knock::Contribute { bytes, .. } = &what {
            ground.checks.leaves(self, &ticket.round, bytes, ground.now);
        }
        ground.knock(self.number, number, &ticket, &Rc::new(what));
        self.plan(ground, TRAINER_TIMEOUT, Doing::KnockAgain { number });
    }

    /// The trainer has not answered, or was away.
    pub(super) fn knock_again(&mut self, ground: &mut Ground, number: u64) {
        let Some(taking) = self.taking(number) else { return };
        let patient = matches!(taking.stage, Stage::Uploading(_)) || taking.attempts < CONFIGURE_ATTEMPTS;
        if patient {
            self.knock(ground);
        } else {
            self.end_round(ground, Some(Decline::TrainingFailed));
        }
    }

    fn taking(&mut self, number: u64) -> Option<&mut Taking> {
        self.rounds()?.taking.as_mut().filter(|taking| taking.number == number)
    }

    /// The trainer answers.
    pub(crate) fn answered(&mut self, ground: &mut Ground, number: u64, answered: &Answered) {
        let Some(taking) = self.taking(number) else { return };
        let (ticket, attempts) = (Rc::clone(&taking.ticket), taking.attempts);
        match (taking.stage.clone(), answered) {
            (_, Answered::TurnedAway { outage: true }) => {
                let backoff = super::RECONNECTING.after(attempts);
                let wait = backoff.wait(ground.dice.share()).min(RETRY_MAX);
                self.plan(ground, wait, Doing::KnockAgain { number });
            }
            (_, Answered::TurnedAway { outage: false }) => self.end_round(ground, Some(Decline::TrainingFailed)),
            (Stage::Configuring, Answered::Configured(configuration)) => {
                if let Err(reason) = self.train(ground, &ticket, configuration) {
                    self.end_round(ground, Some(reason));
                }
            }
            (
                Stage::Confirming {
                    configuration,
                    removals,
                },
                Answered::Configured(_),
            ) => match self.pay(ground, &ticket, &configuration, removals) {
                Ok(Some(paid)) => self.upload(ground, paid),
                Ok(None) => {}
                Err(reason) => self.end_round(ground, Some(reason)),
            },
            (Stage::Uploading(paid), Answered::Taken(digest)) => {
                let ours = digest_of(&paid.bytes) == *digest;
                self.end_round(ground, (!ours).then_some(Decline::TrainingFailed));
            }
            _ => {}
        }
        self.settle(ground);
    }

    /// Checks the configuration that the ticket names, and what it would cost, and begins to train.
    fn train(
        &mut self,
        ground: &mut Ground,
        ticket: &Ticket,
        configuration: &Rc<Configuration>,
    ) -> Result<(), Decline> {
        if configuration.digest() != ticket.configuration || configuration.round != ticket.round {
            return Err(Decline::Configuration);
        }
        if self
            .serving()
            .is_none_or(|serving| serving.release != configuration.base)
        {
            return Err(Decline::WrongBase);
        }
        let key = key(&ticket.round).ok_or(Decline::Configuration)?;
        let due = self.due(&key, configuration, ground.now);
        price(self.disk.private.records.clone(), due).map_err(|unpaid| reason(&unpaid))?;
        let removals = self.disk.private.removals;
        let configuration = Rc::clone(configuration);
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        let number = process.number();
        ground.checks.trains(self.number);
        if let Some(taking) = &mut process.rounds.taking {
            (taking.number, taking.attempts) = (number, 0);
            taking.stage = Stage::Training {
                configuration,
                removals,
            };
        }
        let wait = ground.dice.millis(3000..=60_000);
        self.plan(ground, wait, Doing::Trained { number });
        Ok(())
    }

    fn due<'a>(&self, key: &'a ChargeKey, configuration: &Configuration, now: Timestamp) -> Due<'a> {
        let (device, job) = (self.disk.private.budget, configuration.budget);
        Due {
            key,
            mechanism: configuration.mechanism,
            budgets: Budgets { device, job },
            now_unix_ms: now.unix_ms(),
        }
    }

    /// The update is there. A round that was given up meanwhile would take the payment and give nothing for it.
    pub(super) fn trained(&mut self, ground: &mut Ground, number: u64) {
        let Some(taking) = self.taking(number) else { return };
        let Stage::Training {
            configuration,
            removals,
        } = taking.stage.clone()
        else {
            return;
        };
        if ground.dice.chance(0.02) && !ground.is_quiet() {
            return self.end_round(ground, Some(Decline::TrainingFailed));
        }
        taking.stage = Stage::Confirming {
            configuration,
            removals,
        };
        self.knock(ground);
    }

    /// Pays for a contribution and keeps its bytes, in one transaction. Only what this gives may leave the device; nothing where the
    /// process died.
    fn pay(
        &mut self,
        ground: &mut Ground,
        ticket: &Ticket,
        configuration: &Rc<Configuration>,
        removals: u64,
    ) -> Result<Option<Paid>, Decline> {
        let private = &self.disk.private;
        if !private.consent {
            return Err(Decline::NoConsent);
        }
        let key = key(&ticket.round).ok_or(Decline::Configuration)?;
        let before = private.contributions.get(&ticket.round).cloned();
        let kept = Kept {
            contribution: before.as_ref().map(|before| *before.digest.as_bytes()),
            removals: private.removals,
        };
        let trained = Trained {
            configuration: *ticket.configuration.as_bytes(),
            removals,
        };
        let due = self.due(&key, configuration, ground.now);
        let payment = payment::pay(kept, trained, due, || Ok(private.records.clone()));
        let record = match payment.map_err(|unpaid: Unpaid| reason(&unpaid))? {
            Payment::Before => return Ok(before),
            Payment::New(record) => record,
        };
        // What training brings forth is never the same twice: its noise is fresh.
        let update: Vec<f32> = (0..configuration.codec.parameters().length)
            .map(|_| (ground.dice.share() * 2.4 - 1.2) as f32)
            .collect();
        let Ok(encoded) = configuration.codec.encode(&update) else {
            return Err(Decline::TrainingFailed);
        };
        let paid = Paid {
            configuration: Rc::clone(configuration),
            digest: ticket.configuration,
            bytes: Rc::new(encoded.bytes),
        };
        // A transaction: it is there whole, or not at all.
        let dies = ground.dies_here();
        if !dies || ground.dice.chance(0.5) {
            let private = &mut self.disk.private;
            private.records.push(record);
            private.contributions.insert(ticket.round.clone(), paid.clone());
            ground.checks.pays(self, ground.now);
        }
        if dies {
            let down_for = ground.dice.seconds(1..=20);
            self.crash(ground, down_for);
            return Ok(None);
        }
        Ok(Some(paid))
    }

    fn upload(&mut self, ground: &mut Ground, paid: Paid) {
        if let Some(taking) = self.rounds().and_then(|rounds| rounds.taking.as_mut()) {
            (taking.stage, taking.attempts) = (Stage::Uploading(paid), 0);
        }
        self.knock(ground);
    }

    pub(super) fn round_over(&mut self, ground: &mut Ground, round: &RoundId) {
        let taking = self.rounds().and_then(|rounds| rounds.taking.as_ref());
        if taking.is_some_and(|taking| taking.ticket.round == *round && taking.ticket.not_after <= ground.now) {
            self.end_round(ground, Some(Decline::TrainingFailed));
        }
    }

    /// The round is over for this device: contributed, or not and why.
    fn end_round(&mut self, ground: &mut Ground, declined: Option<Decline>) {
        let taking = self.rounds().and_then(|rounds| rounds.taking.take());
        if let (Some(taking), Some(reason)) = (taking, declined) {
            ground.say(|| {
                format!(
                    "device {} takes no part in {}: {reason:?}",
                    self.number, taking.ticket.round
                )
            });
            self.decline(ground, &taking.ticket.round, reason);
        }
        self.take_next(ground);
    }

    fn decline(&self, ground: &mut Ground, round: &RoundId, reason: Decline) {
        // Without a session nobody waits for the answer.
        if let Some(link) = self.open_link() {
            let round = Rc::new(round.clone());
            ground.up(self.number, link, Up::Declined { round, reason });
        }
    }

    /// A liar sends other bytes each time, bytes that are no contribution, or shows a ticket of another round.
    fn lie_to_trainer(&self, ground: &mut Ground, ticket: Rc<Ticket>, what: Knock) -> (Rc<Ticket>, Knock) {
        let Knock::Contribute { configuration, bytes } = what else {
            return (ticket, what);
        };
        let mut lie = Vec::clone(&bytes);
        let mut shown = Ticket::clone(&ticket);
        match ground.dice.below(6) {
            0 => lie.iter_mut().for_each(|byte| *byte = ground.dice.number() as u8),
            // The one value that lies outside the levels.
            1 => lie.iter_mut().for_each(|byte| *byte = 0x80),
            2 => lie.truncate(bytes.len() / 2),
            3 => lie.extend([0; 3]),
            4 => shown.round.attempt.0 += 1,
            _ => {}
        }
        let bytes = Rc::new(lie);
        (Rc::new(shown), Knock::Contribute { configuration, bytes })
    }
}
