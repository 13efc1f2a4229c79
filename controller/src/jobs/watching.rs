//! What a trainer is told of a round that is open: who of its cohort will not contribute.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fieldfare_fleet::{DeviceId, JobName, RoundId, Timestamp};
use fieldfare_proto::v1::{DeviceDropped, JobCancelled, RefusalReason, RoundEvent, round_event};
use futures_util::Stream;
use tokio::sync::watch;
use tonic::Status;

use super::claims::HeldClaim;
use crate::limits::{ROUND_SESSION_GRACE, TICK};
use crate::mirror::{Records, Topic};
use crate::plane::ControlPlane;
use crate::refusal::Refusal;

/// What a watch of a round has told.
struct Watching {
    plane: Arc<ControlPlane>,
    held: HeldClaim,
    round: RoundId,
    news: watch::Receiver<u64>,
    dropped: BTreeSet<DeviceId>,
    /// Devices without a session, since this watch first saw them so: after a restart of the controller, or of the trainer, every
    /// device has the whole grace to come back.
    away: BTreeMap<DeviceId, Timestamp>,
    over: bool,
}

/// Tells which devices of a cohort will not contribute, until the round is closed or the job cancelled.
pub(super) fn watch(
    plane: Arc<ControlPlane>,
    held: HeldClaim,
    round: RoundId,
) -> impl Stream<Item = Result<RoundEvent, Status>> + Send {
    let news = plane.mirror.subscribe(Topic::Rounds);
    let watching = Watching {
        plane,
        held,
        round,
        news,
        dropped: BTreeSet::new(),
        away: BTreeMap::new(),
        over: false,
    };
    futures_util::stream::try_unfold(watching, |mut watching| async move {
        while !watching.over {
            if let Some(event) = watching.next()? {
                return Ok(Some((event, watching)));
            }
            if watching.over {
                break;
            }
            tokio::select! {
                () = watching.plane.shutdown.cancelled() => return Err(Status::from(Refusal::ShuttingDown)),
                _ = watching.news.changed() => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
        Ok(None)
    })
}

impl Watching {
    fn next(&mut self) -> Result<Option<RoundEvent>, Refusal> {
        let plane = Arc::clone(&self.plane);
        let records = plane.mirror.read();
        self.held.is_current(&records)?;
        if records.jobs.get(&self.held.job).is_none_or(|job| job.cancelled) {
            self.over = true;
            return Ok(Some(RoundEvent {
                event: Some(round_event::Event::Cancelled(JobCancelled {})),
            }));
        }
        let Some(round) = records.rounds.get(&self.round) else {
            return Ok(None);
        };
        if round.record.closed {
            self.over = true;
            return Ok(None);
        }
        for device in &round.cohort {
            if self.dropped.contains(device) {
                continue;
            }
            if let Some((refusal, reason)) = why_lost(&plane, &records, &self.round, *device, &mut self.away) {
                self.dropped.insert(*device);
                let dropped = DeviceDropped {
                    device_id: device.to_string(),
                    reason,
                    refusal: refusal.into(),
                };
                return Ok(Some(RoundEvent {
                    event: Some(round_event::Event::Dropped(dropped)),
                }));
            }
        }
        Ok(None)
    }
}

fn why_lost(
    plane: &ControlPlane,
    records: &Records,
    round: &RoundId,
    device: DeviceId,
    away: &mut BTreeMap<DeviceId, Timestamp>,
) -> Option<(RefusalReason, String)> {
    if let Some(drop) = records.drops.get(round).and_then(|drops| drops.get(&device)) {
        return Some((drop.refusal(), words(drop.refusal()).to_owned()));
    }
    if crate::access::is_enrolled_in(device, records).is_err() {
        return Some((RefusalReason::Unspecified, "no longer enrolled".to_owned()));
    }
    if crate::gateway::is_connected(plane, records, device) {
        away.remove(&device);
        return None;
    }
    let now = plane.clock.now();
    let since = *away.entry(device).or_insert(now);
    (now.since(since) > ROUND_SESSION_GRACE).then(|| (RefusalReason::Unspecified, "session lost".to_owned()))
}

/// A refusal in words.
fn words(refusal: RefusalReason) -> &'static str {
    match refusal {
        RefusalReason::Unspecified => "no reason given",
        RefusalReason::NoConsent => "no consent",
        RefusalReason::NotIdle => "not idle",
        RefusalReason::TooLittleMemory => "too little memory",
        RefusalReason::BudgetSpent => "budget spent",
        RefusalReason::TooFewExamples => "too few examples",
        RefusalReason::BadTicket => "ticket refused",
        RefusalReason::BadConfiguration => "configuration refused",
        RefusalReason::WrongBase => "another release serves",
        RefusalReason::Busy => "busy",
        RefusalReason::Failed => "training or upload failed",
    }
}

/// What the devices of a job's last attempt answered instead of contributing, counted: `3 declined: budget spent`. Nothing where
/// none refused.
pub(super) fn declined(records: &Records, job: &JobName) -> String {
    let last = records.rounds.keys().rfind(|round| round.job == *job);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for drop in last
        .and_then(|round| records.drops.get(round))
        .into_iter()
        .flat_map(BTreeMap::values)
    {
        *counts.entry(words(drop.refusal())).or_default() += 1;
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(why, count)| format!("{count} declined: {why}"))
        .collect();
    counts.join(", ")
}
