//! Starts the process: parses the command line, logs, has the command carried out, says what went wrong.

use std::io::{IsTerminal, stderr};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use fieldfare_agent::args::Arguments;
use fieldfare_agent::commands::carry_out;
use fieldfare_agent::process;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    match log().and_then(|()| carry_out(Arguments::parse().command)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("fieldfare-agent: {}", process::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Logs on standard error, by the filter in `FIELDFARE_LOG`, in colour on a terminal alone.
fn log() -> anyhow::Result<()> {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var("FIELDFARE_LOG")
        .from_env()
        .context("FIELDFARE_LOG is no filter, such as info or fieldfare_agent=debug")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(stderr().is_terminal())
        .with_writer(stderr)
        .init();
    Ok(())
}
