//! What a process that runs for long owes its supervisor, be it systemd, Kubernetes or a terminal: it says when it is ready, shows
//! that it is alive, says what went wrong, and ends within a known time of being told to.

mod causes;
pub mod limits;

use std::io::{self, Write};
use std::process::exit;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use crate::causes::chain;
use crate::limits::STOP_DEADLINE;

/// What a process exits with when it was ended by force: past [`STOP_DEADLINE`], or at a second signal.
pub const FORCED: i32 = 3;

/// The process, as its supervisor sees it.
///
/// Supervisors are told by the protocol of sd_notify(3), where `NOTIFY_SOCKET` is set.
#[derive(Debug)]
pub struct Service {
    stop: CancellationToken,
    _watchdog: DropGuard,
}

impl Service {
    /// Allows the process as many open files as the system lets it have. From now on SIGTERM and SIGINT ask the process to stop. The first cancels [`Service::stop`]; then it has [`STOP_DEADLINE`]. A
    /// second one ends it at once. Runs tasks on the runtime of the caller.
    ///
    /// # Errors
    /// The system refuses to hand signals over.
    pub fn start() -> io::Result<Self> {
        if let Err(error) = take_all_descriptors() {
            tracing::warn!(%error, "the bound on open files stays where it was");
        }
        let stop = CancellationToken::new();
        let signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::spawn(watch_signals(signals, stop.clone()));
        let alive = CancellationToken::new();
        if let Some(period) = sd_notify::watchdog_enabled() {
            tokio::spawn(feed_watchdog(period / 2, alive.clone()));
        }
        Ok(Self {
            stop,
            _watchdog: alive.drop_guard(),
        })
    }

    /// Cancelled when the process is asked to stop.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Says that the process is ready: in a line on standard output, and to the supervisor.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn ready(&self, line: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()?;
        tell(&[NotifyState::Ready, NotifyState::Status(line)]);
        Ok(())
    }
}

/// The soft bound is 1,024 nearly everywhere, for programs that use select(2), which ours do not: connections alone may be more.
fn take_all_descriptors() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current, maximum })?)
}

async fn watch_signals((mut terminate, mut interrupt): (Signal, Signal), stop: CancellationToken) {
    either(&mut terminate, &mut interrupt).await;
    tracing::info!("told to stop");
    tell(&[NotifyState::Stopping]);
    // A thread, since the runtime may be what does not end.
    let deadline = thread::Builder::new().name("stop-deadline".to_owned()).spawn(|| {
        thread::sleep(STOP_DEADLINE);
        tracing::error!(deadline = ?STOP_DEADLINE, "not everything ended in time; ending by force");
        exit(FORCED)
    });
    if let Err(error) = deadline {
        tracing::warn!(%error, "no thread for the deadline");
    }
    stop.cancel();
    either(&mut terminate, &mut interrupt).await;
    tracing::warn!("told to stop a second time; ending by force");
    exit(FORCED)
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Shows that the runtime still runs its tasks. A supervisor that hears nothing for two periods starts the process anew.
async fn feed_watchdog(period: Duration, alive: CancellationToken) {
    let mut ticks = tokio::time::interval(period);
    while alive.run_until_cancelled(ticks.tick()).await.is_some() {
        tell(&[NotifyState::Watchdog]);
    }
}

/// A supervisor that does not listen is no reason to stop.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "NOTIFY_SOCKET does not take what is said");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails like this")]

    use super::*;

    #[test]
    fn a_service_may_open_as_many_files_as_the_system_lets_it() {
        let before = getrlimit(Resource::Nofile);
        let current = before.maximum.map_or(Some(1024), |most| Some(most.min(1024)));
        setrlimit(Resource::Nofile, Rlimit { current, ..before }).unwrap();
        take_all_descriptors().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
        setrlimit(Resource::Nofile, before).unwrap();
    }
}
