//! `fieldfare`: the operator's command. A thin client of the controller's `Operator` service that keeps the operator's keys, and the
//! all-in-one `fieldfare quickstart`, which starts the sibling binaries.

pub mod args;
pub mod client;
pub mod clock;
pub mod commands;
pub mod context;
pub mod exit;
pub mod limits;
pub mod lines;
pub mod output;
pub mod quickstart;
pub mod signing;
