//! The session of a device: opened again with jitter for as long as it takes, and told what is new.

use std::rc::Rc;
use std::time::Duration;

use super::{Device, Session};
use crate::ground::Ground;
use crate::message::{Doing, Up};

/// How long the controller may take to answer hello.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(15);

impl Device {
    pub(super) fn connect(&mut self, ground: &mut Ground) {
        let profile = if self.lies(ground) && ground.dice.chance(0.3) {
            Rc::new(self.impossible_profile(ground))
        } else {
            Rc::clone(&self.profile)
        };
        let (observed, ready) = (self.said(ground).map(Rc::new), self.ready());
        let Some(process) = &mut self.process else { return };
        let link = ground.connect(self.number);
        process.session = Session::Opening(link);
        process.told.clone_from(&observed);
        ground.up(
            self.number,
            link,
            Up::Hello {
                profile,
                observed,
                ready,
            },
        );
        self.plan(ground, WELCOME_TIMEOUT, Doing::WelcomeDue { link });
    }

    pub(super) fn miss_welcome(&mut self, ground: &mut Ground, link: u64) {
        if self
            .process
            .as_ref()
            .is_some_and(|process| process.session == Session::Opening(link))
        {
            self.lose_session(ground, link);
        }
    }

    /// The connection is broken, or the controller ended the session.
    pub(crate) fn lose_session(&mut self, ground: &mut Ground, link: u64) {
        let Some(process) = &mut self.process else { return };
        if !matches!(process.session, Session::Opening(own) | Session::Open(own) if own == link) {
            return;
        }
        process.session = Session::Down;
        ground.hang_up(self.number);
        let wait = process.backoff.failed(ground.dice.share());
        self.plan(ground, wait, Doing::Connect);
    }

    pub(super) fn welcome(&mut self, ground: &mut Ground, link: u64, fence: u64) {
        let Some(process) = &mut self.process else { return };
        if process.session != Session::Opening(link) {
            return;
        }
        ground.say(|| format!("device {} is in session {fence}", self.number));
        self.touched = true;
        process.session = Session::Open(link);
        process.backoff.succeeded();
        let wait = ground.setting.heartbeat;
        self.plan(ground, wait, Doing::Beat { link });
    }

    pub(super) fn beat(&mut self, ground: &mut Ground, link: u64) {
        if self
            .process
            .as_ref()
            .is_none_or(|process| process.session != Session::Open(link))
        {
            return;
        }
        ground.up(self.number, link, Up::Heartbeat(self.ready()));
        // Who lied until now has something new to say.
        self.touched |= self.liar;
        if self.lies(ground)
            && let Some(lie) = self.said(ground)
        {
            ground.up(self.number, link, Up::Observed(Rc::new(lie)));
        }
        let wait = ground.setting.heartbeat;
        self.plan(ground, wait, Doing::Beat { link });
    }

    /// Tells the controller what is new.
    pub(super) fn report(&mut self, ground: &mut Ground) {
        let Some(Session::Open(link)) = self.process.as_ref().map(|process| process.session) else {
            return;
        };
        if self.lies(ground) {
            return;
        }
        let Some(observed) = self.observation() else { return };
        let Some(process) = &mut self.process else { return };
        if process.told.as_deref() != Some(&observed) {
            let observed = Rc::new(observed);
            process.told = Some(Rc::clone(&observed));
            ground.up(self.number, link, Up::Observed(observed));
        }
    }
}
