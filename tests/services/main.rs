//! Processes as their supervisor sees them: systemd's units, readiness, watchdog, and an end in time.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod notified;
mod stopped;
mod units;
