//! Federated rounds: an invitation is checked, trained for in a child, paid for, and only then contributed to.

mod child;
mod exchange;
mod participant;
mod plan;
mod readiness;
mod refusal;
mod training;

pub use child::{Order, Said, train as train_child};
pub use exchange::{Configured, ExchangeError, Trainer};
pub use participant::{Participant, RoundsView};
pub use plan::{PlanError, RoundPlan, Training};
pub use readiness::Readiness;
pub use refusal::{Refusal, told};
pub use training::{TrainingError, train};
