//! What a fleet of real processes meets: a bad release, a broken network, a full disk, no memory. Each test has a fleet of its own,
//! and mostly waits.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on says where, and one that does says what it saw"
)]

mod bad_release;
mod full;
mod network;
