//! Starts the process.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use fieldfare_service::Service;
use fieldfare_service::limits::DRAIN_TIMEOUT;
use fieldfare_trainer::config::{Command, CommandLine, Run};
use fieldfare_trainer::{clock, enrolment, serve, telemetry};
use tokio::runtime::{Builder, Runtime};

fn main() -> ExitCode {
    let command = CommandLine::parse().command;
    let done = runtime().and_then(|runtime| {
        let done = runtime.block_on(execute(command));
        // A computation that nobody waits for any more ends at its next check.
        runtime.shutdown_timeout(DRAIN_TIMEOUT);
        done
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "fieldfare-trainer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime does not start")
}

async fn execute(command: Command) -> Result<()> {
    match command {
        Command::Enrol(options) => {
            let identity = enrolment::enrol(&options, &clock::system()).await?;
            say(format_args!("enrolled {}", identity.principal()))
        }
        Command::Run(options) => run(&options).await,
        Command::Pretrain(options) => options.execute(&mut std::io::stdout()),
        Command::Farm(options) => options.execute(),
    }
}

async fn run(options: &Run) -> Result<()> {
    telemetry::install(options)?;
    let service = Service::start()?;
    let server = tokio::select! {
        started = serve::Server::start(options, clock::system()) => started?,
        () = service.stop().cancelled() => return Ok(()),
    };
    service.ready(&format!("ready rounds={}", server.endpoint()))?;
    server.run_until(service.stop().cancelled()).await;
    Ok(())
}

fn say(line: std::fmt::Arguments<'_>) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("standard output is closed")
}
