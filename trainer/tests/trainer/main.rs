//! The trainer against real TLS, a controller that speaks the real protocol, and peers that lie.
#![allow(clippy::unwrap_used, reason = "a fixture that fails fails its test")]

mod controller;
mod devices;
mod fleet;
mod hub;
mod import;
mod job;
mod liars;
mod rounds;
