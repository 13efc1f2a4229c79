//! Federated rounds: an invitation is checked, trained for in a child, paid for, and only then contributed to.

use serde::Serialize;

/// What the owner sees of training.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RoundsView {
    /// Whether a round is under way.
    pub busy: bool,
    /// How the last invitation ended.
    pub last: Option<String>,
}
