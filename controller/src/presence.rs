//! Who is connected to this process: heartbeats and readiness, in memory only.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fieldfare_fleet::{DeviceId, Timestamp, TrainerName};
use fieldfare_proto::v1::{ObservedState, TrainingReadiness};
use tokio::sync::watch;

/// What is known of a device beyond its records.
#[derive(Clone, Debug, Default)]
pub struct Sign {
    /// The newest session here.
    pub fence: u64,
    /// Whether that session is open.
    pub connected: bool,
    /// When its last message came.
    pub last_heard: Timestamp,
    /// How much its clock was ahead when it last told the time, in milliseconds.
    pub clock_ahead_ms: Option<i64>,
    /// Whether it could take part in a round, as it last said.
    pub readiness: TrainingReadiness,
    /// What it last observed of itself, with the figures that are not worth a write.
    pub observed: Option<ObservedState>,
}

/// For what sessions of a device were ended or refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The last reason.
    pub reason: String,
    /// When that was.
    pub at: Timestamp,
    /// How often there was one.
    pub times: u32,
}

/// The signs of life of devices and trainers that this process sees.
#[derive(Debug, Default)]
pub struct Presence {
    devices: Mutex<BTreeMap<DeviceId, Sign>>,
    /// At most one of each enrolled device.
    refused: Mutex<BTreeMap<DeviceId, Refused>>,
    trainers: Mutex<BTreeMap<TrainerName, (Timestamp, u32)>>,
    changed: watch::Sender<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Presence {
    /// A session opened. A newer one of the same device takes its place.
    pub fn opened(&self, device: DeviceId, fence: u64, now: Timestamp) {
        lock(&self.devices).insert(
            device,
            Sign {
                fence,
                connected: true,
                last_heard: now,
                ..Sign::default()
            },
        );
        self.changed.send_modify(|count| *count += 1);
    }

    /// A message came. False when the session is not the newest one any more.
    pub fn heard(&self, device: DeviceId, fence: u64, now: Timestamp, readiness: Option<TrainingReadiness>) -> bool {
        match lock(&self.devices).get_mut(&device) {
            Some(sign) if sign.fence == fence => {
                sign.last_heard = now;
                if let Some(readiness) = readiness {
                    sign.readiness = readiness;
                }
                true
            }
            _ => false,
        }
    }

    /// A device told the time by its own clock, on the session that is the newest one.
    pub fn told_time(&self, device: DeviceId, fence: u64, now: Timestamp, sent_unix_ms: i64) {
        let now = i64::try_from(now.unix_ms()).unwrap_or(i64::MAX);
        if let Some(sign) = lock(&self.devices).get_mut(&device).filter(|sign| sign.fence == fence) {
            sign.clock_ahead_ms = Some(sent_unix_ms.saturating_sub(now));
        }
    }

    /// Connected devices whose clock is off by at least this much, the worst first.
    pub fn clocks_off_by(&self, least_ms: u64) -> Vec<(DeviceId, i64)> {
        let devices = lock(&self.devices);
        let connected = devices.iter().filter(|(_, sign)| sign.connected);
        let mut off: Vec<(DeviceId, i64)> = connected
            .filter_map(|(id, sign)| Some((*id, sign.clock_ahead_ms?)))
            .filter(|(_, ahead)| ahead.unsigned_abs() >= least_ms)
            .collect();
        off.sort_by_key(|(id, ahead)| (std::cmp::Reverse(ahead.unsigned_abs()), *id));
        off
    }

    /// A report came on the session that is the newest one.
    pub fn observed(&self, device: DeviceId, fence: u64, state: ObservedState) {
        if let Some(sign) = lock(&self.devices).get_mut(&device).filter(|sign| sign.fence == fence) {
            sign.observed = Some(state);
        }
        self.changed.send_modify(|count| *count += 1);
    }

    /// A session ended; that of an older fence says nothing.
    pub fn closed(&self, device: DeviceId, fence: u64) {
        if let Some(sign) = lock(&self.devices).get_mut(&device).filter(|sign| sign.fence == fence) {
            sign.connected = false;
        }
        self.changed.send_modify(|count| *count += 1);
    }

    /// A session of a device was ended or refused by the device's own doing.
    pub fn refused(&self, device: DeviceId, reason: String, now: Timestamp) {
        let mut refused = lock(&self.refused);
        let times = refused.get(&device).map_or(1, |before| before.times.saturating_add(1));
        let at = now;
        refused.insert(device, Refused { reason, at, times });
    }

    /// For what sessions of a device were ended or refused here; nothing where they were not.
    pub fn refusal_of(&self, device: DeviceId) -> Option<Refused> {
        lock(&self.refused).get(&device).cloned()
    }

    /// Whether this session is the newest one of its device here.
    pub fn is_current(&self, device: DeviceId, fence: u64) -> bool {
        lock(&self.devices).get(&device).is_some_and(|sign| sign.fence == fence)
    }

    /// The sign of life of a device; nothing when it was never connected here.
    pub fn of(&self, device: DeviceId) -> Option<Sign> {
        lock(&self.devices).get(&device).cloned()
    }

    /// Open sessions.
    pub fn connected(&self) -> usize {
        lock(&self.devices).values().filter(|sign| sign.connected).count()
    }

    /// Follows sessions that open and close.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A trainer's watch began.
    pub fn trainer_came(&self, name: &TrainerName, now: Timestamp) {
        let mut trainers = lock(&self.trainers);
        let (heard, watches) = trainers.entry(name.clone()).or_default();
        (*heard, *watches) = (now, *watches + 1);
    }

    /// A trainer called.
    pub fn trainer_heard(&self, name: &TrainerName, now: Timestamp) {
        lock(&self.trainers).entry(name.clone()).or_default().0 = now;
    }

    /// A trainer's watch ended.
    pub fn trainer_left(&self, name: &TrainerName) {
        if let Some((_, watches)) = lock(&self.trainers).get_mut(name) {
            *watches = watches.saturating_sub(1);
        }
    }

    /// When a trainer was last heard from, and whether it watches for work.
    pub fn trainer(&self, name: &TrainerName) -> Option<(Timestamp, bool)> {
        lock(&self.trainers)
            .get(name)
            .map(|(heard, watches)| (*heard, *watches > 0))
    }
}
