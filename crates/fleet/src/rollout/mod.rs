//! One release moving through a deployment in waves, each behind gates.
//!
//! What is kept ([`RolloutState`]) is small and knows no device: desired state is a function of it and of a device's
//! place in the order ([`RolloutState::target_for`]). What devices report lives in memory and is reported again after
//! a restart.

mod event;
mod explain;
mod gate;
mod machine;
mod policy;
mod population;
mod reading;
mod report;
mod state;
mod wave;

pub use event::{Action, Event, Milestone, Observation, Outcome, Progress, Refused, RollbackCause};
pub use explain::{Explanation, Hold, RolloutStatus};
pub use gate::{Bound, Evidence, Gate, GateReading, GateVerdict, Metric, MinimumEvidence, Sampled};
pub use machine::Rollout;
pub use policy::{DeadlineRule, PolicyError, RolloutPolicy, WaveSize};
pub use state::{Entry, Phase, RolloutStart, RolloutState, Target};
pub use wave::{Rank, Slot};

#[cfg(test)]
mod tests;
