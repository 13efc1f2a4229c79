//! What the command prints: one view per thing, shown as a table to people and as JSON to programs.

mod progress;
mod table;

use std::io::{ErrorKind, Write};

use anyhow::{Context as _, Result};
use serde::Serialize;

pub use progress::Progress;
pub use table::{bytes, rate, since, table};

use crate::args::Format;

/// Prints one value: its fields as JSON, or what `text` makes of it.
///
/// # Errors
/// Standard output is closed.
pub fn show<T: Serialize>(format: Format, value: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
    let output = match format {
        Format::Json => serde_json::to_string_pretty(value).context("writing JSON")?,
        Format::Table => text(value),
    };
    line(output.trim_end())
}

/// Prints one line, or several, on standard output.
///
/// # Errors
/// Standard output is closed.
pub fn line(text: &str) -> Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        // Whoever reads, such as `head`, has enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("writing to standard output"),
    }
}

/// Says something to the person at the terminal, beside the result.
pub fn note(text: impl std::fmt::Display) {
    eprintln!("{text}");
}
