//! What every process with a credential of the fleet does alike: it joins, and keeps its certificate current.
//!
//! What is told in an application, and what is kept, is the business of the agent, the trainer and the operator's command.
//! Round tickets are judged here as well, because both ends of a round do it alike; and the two doctors tell what they find in one form.

pub mod diagnosis;
pub mod enrolment;
pub mod limits;
pub mod patience;
pub mod ticket;
