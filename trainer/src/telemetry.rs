//! Logs: text or JSON on standard error.

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
    let text = (!is_json).then(|| tracing_subscriber::fmt::layer().with_writer(std::io::stderr));
    let json = is_json.then(|| tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr));
    Ok(tracing_subscriber::registry()
        .with(filter)
        .with(text)
        .with(json)
        .try_init()?)
}
