//! Imports models and runs federated rounds for a controller.
//!
//! A trainer claims one unit of work at a time and keeps its lease: an [`import`] or a federated [`job`]. Both go on from
//! their last checkpoint, whoever made it. Devices bring their contributions to the [`rounds`] service. [`farm`] and
//! [`pretrain`] make the small model and the data that the project ships.

pub mod artifacts;
pub mod clock;
pub mod compute;
pub mod config;
pub mod download;
pub mod enrolment;
pub mod evaluation;
pub mod examples;
pub mod failure;
pub mod farm;
pub mod farm_files;
pub mod folder;
pub mod gateway;
pub mod import;
pub mod job;
pub mod limits;
pub mod pretrain;
pub mod rounds;
pub mod serve;
pub mod telemetry;
pub mod work;
