//! `fieldfare` as its users see it: the real binary, and where it needs one, a real controller over TLS.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails like the test")]

mod audit;
mod binary;
mod contexts;
mod devices;
mod doctor;
mod gguf;
mod jobs;
mod plan;
mod releases;
mod rollouts;
mod rotation;
mod terminal;
mod tokens;
mod usage;
