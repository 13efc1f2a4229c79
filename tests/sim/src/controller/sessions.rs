//! Sessions of devices: a newer one takes the place of an older one, and silence ends them.

use std::collections::BTreeSet;
use std::rc::Rc;

use fieldfare_fleet::rollout::Observation;
use fieldfare_fleet::{CapabilityProfile, DeviceId, ProfileClass, TrustTier};

use super::{Controller, Enrolled, Sign};
use crate::ground::Ground;
use crate::message::{Down, Readiness};

impl Controller {
    pub(super) fn welcome(
        &mut self,
        ground: &mut Ground,
        (device, id): (u32, DeviceId),
        link: u64,
        profile: &CapabilityProfile,
        (observed, ready): (Option<Rc<Observation>>, Readiness),
    ) {
        let Some(process) = &self.process else { return };
        if process.signs[device as usize]
            .as_ref()
            .is_some_and(|sign| sign.link == link)
        {
            return;
        }
        if let Err(error) = profile.validate() {
            ground.say(|| format!("device {device} is refused: {error}"));
            return ground.down(device, link, Down::Refused);
        }
        let class = ProfileClass::of(profile, TrustTier::Unattested);
        let now = ground.now;
        let enrolled = self.store.devices[device as usize].get_or_insert_with(|| Enrolled {
            id,
            class: class.clone(),
            joined_at: now,
            fence: 0,
            observed: None,
        });
        enrolled.class = class;
        enrolled.fence += 1;
        let is_first = enrolled.fence == 1;
        let (fence, joined_at) = (enrolled.fence, enrolled.joined_at);
        if let Some(observed) = &observed {
            enrolled.observed = Some(Rc::clone(observed));
        }
        ground.checks.enrols(device, id, joined_at);
        // A large fleet opens so many sessions that the controller would never get further.
        let rarely = ground.dice.below(u64::from(ground.setting.devices)) == 0;
        if rarely && self.dies(ground) {
            return;
        }
        let Some(process) = &mut self.process else { return };
        process.version += u64::from(is_first);
        let sign = Sign {
            link,
            open: true,
            last_heard: now,
            observed,
            sent: None,
            seen: 0,
            ready,
            invited: BTreeSet::new(),
        };
        if let Some(before) = process.signs[device as usize]
            .replace(sign)
            .filter(|before| before.open)
        {
            ground.down(device, before.link, Down::Refused);
            ground.drop_link(device, before.link);
        }
        process.news[device as usize] = true;
        ground.down(device, link, Down::Welcome { fence });
        self.tell_one(ground, device);
        self.invite(ground, device);
    }

    /// A message came. False when its session is not the newest one any more.
    pub(super) fn heard(&mut self, ground: &mut Ground, device: u32, link: u64, ready: Option<Readiness>) -> bool {
        let Some(process) = &mut self.process else { return false };
        match process.session(device, link) {
            Some(sign) => {
                sign.last_heard = ground.now;
                sign.ready = ready.unwrap_or(sign.ready);
                process.news[device as usize] = true;
                true
            }
            None => {
                ground.down(device, link, Down::Refused);
                ground.drop_link(device, link);
                false
            }
        }
    }

    /// Keeps what a device says of itself.
    pub(super) fn note(&mut self, device: u32, observation: Rc<Observation>) {
        if let Some(sign) = self
            .process
            .as_mut()
            .and_then(|process| process.signs[device as usize].as_mut())
        {
            sign.observed = Some(Rc::clone(&observation));
        }
        if let Some(enrolled) = &mut self.store.devices[device as usize] {
            enrolled.observed = Some(observation);
        }
    }

    /// The connection of a session is broken.
    pub(crate) fn lose_session(&mut self, device: u32, link: u64) {
        if let Some(sign) = self.process.as_mut().and_then(|process| process.session(device, link)) {
            sign.open = false;
        }
    }

    pub(super) fn end_silent_sessions(&mut self, ground: &mut Ground) {
        let (now, silence) = (ground.now, ground.setting.heartbeat.mul_f64(3.5));
        let Some(process) = &mut self.process else { return };
        for (device, sign) in (0..).zip(&mut process.signs) {
            if let Some(sign) = sign
                && sign.open
                && now.since(sign.last_heard) > silence
            {
                sign.open = false;
                ground.drop_link(device, sign.link);
            }
        }
    }

    /// Sends desired state to every session that has another one.
    pub(super) fn tell_all(&mut self, ground: &mut Ground) {
        let Some(process) = &self.process else { return };
        let version = process.version;
        let is_open = |sign: &Option<Sign>| sign.as_ref().is_some_and(|sign| sign.open && sign.seen < version);
        let open: Vec<u32> = (0..)
            .zip(&process.signs)
            .filter(|(_, sign)| is_open(sign))
            .map(|(n, _)| n)
            .collect();
        for device in open {
            self.tell_one(ground, device);
        }
    }

    fn tell_one(&mut self, ground: &mut Ground, device: u32) {
        let version = self.process.as_ref().map_or(0, |process| process.version);
        let Some(desired) = self.desired(device) else { return };
        let Some(sign) = self
            .process
            .as_mut()
            .and_then(|process| process.signs[device as usize].as_mut())
        else {
            return;
        };
        sign.seen = version;
        let same = sign
            .sent
            .as_ref()
            .is_some_and(|sent| Rc::ptr_eq(sent, &desired) || *sent == desired);
        if !same {
            sign.sent = Some(Rc::clone(&desired));
            ground.checks.tells(device, &desired, ground.now);
            ground.down(device, sign.link, Down::Desired(desired));
        }
    }
}
