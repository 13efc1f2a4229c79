//! What a device is told, what it hears, and what serves on it.

use std::rc::Rc;

use fieldfare_fleet::install::Installed;
use fieldfare_fleet::rollout::{Entry, Progress};
use fieldfare_fleet::{Generation, Timestamp};

use super::Checks;
use crate::device::{Bytes, Device};
use crate::message::Desired;

const GENERATIONS: &str = "generations only grow";
const HISTORY: &str =
    "a device never runs a release that desired state has not given it since it woke, or has withdrawn";
const RUNNABLE: &str = "a crash leaves a runnable release";

/// What is seen of one device.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched {
    /// What the controller told it last.
    told: Option<Rc<Desired>>,
    /// The newest assignment that it has heard of since it started.
    heard: Option<Rc<Desired>>,
    /// What serves, or served last; and what the disk keeps to go back to.
    serves: Option<Installed>,
    kept_back: Option<Installed>,
    /// Everything that was given and served.
    ran: Vec<Installed>,
    is_serving: bool,
    /// How often what serves ended, and how often the agent started, since it serves.
    ends: u32,
    /// Whether it has ever had a confirmed release.
    settled: bool,
    /// Whether its disk was tampered with.
    damaged: bool,
}

fn assignment(desired: &Desired) -> Option<Generation> {
    desired.entry.as_ref().map(|entry| entry.assignment)
}

impl Checks {
    /// The controller sends desired state to a device.
    pub(crate) fn tells(&mut self, device: u32, desired: &Rc<Desired>, now: Timestamp) {
        let watched = &mut self.devices[device as usize];
        let Some(before) = watched.told.replace(Rc::clone(desired)) else {
            return;
        };
        let seen = |what: &str| format!("device {device} is told {desired:?} after {before:?}: {what}");
        if desired.generation < before.generation {
            return self.fail(GENERATIONS, seen("an older generation"), now);
        }
        let (Some(old), Some(new)) = (&before.entry, &desired.entry) else {
            return;
        };
        let release = |entry: &Entry<_>| entry.named.as_ref().map(|(release, _)| release.clone());
        if new.assignment < old.assignment {
            self.fail(GENERATIONS, seen("an older assignment"), now);
        } else if release(new) != release(old) && new.assignment == old.assignment {
            self.fail(GENERATIONS, seen("another release under the same assignment"), now);
        }
    }

    /// A device hears desired state.
    pub(crate) fn hears(&mut self, device: u32, desired: &Rc<Desired>) {
        let watched = &mut self.devices[device as usize];
        let newest = watched.heard.as_deref().and_then(assignment);
        if assignment(desired) >= newest {
            watched.heard = Some(Rc::clone(desired));
        }
    }

    /// An agent starts.
    pub(crate) fn boots(&mut self, device: &Device) {
        let watched = &mut self.devices[device.number as usize];
        watched.heard = None;
        watched.ends += 1;
    }

    /// Somebody changes bytes on the disk of a device.
    pub(crate) fn damages(&mut self, device: u32) {
        self.devices[device as usize].damaged = true;
    }

    /// Looks at a device after a step of it.
    pub(crate) fn serves(&mut self, device: &Device, now: Timestamp) {
        self.check_disk(device, now);
        let watched = &mut self.devices[device.number as usize];
        let is_serving = device.serving().is_some();
        if std::mem::replace(&mut watched.is_serving, is_serving) && !is_serving {
            watched.ends += 1;
        }
        let install = &device.disk.kept.install;
        let kept_back = std::mem::replace(&mut watched.kept_back, install.previous.clone());
        let Some(serving) = &install.active else { return };
        let is_it = |other: &Installed| other.same_bytes(serving);
        if watched.serves.as_ref().is_some_and(is_it) {
            return;
        }
        let before = watched.serves.replace(serving.clone());
        let crashed = std::mem::take(&mut watched.ends) >= self.max_crashes;
        let goes_back = kept_back.as_ref().is_some_and(is_it) && watched.ran.iter().any(is_it);
        let entry = watched.heard.as_ref().and_then(|heard| heard.entry.as_ref());
        let given = entry.and_then(|entry| entry.named.as_ref());
        if given.is_some_and(|(release, variant)| (release, variant) == (&serving.release, &serving.variant)) {
            watched.ran.push(serving.clone());
        } else if !(goes_back && crashed) {
            let (number, heard) = (device.number, &watched.heard);
            let seen =
                format!("device {number} switches from {before:?} to {serving:?}; since it woke it heard {heard:?}");
            self.fail(HISTORY, seen, now);
        }
    }

    fn check_disk(&mut self, device: &Device, now: Timestamp) {
        let install = &device.disk.kept.install;
        let watched = &mut self.devices[device.number as usize];
        let has = |installed: &Installed| device.disk.shelf.bytes(installed) == Some(Bytes::Whole);
        let serving = device.serving();
        if serving.is_some()
            && !serving
                .zip(install.active.as_ref())
                .is_some_and(|(a, b)| a.same_bytes(b))
        {
            let seen = format!(
                "device {} serves {serving:?}, and keeps that it serves {:?}",
                device.number, install.active
            );
            return self.fail(RUNNABLE, seen, now);
        }
        if watched.damaged {
            return;
        }
        if let Some(gone) = [&install.active, &install.previous]
            .into_iter()
            .flatten()
            .find(|kept| !has(kept))
        {
            let seen = format!("device {} keeps {gone:?}, and its bytes are gone", device.number);
            return self.fail(RUNNABLE, seen, now);
        }
        if install.active.is_some() && install.progress() == Progress::Converged {
            watched.settled = true;
        }
        let withdrawn = install.active.is_none() && install.progress() == Progress::Converged;
        if watched.settled && install.active.is_none() && !withdrawn {
            let seen = format!(
                "device {} had a confirmed release, and now has none: {install:?}",
                device.number
            );
            self.fail(RUNNABLE, seen, now);
        } else if withdrawn {
            watched.settled = false;
        }
    }
}
