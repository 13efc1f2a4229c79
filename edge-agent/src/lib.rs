//! The device: session, install, serve, train.

pub mod agent;
pub mod api;
pub mod args;
pub mod audit;
pub mod clock;
pub mod clock_proof;
pub mod commands;
pub mod config;
pub mod doctor;
pub mod enrolment;
pub mod folder;
pub mod install;
pub mod limits;
pub mod measure;
pub mod openai;
pub mod private;
pub mod process;
pub mod rounds;
pub mod serving;
pub mod session;
pub mod status;
