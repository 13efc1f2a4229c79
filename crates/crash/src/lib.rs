//! Named points at which a test kills the process, as `kill -9` would: between deciding and persisting, between persisting and
//! acting, and wherever else a crash would be felt most.
//!
//! Release builds have none of this: there [`point`] is an empty function. In other builds `FIELDFARE_CRASH_AT=NAME:N` names the
//! N-th passage of a point, from 1, that the process does not survive.

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
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The point and its passage that are the last.
    static LAST: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    #[allow(
        clippy::disallowed_methods,
        reason = "tests tell a process where to die in this variable, and nothing else is told"
    )]
    fn last() -> Option<(String, u64)> {
        let text = std::env::var("FIELDFARE_CRASH_AT").ok()?;
        let (name, passage) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), passage.parse().unwrap_or(1)))
    }

    pub(super) fn reach(name: &'static str) {
        let known = [super::CONTROLLER, super::TRAINER, super::AGENT].concat();
        debug_assert!(known.contains(&name), "the point {name} is in none of the lists");
        let Some((planned, passage)) = LAST.get_or_init(last) else {
            return;
        };
        if planned == name && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *passage {
            die();
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
