//! How a device gets from one release to another, and back.

mod event;
mod state;

pub use event::{Action, Event, Refused, StepFailure};
pub use state::{Assignment, Candidate, FailedRelease, InstallPolicy, InstallState, Installed, Stage};
