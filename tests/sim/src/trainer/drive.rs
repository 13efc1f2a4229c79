//! The shell around the decider of rounds: it tells what happened, and does what is decided.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use fieldfare_fleet::round::{
    Action, Answer, Decline, Event, JobFailure, JobSpec, JobState, Refused, VariantEvaluation,
};
use fieldfare_fleet::round::{EvaluationRule, JobPhase, RoundPhase};
use fieldfare_fleet::{ByteSize, DeploymentName, DeviceId, Digest, NatsPerToken, RoundId, VariantName};
use fieldfare_privacy::ExactSum;

use super::{Attempted, Job, Then, Trainer};
use crate::controller::CLAIM_LEASE;
use crate::ground::Ground;
use crate::message::Work;
use crate::round::{Ask, Checkpoint, Configuration, JobMade, digest_of};

/// How often the controller is asked again for a cohort that it does not have yet.
const SELECT_INTERVAL: Duration = Duration::from_secs(2);

fn spec(made: &JobMade, deployment: &DeploymentName) -> JobSpec {
    JobSpec {
        job: made.name.clone(),
        deployment: deployment.clone(),
        rounds: made.rounds,
        cohort: made.cohort,
        enough: made.cohort,
        quorum: made.quorum,
        select_within: Duration::from_secs(60),
        collect_within: Duration::from_millis(made.collect_ms),
        compute_within: Duration::from_secs(60),
        retry_after: Duration::from_secs(5),
        max_attempts: made.max_attempts,
        contribution: ByteSize::new(made.codec.byte_length() as u64),
        evaluation: EvaluationRule {
            max_round_increase: 0.05,
            min_job_gain: 0.0,
        },
        seed: made.seed,
    }
}

impl Trainer {
    /// Takes claimed work up where its checkpoint left it.
    pub(super) fn begin(&mut self, ground: &mut Ground, token: u64, made: Rc<JobMade>, checkpoint: Checkpoint) {
        let (now, configurations) = (ground.now, &self.disk.configurations);
        let goes_on = |round: &RoundId| configurations.get(round).is_some_and(|kept| kept.deadline > now);
        let spec = spec(&made, &ground.setting.deployment);
        let machine = match JobState::resume(spec, checkpoint.committed, checkpoint.attempt, goes_on, now) {
            Ok(machine) => machine,
            Err(error) => {
                return ground
                    .checks
                    .fail("a job of the simulation works", error.to_string(), now);
            }
        };
        ground.say(|| {
            format!(
                "trainer {} works on {} by claim {token}",
                self.number,
                machine.round_id()
            )
        });
        let job = Job {
            token,
            made,
            checkpoint,
            machine,
            actions: VecDeque::new(),
            attempted: None,
            offers: VecDeque::new(),
            then: Then::GoOn,
            computing: 0,
            claimed_until: now.saturating_add(CLAIM_LEASE),
        };
        if let Some(process) = &mut self.process {
            process.job = Some(job);
        }
        self.decide(ground, Event::Tick);
        self.drive(ground);
    }

    /// Tells the decider, and keeps what it wants done.
    pub(super) fn decide(&mut self, ground: &mut Ground, event: Event) -> Option<Result<Answer, Refused>> {
        let number = self.number;
        let job = self.job()?;
        let mut actions = Vec::new();
        ground.say(|| format!("trainer {number} is told {event:?}"));
        let answer = job.machine.handle(ground.now, event, &mut actions);
        if let Err(refused) = &answer {
            ground.say(|| format!("trainer {number} refuses: {refused}"));
        }
        job.actions.extend(actions);
        Some(answer)
    }

    /// Does what is to be done, until something must be waited for.
    pub(super) fn drive(&mut self, ground: &mut Ground) {
        loop {
            let Some(process) = &mut self.process else { return };
            if process.asked.is_some() {
                return;
            }
            let Some(job) = &mut process.job else { return };
            if let Some(action) = job.actions.pop_front() {
                self.act(ground, action);
            } else if let Some(offer) = job.offers.pop_front() {
                self.answer(ground, offer);
            } else if job.machine.next_deadline().is_some_and(|due| due <= ground.now) {
                self.decide(ground, Event::Tick);
            } else {
                break;
            }
        }
        let due = self.job().and_then(|job| job.machine.next_deadline());
        if let Some(due) = due.filter(|due| *due > ground.now) {
            let wait = due.since(ground.now);
            self.plan(ground, wait, Work::Tick);
        }
    }

    fn act(&mut self, ground: &mut Ground, action: Action) {
        ground.say(|| format!("trainer {} does {action:?}", self.number));
        let Some(job) = self.job() else { return };
        let token = job.token;
        match action {
            Action::FindEligible { round } => {
                job.checkpoint.attempt = round.attempt.0;
                job.then = Then::Open(round);
                let checkpoint = job.checkpoint.clone();
                self.ask(ground, Ask::Checkpoint { token, checkpoint });
            }
            Action::Configure { round, .. } => {
                let Some(configuration) = job.attempted.as_ref().map(|attempted| attempted.digest) else {
                    return;
                };
                self.decide(ground, Event::Configured { round, configuration });
            }
            Action::Invite { .. } => self.recall(ground),
            Action::Aggregate { accepted, .. } => {
                if let Some(attempted) = &mut job.attempted {
                    attempted.accepted = accepted;
                    self.compute(ground);
                }
            }
            Action::Evaluate { .. } => self.compute(ground),
            Action::Commit { round } => self.commit(ground, round),
            Action::Abandon { round, .. } => {
                job.attempted = None;
                job.checkpoint.attempt = round.attempt.0;
                job.then = Then::GoOn;
                job.computing = 0;
                let checkpoint = job.checkpoint.clone();
                self.forget(&round);
                self.ask(ground, Ask::Checkpoint { token, checkpoint });
            }
            Action::Publish | Action::Fail(JobFailure::NoGain { .. } | JobFailure::RoundAbandoned { .. }) => {
                job.then = Then::Finished;
                self.ask(ground, Ask::Finish { token });
            }
        }
    }

    /// What follows the controller's answer.
    pub(super) fn go_on(&mut self, ground: &mut Ground) {
        let Some(job) = self.job() else { return };
        match std::mem::replace(&mut job.then, Then::GoOn) {
            Then::Open(round) => self.open(ground, round),
            Then::Committed(checkpoint) => {
                let round = RoundId {
                    job: job.made.name.clone(),
                    round: fieldfare_fleet::RoundNumber(checkpoint.committed),
                    attempt: fieldfare_fleet::Attempt(job.checkpoint.attempt),
                };
                job.checkpoint = checkpoint;
                job.attempted = None;
                self.forget(&round);
            }
            Then::Finished => return self.lose_work(ground),
            Then::GoOn => {}
        }
        self.drive(ground);
    }

    /// Opens an attempt for devices, and asks the controller for its cohort.
    fn open(&mut self, ground: &mut Ground, round: RoundId) {
        let now = ground.now;
        let Some(process) = &mut self.process else { return };
        let Some(job) = &mut process.job else { return };
        let kept = self
            .disk
            .configurations
            .get(&round)
            .filter(|kept| kept.deadline > now)
            .cloned();
        let configuration = kept.unwrap_or_else(|| {
            let made = &job.made;
            let collect = Duration::from_millis(made.collect_ms).saturating_add(Duration::from_secs(60));
            Rc::new(Configuration {
                round: round.clone(),
                base: made.base.clone(),
                state: state_digest(&job.checkpoint),
                mechanism: made.mechanism,
                budget: made.budget,
                codec: made.codec,
                deadline: now.saturating_add(collect),
            })
        });
        let digest = configuration.digest();
        self.disk.configurations.insert(round, Rc::clone(&configuration));
        job.attempted = Some(Attempted {
            configuration: Rc::clone(&configuration),
            digest,
            accepted: BTreeMap::new(),
            sum: Vec::new(),
        });
        let token = job.token;
        if self.dies(ground) {
            return;
        }
        let ask = Ask::Open {
            token,
            configuration,
            digest,
        };
        self.ask(ground, ask);
    }

    /// The controller says whom it chose, if it has enough.
    pub(super) fn opened(&mut self, ground: &mut Ground, devices: BTreeSet<DeviceId>) {
        let now = ground.now;
        let Some(process) = &mut self.process else { return };
        let Some(job) = &process.job else { return };
        let over = job.machine.next_deadline().is_none_or(|deadline| now >= deadline);
        if devices.len() >= job.machine.spec.quorum as usize || over {
            self.decide(ground, Event::Chosen { devices });
            return self.drive(ground);
        }
        process.next += 1;
        let number = process.next;
        // Nothing else is done meanwhile.
        process.asked = Some((number, Rc::new(Ask::Claim)));
        self.plan(ground, SELECT_INTERVAL, Work::Reopen { number });
    }

    pub(super) fn reopen(&mut self, ground: &mut Ground, number: u64) {
        let Some(process) = &mut self.process else { return };
        if process.asked.as_ref().is_none_or(|(waiting, _)| *waiting != number) {
            return;
        }
        process.asked = None;
        let Some(job) = &process.job else { return };
        let Some(attempted) = &job.attempted else { return };
        let ask = Ask::Open {
            token: job.token,
            configuration: Rc::clone(&attempted.configuration),
            digest: attempted.digest,
        };
        self.ask(ground, ask);
    }

    /// Takes in what devices had contributed to this attempt before a restart.
    fn recall(&mut self, ground: &mut Ground) {
        let Some(attempted) = self.job().and_then(|job| job.attempted.as_ref()) else {
            return;
        };
        let (round, configuration) = (attempted.configuration.round.clone(), attempted.digest);
        let kept = self.disk.contributions.get(&round).cloned().unwrap_or_default();
        for (device, bytes) in kept {
            let event = Event::Contributed {
                round: round.clone(),
                device,
                configuration,
                contribution: digest_of(&bytes),
                bytes: ByteSize::new(bytes.len() as u64),
            };
            self.decide(ground, event);
        }
    }

    pub(super) fn hear_of_drop(&mut self, ground: &mut Ground, round: RoundId, device: DeviceId, reason: Decline) {
        self.decide(ground, Event::Declined { round, device, reason });
        self.drive(ground);
    }

    fn compute(&mut self, ground: &mut Ground) {
        let wait = ground.dice.millis(500..=15_000);
        let Some(process) = &mut self.process else { return };
        process.next += 1;
        let number = process.next;
        if let Some(job) = &mut process.job {
            job.computing = number;
            self.plan(ground, wait, Work::Computed { number });
        }
    }

    pub(super) fn computed(&mut self, ground: &mut Ground, number: u64) {
        let Some(job) = self.job().filter(|job| job.computing == number) else {
            return;
        };
        job.computing = 0;
        let round = job.machine.round_id();
        let JobPhase::Running { round: phase } = &job.machine.phase else {
            return;
        };
        let event = match phase {
            RoundPhase::Aggregating { accepted, .. } => {
                let accepted = accepted.clone();
                match self.sum(&round, &accepted) {
                    Ok(sum) => {
                        if let Some(attempted) = self.job().and_then(|job| job.attempted.as_mut()) {
                            attempted.sum = sum;
                        }
                        Event::Aggregated { round }
                    }
                    Err(detail) => Event::TrainerFailed { round, detail },
                }
            }
            _ => evaluated(round, ground),
        };
        self.decide(ground, event);
        self.drive(ground);
    }

    /// Sums exactly the accepted contributions.
    fn sum(&self, round: &RoundId, accepted: &BTreeMap<DeviceId, Digest>) -> Result<Vec<i64>, String> {
        let kept = self.disk.contributions.get(round).ok_or("nothing is kept")?;
        let configuration = self.disk.configurations.get(round).ok_or("no configuration is kept")?;
        let mut sum = ExactSum::new(configuration.codec);
        for (device, digest) in accepted {
            let bytes = kept.get(device).filter(|bytes| digest_of(bytes) == *digest);
            let bytes = bytes.ok_or_else(|| format!("the contribution of {device} changed"))?;
            sum.add(bytes).map_err(|error| error.to_string())?;
        }
        Ok(sum.levels().to_vec())
    }

    fn commit(&mut self, ground: &mut Ground, round: RoundId) {
        if self.dies(ground) {
            return;
        }
        let Some(job) = self.job() else { return };
        let Some(attempted) = &job.attempted else { return };
        let before = &job.checkpoint.state;
        let state = attempted
            .sum
            .iter()
            .enumerate()
            .map(|(n, sum)| before.get(n).copied().unwrap_or(0) + sum);
        let checkpoint = Checkpoint {
            committed: round.round.0,
            attempt: 0,
            state: Rc::new(state.collect()),
        };
        job.then = Then::Committed(checkpoint.clone());
        let ask = Ask::Close {
            token: job.token,
            round,
            accepted: attempted.accepted.clone(),
            sum: attempted.sum.clone(),
            checkpoint,
        };
        self.ask(ground, ask);
    }

    fn forget(&mut self, round: &RoundId) {
        self.disk.contributions.remove(round);
        self.disk.configurations.remove(round);
    }
}

/// The digest of the state that a checkpoint has.
pub(super) fn state_digest(checkpoint: &Checkpoint) -> Digest {
    let bytes: Vec<u8> = checkpoint.state.iter().flat_map(|level| level.to_le_bytes()).collect();
    digest_of(&bytes)
}

/// Most rounds help, and some make it worse.
fn evaluated(round: RoundId, ground: &mut Ground) -> Event {
    let after = if ground.dice.chance(0.1) { 2.2 } else { 1.9 };
    let losses = VariantEvaluation {
        before: NatsPerToken::clamped(2.0),
        after: NatsPerToken::clamped(after),
    };
    let variants = VariantName::new("f16").map(|name| BTreeMap::from([(name, losses)]));
    Event::Evaluated {
        round,
        variants: variants.unwrap_or_default(),
    }
}
