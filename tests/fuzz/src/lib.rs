//! Hostile bytes for every parser of foreign bytes.
//!
//! A [`Target`] takes bytes, gives them to a parser, and panics where the parser breaks a promise: it panics itself, it accepts
//! what it does not write again in the same way, or it says one thing of a file and another of its beginning. [`run`] feeds a
//! target with valid inputs, with inputs that once broke something (`seeds/`), and with mutations of both; it also bounds the memory that a
//! target takes, by the length of the input.
//!
//! Nothing here measures coverage. An input with an outcome that was not seen before (which error, in which words) is kept and mutated
//! further, which leads the search behind the first check of a parser. The same targets run under `cargo fuzz`, which
//! does measure it: see `libfuzzer/`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a broken property of a test is told by a panic"
)]

pub mod dice;
mod keys;
pub mod memory;
mod mutate;
pub mod run;
pub mod sample;
pub mod targets;

/// The most that a target may allocate at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Bytes, whatever the input: tables, regular expressions, keys.
    pub base: usize,
    /// Bytes for each byte of the input.
    pub per_byte: usize,
}

/// A parser under attack.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its folder of seeds.
    pub name: &'static str,
    /// Valid inputs, made by the encoder where there is one.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Inputs with structure that chance would not find, from the dice.
    pub invent: Option<fn(&mut dice::Dice) -> Vec<u8>>,
    /// Takes one input; gives its outcome in words. Panics where a promise is broken.
    pub take: fn(&[u8]) -> String,
    /// What it may allocate.
    pub bound: Bound,
    /// Words of its format, for mutations.
    pub words: &'static [&'static [u8]],
    /// Inputs in one run of `./test`: what takes some seconds in a debug build.
    pub inputs: u64,
}
