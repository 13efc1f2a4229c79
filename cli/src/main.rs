//! `fieldfare`: the operator's command.

use std::process::ExitCode;

use clap::Parser;
use fieldfare_cli::args::CommandLine;
use fieldfare_cli::{commands, exit};

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let colour = line.global.colour();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(&anyhow::Error::from(error).context("starting the runtime"), colour),
    };
    match runtime.block_on(commands::run(line)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error, colour),
    }
}
