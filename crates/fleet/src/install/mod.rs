//! How a device gets from one release to another, and back: fetch, verify, stage, warm up, probe, switch, confirm.
//!
//! The release that serves goes on serving until the switch, and is kept afterwards to go back to. Everything that is
//! known is in [`InstallState`], which is kept before anything is done; after a power cut [`Event::Started`] takes up
//! any state again.

mod desired;
mod event;
mod machine;
mod recovery;
mod state;

pub use desired::is_overtaken;
pub use event::{Action, Event, Refused, StepFailure};
pub use state::{Assignment, Candidate, FailedRelease, InstallPolicy, InstallState, Installed, Stage};

#[cfg(test)]
mod tests;
