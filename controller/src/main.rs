//! Starts the process: parses the command line, has it carried out, says what went wrong.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use fieldfare_controller::commands::carry_out;
use fieldfare_controller::config::CommandLine;

fn main() -> ExitCode {
    let command = CommandLine::parse().command;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    match runtime.block_on(carry_out(command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
    ExitCode::FAILURE
}
