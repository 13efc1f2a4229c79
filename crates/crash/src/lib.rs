//! Named points at which a test kills the process, as `kill -9` would: between deciding and persisting, between persisting and
//! acting, and wherever else a crash would be felt most.
//!
//! Release builds have none of this: there [`point`] is an empty function. In other builds a process does not survive
//!
//! - the N-th passage of a point, from 1, with `FIELDFARE_CRASH_AT=NAME:N`;
//! - the N-th passage since a test wrote `NUMBER NAME:N NUMBER` to the file `FIELDFARE_CRASH_PLAN`, where a new number is a new plan.
//!
//! Every passage is a line with the point's name in the file `FIELDFARE_CRASH_TRACE`, where that is given.

/// Points of the controller.
pub const CONTROLLER: &[&str] = &[
    "controller.commit.before",
    "controller.commit.after",
    "controller.rollout.decided",
    "controller.rollout.persisted",
    "controller.repository.file-written",
    "controller.repository.written",
    "controller.round.picked",
    "controller.round.accepted-set-written",
];

/// Points of the trainer.
pub const TRAINER: &[&str] = &[
    "trainer.attempt.opened",
    "trainer.attempt.configured",
    "trainer.contribution.stored",
    "trainer.contribution.decided",
    "trainer.round.summed",
    "trainer.round.stored",
    "trainer.round.closed",
    "trainer.release.signed",
    "trainer.release.published",
];

/// Points of the agent.
pub const AGENT: &[&str] = &[
    "agent.install.decided",
    "agent.install.persisted",
    "agent.install.artifact-fetched",
    "agent.install.switched",
    "agent.trust.persisted",
    "agent.round.trained",
    "agent.round.paid",
    "agent.round.uploaded",
    "agent.round.acknowledged",
];

/// A point that has been reached.
#[inline]
pub fn point(name: &'static str) {
    #[cfg(debug_assertions)]
    armed::reach(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod armed {
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::{Mutex, OnceLock, PoisonError};

    /// What the environment says.
    struct Told {
        /// The point and its passage that are the last.
        last: Option<(String, u64)>,
        plan: Option<PathBuf>,
        trace: Option<PathBuf>,
    }

    static TOLD: OnceLock<Told> = OnceLock::new();
    /// The number of the plan that is under way, zero for that of the environment, and passages of its point.
    static PASSED: Mutex<(u64, u64)> = Mutex::new((0, 0));

    fn passage(text: &str) -> Option<(String, u64)> {
        let (name, passage) = text.split_once(':').unwrap_or((text, "1"));
        Some((name.to_owned(), passage.parse().ok()?))
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "tests tell a process where to die in these variables, and nothing else is told"
    )]
    fn told() -> Told {
        Told {
            last: std::env::var("FIELDFARE_CRASH_AT").ok().as_deref().and_then(passage),
            plan: std::env::var_os("FIELDFARE_CRASH_PLAN").map(Into::into),
            trace: std::env::var_os("FIELDFARE_CRASH_TRACE").map(Into::into),
        }
    }

    impl Told {
        /// The plan of now: its number, the point and the passage.
        fn plan(&self) -> Option<(u64, String, u64)> {
            let Some(file) = &self.plan else {
                return self.last.clone().map(|(name, passage)| (0, name, passage));
            };
            let text = std::fs::read_to_string(file).ok()?;
            let mut words = text.split_whitespace();
            let (number, plan, again) = (words.next()?, words.next()?, words.next()?);
            // A plan that is just being written has another number at its end.
            let (name, passage) = passage(plan).filter(|_| number == again)?;
            Some((number.parse().ok()?, name, passage))
        }

        fn trace(&self, name: &str) {
            let file = self.trace.as_ref();
            let file = file.and_then(|path| std::fs::File::options().append(true).create(true).open(path).ok());
            if let Some(mut file) = file {
                // Whoever looks at it sees that a line is missing.
                let _ = file.write_all(format!("{name}\n").as_bytes());
            }
        }
    }

    pub(super) fn reach(name: &'static str) {
        let known = [super::CONTROLLER, super::TRAINER, super::AGENT].concat();
        debug_assert!(known.contains(&name), "the point {name} is in none of the lists");
        let told = TOLD.get_or_init(told);
        told.trace(name);
        let Some((number, planned, last)) = told.plan() else {
            return;
        };
        let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
        if passed.0 != number {
            *passed = (number, 0);
        }
        if planned == name {
            passed.1 += 1;
            if passed.1 == last {
                die();
            }
        }
    }

    /// Dies without a word, as by `kill -9`: no destructor runs, no buffer is flushed.
    fn die() -> ! {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_given_once() {
        let all = [super::CONTROLLER, super::TRAINER, super::AGENT].concat();
        let once: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(once.len(), all.len());
    }
}
