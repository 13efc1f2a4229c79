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
use fieldfare_proto::{ConversionError, OptionExt};

/// The decider's state in a record.
///
/// # Errors
/// [`ConversionError`] names what is missing or out of range.
pub fn state_of(record: &RolloutRecord) -> Result<RolloutState, ConversionError> {
    record.state.clone().required("state")?.try_into()
}
