//! Starts the process: parses, runs until a signal, drains.

use std::io::{BufReader, IsTerminal, Write, stderr, stdin, stdout};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use fieldfare_agent::agent::Agent;
use fieldfare_agent::args::{Arguments, Command, Output, Run, Status};
use fieldfare_agent::doctor;
use fieldfare_agent::folder::Folder;
use fieldfare_agent::process::{self, Binary, Task};
use fieldfare_agent::{clock, enrolment, measure, rounds, serving, status};
use fieldfare_member::diagnosis::Level;
use fieldfare_service::Service;
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

fn carry_out(command: Command) -> anyhow::Result<ExitCode> {
    let done = match command {
        Command::Serve => {
            process::become_child(Task::Serve)?;
            Ok(serving::serve(BufReader::new(stdin()), stdout().lock())?)
        }
        Command::Train => {
            process::become_child(Task::Train)?;
            Ok(rounds::train_child(BufReader::new(stdin()), stdout().lock())?)
        }
        Command::Enrol(arguments) => asynchronously(async {
            let identity = enrolment::enrol(&arguments, &clock::time_source()).await?;
            say(&format!("enrolled as {}", identity.principal()))
        }),
        Command::Run(arguments) => asynchronously(run(arguments)),
        Command::Status(arguments) => asynchronously(async {
            say(status::status(&Folder::new(&arguments.dir), arguments.output)
                .await?
                .trim_end())
        }),
        Command::Doctor(arguments) => return asynchronously(examine(arguments)),
        Command::Profile { output } => {
            let profile = measure::profile(&std::env::current_dir()?)?;
            say(&match output {
                Output::Json => serde_json::to_string_pretty(&profile)?,
                Output::Text => measure::text(&profile),
            })
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

async fn examine(arguments: Status) -> anyhow::Result<ExitCode> {
    let binary = Binary::new(std::env::current_exe().context("the path of this binary")?);
    let diagnosis = doctor::examine(&Folder::new(&arguments.dir), &binary).await;
    say(&match arguments.output {
        Output::Json => serde_json::to_string_pretty(&diagnosis)?,
        Output::Text => diagnosis.text().trim_end().to_owned(),
    })?;
    Ok(match diagnosis.level {
        Level::Problem => ExitCode::FAILURE,
        Level::Ok | Level::Warning => ExitCode::SUCCESS,
    })
}

fn asynchronously<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(work)
}

fn say(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(stdout(), "{text}")?)
}

async fn run(arguments: Run) -> anyhow::Result<()> {
    let service = Service::start()?;
    let binary = Binary::new(std::env::current_exe().context("the path of this binary")?);
    let agent = Agent::new(Folder::new(&arguments.dir), arguments.api_listen, binary).await?;
    service.ready(&format!("ready: {}", agent.announcement()?))?;
    agent.run(service.stop().clone()).await
}
