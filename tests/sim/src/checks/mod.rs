//! Whoever watches a life. A checker knows what an outside observer would: what was sent and heard, what serves, what lies on
//! disks, and what the store's records say; never the memory of a decider. Each looks at what a step has changed, so that it can
//! look after every step.

mod devices;
mod rounds;
mod waves;

use fieldfare_fleet::Timestamp;

use crate::setting::{BEGINNING, Setting};
use devices::Watched;
use rounds::Rounds;
use waves::Waves;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The promise.
    pub promise: &'static str,
    /// What was seen.
    pub seen: String,
    /// Milliseconds from the beginning of the life.
    pub after_ms: u64,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.after_ms as f64 / 1000.0;
        write!(
            f,
            "after {seconds:.3} s the promise \"{}\" is broken: {}",
            self.promise, self.seen
        )
    }
}

#[derive(Debug)]
pub(crate) struct Checks {
    broken: Option<Broken>,
    devices: Vec<Watched>,
    waves: Waves,
    rounds: Rounds,
    max_crashes: u32,
}

impl Checks {
    pub(crate) fn new(setting: &Setting) -> Self {
        Self {
            broken: None,
            devices: vec![Watched::default(); setting.devices as usize],
            waves: Waves::new(setting.devices),
            rounds: Rounds::default(),
            max_crashes: setting.install.max_crashes,
        }
    }

    /// The first promise that was broken.
    pub(crate) const fn broken(&self) -> Option<&Broken> {
        self.broken.as_ref()
    }

    pub(crate) fn fail(&mut self, promise: &'static str, seen: impl Into<String>, now: Timestamp) {
        if self.broken.is_none() {
            self.broken = Some(Broken {
                promise,
                seen: seen.into(),
                after_ms: u64::try_from(now.since(BEGINNING).as_millis()).unwrap_or(u64::MAX),
            });
        }
    }
}
