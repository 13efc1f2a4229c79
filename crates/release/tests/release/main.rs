//! Signed releases from outside: attacks by name, properties, and other people's verifiers.

mod attacks;
mod delegations;
mod fixture;
mod foreign;
mod manifests;
mod properties;
mod publishing;
mod trust;
