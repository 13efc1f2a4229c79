//! Logs: text or JSON on standard error.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, Run};

/// Installs the process's subscriber.
///
/// # Errors
/// The filter cannot be read, or there is a subscriber already.
pub fn install(options: &Run) -> Result<()> {
    let filter = EnvFilter::try_new(&options.log).with_context(|| format!("--log {:?}", options.log))?;
    let is_json = options.log_format == LogFormat::Json;
    let colour = std::io::stderr().is_terminal();
    let text = (!is_json).then(|| {
        let text = tracing_subscriber::fmt::layer();
        text.with_writer(std::io::stderr).with_ansi(colour)
    });
    let json = is_json.then(|| tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr));
    Ok(tracing_subscriber::registry()
        .with(filter)
        .with(text)
        .with(json)
        .try_init()?)
}
