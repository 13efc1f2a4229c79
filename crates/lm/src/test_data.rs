//! Where tests find real models and texts.

use std::path::PathBuf;

/// A file of the test data, or `None`, with a word why, where there are none. With `CI=true` missing data are a failure.
#[allow(clippy::disallowed_methods, reason = "tests are configured by the environment")]
pub(crate) fn find(path: &str) -> Option<PathBuf> {
    let folder = std::env::var("FIELDFARE_TEST_DATA").map_or_else(
        |_| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")),
        PathBuf::from,
    );
    let file = folder.join(path);
    if file.exists() {
        return Some(file);
    }
    assert_ne!(
        std::env::var("CI").as_deref(),
        Ok("true"),
        "test data are missing: {}",
        file.display()
    );
    println!("skipped: {} is missing", file.display());
    None
}

/// stories260K in F32.
pub(crate) const STORIES: &str = "models/stories260K/stories260K-f32.gguf";
