//! Rounds as one sees them on the wire, on the disks of devices and in the controller's records.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use fieldfare_fleet::{DeviceId, Digest, JobName, RoundId, Timestamp};
use fieldfare_privacy::{Budget, ChargeRecord, RdpCurve, RingCodec};

use super::Checks;
use crate::device::Device;
use crate::round::{Checkpoint, digest_of};
use crate::setting::number_of;

const BUDGET: &str = "no device's ledger pays more than its budget";
const SAME: &str = "a device sends the same bytes for the same job, round and attempt, and has paid for them";
const SUM: &str = "an aggregate is exactly the sum over the accepted set, in which each device counts once";
const ONCE: &str = "the accepted set of a round changes once, and one attempt at a round counts";
const NEWEST: &str =
    "no attempt is opened, and the one under way ended by that, once its job has gone on to a later one";
const STATE: &str =
    "what a job has learnt is the sum of its committed rounds, whatever crashes and whatever comes late";
const TAKEN: &str = "what a device was told was taken is in the aggregate of its attempt";
const OWNER: &str = "nothing is paid for what the owner has taken back";

/// What is seen of one attempt at a round.
#[derive(Debug, Default)]
struct Attempt {
    cohort: BTreeSet<DeviceId>,
    quorum: u32,
    accepted: Option<BTreeMap<DeviceId, Digest>>,
    /// What devices were told was taken.
    taken: BTreeMap<DeviceId, Digest>,
}

/// What the committed rounds of a job come to.
#[derive(Debug, Default)]
struct Learnt {
    rounds: u32,
    state: Vec<i128>,
}

#[derive(Debug, Default)]
pub(super) struct Rounds {
    attempts: BTreeMap<RoundId, Attempt>,
    /// Everything that each device has sent for each attempt.
    sent: BTreeMap<(RoundId, u32), Vec<Rc<Vec<u8>>>>,
    learnt: BTreeMap<JobName, Learnt>,
    /// The newest attempt of each job that was opened.
    opened: BTreeMap<JobName, RoundId>,
    /// How often each owner has taken something back, and how often that was when the device last began to train.
    taken_back: BTreeMap<u32, u64>,
    trained_at: BTreeMap<u32, u64>,
    pub(super) committed: u32,
    pub(super) paid: u32,
}

/// What these charges cost together, worked out from what each of them released.
fn spent<'a>(records: impl Iterator<Item = &'a ChargeRecord>, budget: Budget) -> f64 {
    let mut curve = RdpCurve::nothing();
    for record in records {
        let mechanism = record.mechanism;
        let step = RdpCurve::of_step(mechanism.sampling_rate, mechanism.noise_multiplier);
        curve.add_steps(&step, mechanism.steps);
    }
    curve.epsilon(budget.delta()).get()
}

/// The levels of a contribution, read by hand; nothing where it is none.
fn levels(codec: RingCodec, bytes: &[u8]) -> Option<Vec<i128>> {
    let length = codec.parameters().length;
    let width = codec.byte_length() / length;
    if bytes.len() != width * length {
        return None;
    }
    let most = i128::from(codec.levels());
    let read = |entry: &[u8]| {
        let unsigned = entry
            .iter()
            .rev()
            .fold(0_i128, |value, byte| value << 8 | i128::from(*byte));
        let half = 1_i128 << (8 * width - 1);
        if unsigned < half { unsigned } else { unsigned - 2 * half }
    };
    let levels: Vec<i128> = bytes.chunks(width).map(read).collect();
    levels
        .iter()
        .all(|level| (-most..=most).contains(level))
        .then_some(levels)
}

impl Checks {
    pub(crate) const fn rounds_committed(&self) -> u32 {
        self.rounds.committed
    }

    pub(crate) const fn rounds_paid(&self) -> u32 {
        self.rounds.paid
    }

    /// The controller opens an attempt for a cohort.
    pub(crate) fn opens(&mut self, round: &RoundId, cohort: &BTreeSet<DeviceId>, quorum: u32, now: Timestamp) {
        let attempt = self.rounds.attempts.entry(round.clone()).or_default();
        (attempt.cohort, attempt.quorum) = (cohort.clone(), quorum);
        let before = self.rounds.opened.insert(round.job.clone(), round.clone());
        if let Some(before) = before.filter(|before| (before.round, before.attempt) >= (round.round, round.attempt)) {
            self.fail(NEWEST, format!("{round} is opened after {before}"), now);
        }
    }

    /// The owner of a device takes examples back.
    pub(crate) fn takes_back(&mut self, device: u32) {
        *self.rounds.taken_back.entry(device).or_default() += 1;
    }

    /// A device begins to train.
    pub(crate) fn trains(&mut self, device: u32) {
        let taken_back = self.rounds.taken_back.get(&device).copied().unwrap_or_default();
        self.rounds.trained_at.insert(device, taken_back);
    }

    /// A device has paid: its whole ledger is looked at.
    pub(crate) fn pays(&mut self, device: &Device, now: Timestamp) {
        self.rounds.paid += 1;
        let private = &device.disk.private;
        let taken_back = self.rounds.taken_back.get(&device.number).copied().unwrap_or_default();
        let trained_at = self.rounds.trained_at.get(&device.number);
        if !private.consent || trained_at != Some(&taken_back) {
            let seen = format!(
                "device {}: consent {}, {taken_back} times taken back, {trained_at:?} when it began to train",
                device.number, private.consent
            );
            return self.fail(OWNER, seen, now);
        }
        let over = |epsilon: f64, budget: Budget| epsilon > budget.epsilon().get();
        let all = spent(private.records.iter(), private.budget);
        if over(all, private.budget) {
            let seen = format!(
                "device {} has paid {all} of {}",
                device.number,
                private.budget.epsilon()
            );
            return self.fail(BUDGET, seen, now);
        }
        let Some(last) = private.records.last() else { return };
        let of_round = |round: &RoundId| {
            let key = (last.key.job.as_str(), last.key.round, last.key.attempt);
            key == (round.job.as_str(), u64::from(round.round.0), round.attempt.0)
        };
        let paid = private.contributions.iter().find(|(round, _)| of_round(round));
        let Some(budget) = paid.map(|(_, paid)| paid.configuration.budget) else {
            return self.fail(
                SAME,
                format!("device {} has paid for nothing: {last:?}", device.number),
                now,
            );
        };
        let records = private.records.iter().filter(|record| record.key.job == last.key.job);
        let epsilon = spent(records, budget);
        if over(epsilon, budget) {
            let seen = format!(
                "device {} has paid {epsilon} of {} for {}",
                device.number,
                budget.epsilon(),
                last.key.job
            );
            self.fail(BUDGET, seen, now);
        }
    }

    /// Bytes of a contribution leave a device.
    pub(crate) fn leaves(&mut self, device: &Device, round: &RoundId, bytes: &Rc<Vec<u8>>, now: Timestamp) {
        let sent = self.rounds.sent.entry((round.clone(), device.number)).or_default();
        if sent.iter().any(|known| known == bytes) {
            return;
        }
        let is_first = sent.is_empty();
        sent.push(Rc::clone(bytes));
        if device.liar {
            return;
        }
        if !is_first {
            let seen = format!("device {} sends other bytes for {round}", device.number);
            return self.fail(SAME, seen, now);
        }
        let private = &device.disk.private;
        let paid = private.records.iter().any(|record| {
            let key = (record.key.job.as_str(), record.key.round, record.key.attempt);
            key == (round.job.as_str(), u64::from(round.round.0), round.attempt.0)
        });
        let kept = private
            .contributions
            .get(round)
            .is_some_and(|paid| paid.bytes == *bytes);
        if !paid || !kept {
            let seen = format!(
                "device {} sends bytes for {round}: paid {paid}, kept {kept}",
                device.number
            );
            self.fail(SAME, seen, now);
        }
    }

    /// A device is told that its contribution was taken.
    pub(crate) fn takes(&mut self, round: &RoundId, device: DeviceId, digest: Digest) {
        let attempt = self.rounds.attempts.entry(round.clone()).or_default();
        attempt.taken.insert(device, digest);
    }

    /// The controller commits the accepted set of a round, and with it the trainer's sum.
    pub(crate) fn commits(
        &mut self,
        round: &RoundId,
        accepted: &BTreeMap<DeviceId, Digest>,
        (codec, sum): (RingCodec, &[i64]),
        now: Timestamp,
    ) {
        let attempt = self.rounds.attempts.entry(round.clone()).or_default();
        if let Some(before) = attempt.accepted.replace(accepted.clone()) {
            return self.fail(ONCE, format!("{round}: {before:?}, then {accepted:?}"), now);
        }
        self.rounds.committed += 1;
        let (quorum, stranger) = (
            attempt.quorum,
            accepted.keys().find(|device| !attempt.cohort.contains(device)),
        );
        if (accepted.len() as u64) < u64::from(quorum) || stranger.is_some() {
            let seen = format!("{round}: {} of a quorum of {quorum}, and {stranger:?}", accepted.len());
            return self.fail(SUM, seen, now);
        }
        let mut expected = vec![0_i128; codec.parameters().length];
        for (device, digest) in accepted {
            let sent = self.rounds.sent.get(&(round.clone(), number_of(*device)));
            let bytes = sent.into_iter().flatten().find(|bytes| digest_of(bytes) == *digest);
            let Some(levels) = bytes.and_then(|bytes| levels(codec, bytes)) else {
                let seen = format!("{round}: {device} never sent a contribution with digest {digest}");
                return self.fail(SUM, seen, now);
            };
            expected.iter_mut().zip(levels).for_each(|(sum, level)| *sum += level);
        }
        let sum: Vec<i128> = sum.iter().map(|level| i128::from(*level)).collect();
        if sum != expected {
            let seen = format!("{round}: the sum is {sum:?}, over the accepted set it is {expected:?}");
            return self.fail(SUM, seen, now);
        }
        let attempt = self.rounds.attempts.entry(round.clone()).or_default();
        let left_out = attempt
            .taken
            .iter()
            .find(|(device, digest)| accepted.get(*device) != Some(*digest));
        if let Some((device, digest)) = left_out {
            let seen = format!("{round}: {device} was told that {digest} was taken");
            return self.fail(TAKEN, seen, now);
        }
        let learnt = self.rounds.learnt.entry(round.job.clone()).or_default();
        learnt.rounds += 1;
        learnt.state.resize(expected.len(), 0);
        learnt
            .state
            .iter_mut()
            .zip(expected)
            .for_each(|(state, sum)| *state += sum);
        if learnt.rounds != round.round.0 {
            let seen = format!("{round} is the committed round number {}", learnt.rounds);
            self.fail(ONCE, seen, now);
        }
    }

    /// The controller keeps how far a job is.
    pub(crate) fn keeps(&mut self, job: &JobName, checkpoint: &Checkpoint, now: Timestamp) {
        let learnt = self.rounds.learnt.entry(job.clone()).or_default();
        let state = checkpoint.state.iter().map(|level| i128::from(*level));
        if checkpoint.committed != learnt.rounds || !state.eq(learnt.state.iter().copied()) {
            let seen = format!("{job}: {checkpoint:?} is kept after {learnt:?}");
            self.fail(STATE, seen, now);
        }
    }
}
