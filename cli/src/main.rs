//! `fieldfare`: the operator's command.

mod args;
mod client;
mod clock;
mod commands;
mod context;
mod exit;
mod limits;
mod output;
mod quickstart;
mod signing;

use std::process::ExitCode;

use clap::Parser;

use crate::args::CommandLine;
use crate::exit::Failure;

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let colour = line.global.colour();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(&anyhow::Error::from(error).context("starting the runtime"), colour),
    };
    match runtime.block_on(commands::run(line)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error, colour),
    }
}

/// A failure with an exit code of its own.
fn refused(reason: impl Into<String>) -> anyhow::Error {
    Failure::Refused(reason.into()).into()
}
