//! Signed releases from outside: attacks by name, properties, and other people's verifiers.

// `allow-unwrap-in-tests` covers test functions, and not what they share.
#![allow(clippy::unwrap_used)]

mod attacks;
mod delegations;
mod fixture;
mod foreign;
mod manifests;
mod properties;
mod publishing;
mod roots;
mod signatures;
mod trust;
