//! The controller as its peers see it: a real listener, real TLS, a real store in a temporary folder, real clients.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails like the test")]

mod artifacts;
mod attempts;
mod audit;
mod authority;
mod backup;
mod claims;
mod commands;
mod compatibility;
mod decisions;
mod enrolment;
mod garbage;
mod hostile;
mod jobs;
mod lies;
mod plain;
mod publication;
mod rollouts;
mod schema;
mod services;
mod sessions;
mod speed;
mod stores;
mod telemetry;
mod watches;
