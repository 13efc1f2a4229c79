//! A federated job: rounds, their cohorts, and what becomes of contributions.
//!
//! A round goes select, configure, collect, aggregate, evaluate, and is committed or abandoned; an abandoned round is
//! tried again with another cohort. The job machine holds the one round that is under way.

mod admission;
mod cohort;
mod eligibility;
mod event;
mod machine;
pub mod registry;
mod spec;
mod state;
mod tally;

pub use admission::{NotAdmitted, OpenAttempt};
pub use eligibility::{Activity, BudgetState, Connection, Consent, Ineligible, TrainingCandidate, TrainingNeeds};
pub use event::{AbandonCause, Action, Answer, Decline, Event, Refused, VariantEvaluation};
pub use spec::{EvaluationRule, JobSpec, JobSpecError};
pub use state::{CohortMember, JobFailure, JobPhase, JobState, RoundPhase};
pub use tally::{Tally, TurnedAway};

#[cfg(test)]
mod tests;
