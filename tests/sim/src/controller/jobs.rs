//! Federated jobs as the controller keeps them: one trainer at a time works on a job, a cohort is opened once and closed once.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use fieldfare_fleet::rollout::{Phase, Progress};
use fieldfare_fleet::round::registry::{self, Closing, Opened, Opening, Reached};
use fieldfare_fleet::round::{Activity, BudgetState, Connection, Consent, Decline, TrainingCandidate, TrainingNeeds};
use fieldfare_fleet::{ByteSize, DeviceId, Digest, Labels, ReleaseId, RoundId, Selector, Timestamp, TrustTier};

use super::Controller;
use crate::ground::Ground;
use crate::message::Down;
use crate::round::{Ask, Checkpoint, JobMade, Ticket, Told, digest_of};
use crate::setting::number_of;

/// Time to live of a trainer's claim.
pub(crate) const CLAIM_LEASE: Duration = Duration::from_secs(15);

/// A device whose session ended is taken as lost to its round after this long.
const SESSION_GRACE: Duration = Duration::from_secs(45);

#[derive(Clone, Copy, Debug)]
struct Claim {
    token: u64,
    trainer: usize,
    lives_until: Timestamp,
}

/// An attempt as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    opened: Opened,
    pub(crate) cohort: BTreeSet<DeviceId>,
    trainer: usize,
    /// Raised each time that its trainer opens it again.
    generation: u64,
}

/// A job as it is kept.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) made: Rc<JobMade>,
    pub(crate) over: bool,
    claim: Option<Claim>,
    last_token: u64,
    checkpoint: Checkpoint,
    rounds: BTreeMap<RoundId, Round>,
    drops: BTreeMap<RoundId, BTreeMap<DeviceId, Decline>>,
}

impl Job {
    /// A job whose claims are told from those of the one before, whose late messages may still come: in the fleet's store a claim is one
    /// of a named job.
    fn new(made: JobMade, before: Option<&Self>) -> Self {
        Self {
            made: Rc::new(made),
            over: false,
            claim: None,
            last_token: before.map_or(0, |job| job.last_token),
            checkpoint: Checkpoint::default(),
            rounds: BTreeMap::new(),
            drops: BTreeMap::new(),
        }
    }

    fn claim(&self, now: Timestamp) -> Option<&Claim> {
        self.claim.as_ref().filter(|claim| now < claim.lives_until)
    }

    /// Whether this claim is the current one, and lives.
    fn is_held(&self, trainer: usize, token: u64, now: Timestamp) -> bool {
        self.claim(now)
            .is_some_and(|claim| (claim.trainer, claim.token) == (trainer, token))
    }
}

impl Controller {
    /// An operator starts a job on the release that all devices have; false where that must wait.
    pub(crate) fn start_job(&mut self, ground: &mut Ground, make: impl FnOnce(ReleaseId) -> JobMade) -> bool {
        let running = self.store.job.as_ref().is_some_and(|job| !job.over);
        let Some(state) = self
            .store
            .rollout
            .as_ref()
            .filter(|state| matches!(state.phase, Phase::Completed { .. }))
        else {
            return false;
        };
        if self.process.is_none() || running {
            return false;
        }
        let made = make(state.release.clone());
        ground.say(|| format!("the operator starts {made:?}"));
        self.store.job = Some(Job::new(made, self.store.job.as_ref()));
        true
    }

    /// A trainer asks.
    pub(crate) fn asked(&mut self, ground: &mut Ground, trainer: usize, number: u64, ask: &Ask) {
        if self.process.is_none() {
            return;
        }
        let told = self.answer(ground, trainer, ask);
        // What was committed stands, whether or not the answer leaves.
        if !self.dies(ground) {
            ground.tell(trainer, number, &told);
        }
    }

    fn answer(&mut self, ground: &mut Ground, trainer: usize, ask: &Ask) -> Told {
        let now = ground.now;
        let Some(job) = &mut self.store.job else {
            return Told::Claimed(None);
        };
        let token = match ask {
            Ask::Claim => return claim(job, trainer, now),
            Ask::Renew { token }
            | Ask::Checkpoint { token, .. }
            | Ask::Open { token, .. }
            | Ask::Close { token, .. }
            | Ask::Finish { token } => *token,
        };
        if !job.is_held(trainer, token, now) {
            return Told::Stale;
        }
        match ask {
            Ask::Claim => Told::Done,
            Ask::Renew { .. } => {
                if let Some(claim) = &mut job.claim {
                    claim.lives_until = now.saturating_add(CLAIM_LEASE);
                }
                Told::Done
            }
            Ask::Checkpoint { checkpoint, .. } => {
                if !reached(checkpoint).is_overtaken(reached(&job.checkpoint)) {
                    job.checkpoint = checkpoint.clone();
                    ground.checks.keeps(&job.made.name, checkpoint, now);
                }
                Told::Done
            }
            Ask::Open {
                configuration, digest, ..
            } => self.open(ground, trainer, &configuration.round, *digest, configuration.deadline),
            Ask::Close {
                round,
                accepted,
                sum,
                checkpoint,
                ..
            } => self.close(ground, round, accepted, sum, checkpoint),
            Ask::Finish { .. } => {
                (job.over, job.claim) = (true, None);
                job.rounds.values_mut().for_each(|round| round.opened.closed = true);
                Told::Done
            }
        }
    }

    fn open(
        &mut self,
        ground: &mut Ground,
        trainer: usize,
        round: &RoundId,
        digest: Digest,
        deadline: Timestamp,
    ) -> Told {
        let Some(job) = &mut self.store.job else {
            return Told::Stale;
        };
        let known = job.rounds.get_mut(round);
        let kept = reached(&job.checkpoint);
        let opening = match registry::open(known.as_deref().map(|round| &round.opened), round, digest, kept) {
            Ok(opening) => opening,
            Err(error) => return Told::Refused(error.to_string()),
        };
        match (opening, known) {
            (Opening::New, _) => {}
            (Opening::Over, Some(known)) => return Told::Opened(known.cohort.clone()),
            (Opening::Again, Some(known)) => {
                (known.trainer, known.generation) = (trainer, known.generation + 1);
                let cohort = known.cohort.clone();
                if let Some(drops) = job.drops.get_mut(round) {
                    drops.retain(|_, reason| !reason.passes());
                }
                self.invite_all(ground);
                return Told::Opened(cohort);
            }
            (Opening::Over | Opening::Again, None) => return Told::Stale,
        }
        let made = Rc::clone(&job.made);
        let cohort = registry::pick(self.eligible(&made), made.cohort, made.seed, round);
        ground.say(|| format!("{} devices are picked for {round}", cohort.len()));
        if cohort.len() < made.quorum as usize {
            return Told::Opened(BTreeSet::new());
        }
        let Some(job) = &mut self.store.job else {
            return Told::Stale;
        };
        // Nobody is invited any more to an attempt before this one.
        job.rounds.values_mut().for_each(|round| round.opened.closed = true);
        let kept = Round {
            opened: Opened {
                configuration: digest,
                closed: false,
                accepted: None,
                deadline,
            },
            cohort: cohort.clone(),
            trainer,
            generation: 1,
        };
        ground.checks.opens(round, &cohort, made.quorum, ground.now);
        job.rounds.insert(round.clone(), kept);
        self.invite_all(ground);
        Told::Opened(cohort)
    }

    /// Commits the accepted set and the job's checkpoint, in one compare-and-swap.
    fn close(
        &mut self,
        ground: &mut Ground,
        round: &RoundId,
        accepted: &BTreeMap<DeviceId, Digest>,
        sum: &[i64],
        checkpoint: &Checkpoint,
    ) -> Told {
        let Some(job) = &mut self.store.job else {
            return Told::Stale;
        };
        let Some(kept) = job.rounds.get_mut(round) else {
            return Told::Refused("there is no such round".to_owned());
        };
        let named = accepted.iter().map(|(device, digest)| (*device, *digest));
        let set = registry::check_accepted(|device| kept.cohort.contains(&device), job.made.quorum, named);
        let set = match set {
            Ok(set) => set,
            Err(error) => return Told::Refused(error.to_string()),
        };
        let digest = digest_of(format!("{set:?}").as_bytes());
        match registry::close(&kept.opened, round.round, digest, job.checkpoint.committed) {
            Ok(Closing::Known) => Told::Done,
            Ok(Closing::Commit) => {
                ground.say(|| format!("{round} is committed with {} contributions", set.len()));
                ground.checks.commits(round, &set, (job.made.codec, sum), ground.now);
                (kept.opened.closed, kept.opened.accepted) = (true, Some(digest));
                job.checkpoint = checkpoint.clone();
                ground.checks.keeps(&job.made.name, checkpoint, ground.now);
                Told::Done
            }
            Err(error) => Told::Refused(error.to_string()),
        }
    }

    /// The devices that may be invited.
    fn eligible(&self, made: &JobMade) -> Vec<DeviceId> {
        let needs = TrainingNeeds {
            selector: Selector::everything(),
            release: made.base.clone(),
            training_memory: ByteSize::from_mib(64),
            min_trust: TrustTier::Unattested,
        };
        let Some(process) = &self.process else {
            return Vec::new();
        };
        let both = self.store.devices.iter().zip(&process.signs);
        let candidates = both.filter_map(|(enrolled, sign)| Some((enrolled.as_ref()?, sign.as_ref()?)));
        let eligible = candidates.filter(|(enrolled, sign)| {
            let observed = sign.observed.as_ref().or(enrolled.observed.as_ref());
            let settled = observed.filter(|said| said.progress == Progress::Converged);
            let candidate = TrainingCandidate {
                device: enrolled.id,
                connection: if sign.open {
                    Connection::Connected
                } else {
                    Connection::LastHeard(sign.last_heard)
                },
                consent: if sign.ready.consent {
                    Consent::Given
                } else {
                    Consent::Withheld
                },
                training_memory: ByteSize::from_gib(1),
                budget: BudgetState::Remaining,
                activity: if sign.ready.busy {
                    Activity::Busy
                } else {
                    Activity::Idle
                },
                trust: TrustTier::Unattested,
                labels: Labels::default(),
                running: settled.and_then(|said| said.running.clone()),
            };
            needs.reasons_against(&candidate).is_empty()
        });
        eligible.map(|(enrolled, _)| enrolled.id).collect()
    }

    fn invite_all(&mut self, ground: &mut Ground) {
        let Some(job) = self.store.job.as_ref().filter(|job| !job.over) else {
            return;
        };
        let open = job
            .rounds
            .values()
            .filter(|round| registry::invites(&round.opened, ground.now));
        let cohort: BTreeSet<DeviceId> = open.flat_map(|round| round.cohort.iter().copied()).collect();
        for device in cohort {
            self.invite(ground, number_of(device));
        }
    }

    /// Sends the invitations that a device has not been sent in this session.
    pub(super) fn invite(&mut self, ground: &mut Ground, device: u32) {
        let (Some(job), Some(process)) = (&self.store.job, &mut self.process) else {
            return;
        };
        let Some(sign) = process.signs[device as usize].as_mut().filter(|sign| sign.open) else {
            return;
        };
        for (id, round) in &job.rounds {
            let dropped = |device: &DeviceId| job.drops.get(id).is_some_and(|drops| drops.contains_key(device));
            let invited = round.cohort.iter().find(|device_id| number_of(**device_id) == device);
            let waits = registry::invites(&round.opened, ground.now);
            if !waits || invited.is_none_or(dropped) || !sign.invited.insert((id.clone(), round.generation)) {
                continue;
            }
            let ticket = Ticket {
                round: id.clone(),
                configuration: round.opened.configuration,
                device,
                trainer: round.trainer,
                not_after: round.opened.deadline,
            };
            ground.down(device, sign.link, Down::Invitation(Rc::new(ticket)));
        }
    }

    /// Takes a device's refusal. The first reason stays.
    pub(super) fn take_reply(&mut self, device: DeviceId, round: &RoundId, reason: Decline) {
        let Some(job) = &mut self.store.job else { return };
        if job
            .rounds
            .get(round)
            .is_some_and(|round| round.cohort.contains(&device))
        {
            job.drops
                .entry(round.clone())
                .or_default()
                .entry(device)
                .or_insert(reason);
        }
    }

    /// Tells the trainer which devices of the open attempt will not contribute.
    pub(super) fn tell_trainer(&mut self, ground: &mut Ground) {
        let now = ground.now;
        let (Some(job), Some(process)) = (&self.store.job, &mut self.process) else {
            return;
        };
        let open = job.rounds.iter().find(|(_, round)| !round.opened.closed);
        let (Some((id, round)), Some(claim)) = (open, job.claim(now)) else {
            return;
        };
        if process.watched.as_ref() != Some(&(id.clone(), claim.token)) {
            process.watched = Some((id.clone(), claim.token));
            (process.away, process.told_of) = (BTreeMap::new(), BTreeSet::new());
        }
        for device in &round.cohort {
            let refused = job.drops.get(id).and_then(|drops| drops.get(device)).copied();
            let connected = process.signs[number_of(*device) as usize]
                .as_ref()
                .is_some_and(|sign| sign.open);
            let reason = if refused.is_some() {
                refused
            } else if connected {
                process.away.remove(device);
                None
            } else {
                let since = *process.away.entry(*device).or_insert(now);
                (now.since(since) > SESSION_GRACE).then_some(Decline::Unexplained)
            };
            if let Some(reason) = reason
                && process.told_of.insert(*device)
            {
                let (round, device) = (id.clone(), *device);
                ground.tell(claim.trainer, 0, &Told::Dropped { round, device, reason });
            }
        }
    }
}

const fn reached(checkpoint: &Checkpoint) -> Reached {
    Reached {
        committed: checkpoint.committed,
        attempt: checkpoint.attempt,
    }
}

/// Claims the job, unless somebody else has it. A claim of the same trainer was lost with an earlier life of its process.
fn claim(job: &mut Job, trainer: usize, now: Timestamp) -> Told {
    if job.over || job.claim(now).is_some_and(|claim| claim.trainer != trainer) {
        return Told::Claimed(None);
    }
    job.last_token += 1;
    let token = job.last_token;
    job.claim = Some(Claim {
        token,
        trainer,
        lives_until: now.saturating_add(CLAIM_LEASE),
    });
    Told::Claimed(Some((token, Rc::clone(&job.made), job.checkpoint.clone())))
}
