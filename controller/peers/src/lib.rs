//! A running controller and its peers, for tests: a real listener, real TLS, a real store (see [`TestStore`]), and devices, a
//! trainer and an operator that speak the real protocol. What a peer does beside speaking is as little as a test needs.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails like the test")]

pub mod device;
pub mod fleet;
pub mod release;
mod store;
pub mod trainer;

pub use fleet::{Enrolled, Fleet, PATIENCE, refusal, restore};
pub use store::TestStore;
