//! The rollout shell: gives the decider in `fieldfare-fleet` what devices report, persists what it decides, and tells sessions.

pub mod assign;
mod decision;
pub mod desired;
mod reports;
mod shell;
pub mod status;

pub use shell::Rollouts;

use fieldfare_fleet::rollout::RolloutState;
use fieldfare_proto::v1::RolloutRecord;

/// The decider's state in a record.
pub fn state_of(record: &RolloutRecord) -> Result<RolloutState, serde_json::Error> {
    serde_json::from_slice(&record.state)
}
