//! The control plane: enrolment, device sessions, the registry, rollouts, releases, job scheduling, artifacts.
//!
//! Every choice is made by `fieldfare-fleet` as a function of values; the modules here read the clock, the store and the network,
//! ask it, persist its answer, and only then act. State is in the store ([`records`], [`keys`]), its copy for reading in
//! [`mirror`]; what a heartbeat tells is in [`presence`] and in memory only. Who may call what is decided in [`access`].

pub mod access;
pub mod artifacts;
pub mod audit;
pub mod authority;
pub mod backup;
mod batch;
pub mod blobs;
pub mod clock;
pub mod commands;
pub mod config;
pub mod enrolment;
pub mod folder;
pub mod garbage;
pub mod gateway;
pub mod init;
pub mod jobs;
pub mod keys;
pub mod limits;
mod local;
pub mod metrics;
pub mod mirror;
pub mod named;
pub mod operator;
pub mod placement;
pub mod plane;
pub mod presence;
pub mod records;
pub mod refusal;
pub mod repository;
pub mod rollout;
pub mod schema;
pub mod server;
pub mod telemetry;
