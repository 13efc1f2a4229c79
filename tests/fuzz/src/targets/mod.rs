//! The parsers of foreign bytes, one module each.

mod adapter;
mod audit;
mod contribution;
mod examples;
pub(crate) mod gguf;
pub(crate) mod manifest;
mod messages;
pub(crate) mod metadata;
mod tokenizer;

use crate::Target;

/// All of them.
pub const TARGETS: &[Target] = &[
    gguf::TARGET,
    tokenizer::TARGET,
    adapter::TARGET,
    metadata::TARGET,
    metadata::SIGNED,
    manifest::TARGET,
    messages::TARGET,
    contribution::TARGET,
    examples::TARGET,
    audit::TARGET,
];

/// The target of this name.
///
/// # Panics
/// There is none.
pub fn target(name: &str) -> &'static Target {
    TARGETS
        .iter()
        .find(|target| target.name == name)
        .unwrap_or_else(|| panic!("no target {name}"))
}

/// The outcome of something that failed, in words.
fn failed(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        words = format!("{words}: {error}");
        source = error.source();
    }
    words
}
