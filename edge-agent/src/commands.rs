//! What the process does for each of its commands, and what it says when that is done.

use std::io::{BufReader, Write, stdin, stdout};
use std::process::ExitCode;

use anyhow::{Context, Result};
use fieldfare_member::diagnosis::Level;
use fieldfare_service::Service;

use crate::agent::Agent;
use crate::args::{Command, Output, Run, Status};
use crate::folder::Folder;
use crate::process::{self, Binary, Task};
use crate::{clock, doctor, enrolment, measure, rounds, serving, status};

/// Carries a command out; `run` until a signal.
///
/// # Errors
/// Those of the command, or standard output is closed.
pub fn carry_out(command: Command) -> Result<ExitCode> {
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
        Command::Status(arguments) => {
            asynchronously(async { say(&status::status(&Folder::new(&arguments.dir), arguments.output).await?) })
        }
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

async fn examine(arguments: Status) -> Result<ExitCode> {
    let diagnosis = doctor::examine(&Folder::new(&arguments.dir), &own_binary()?).await;
    say(&match arguments.output {
        Output::Json => serde_json::to_string_pretty(&diagnosis)?,
        Output::Text => diagnosis.text(),
    })?;
    Ok(match diagnosis.level {
        Level::Problem => ExitCode::FAILURE,
        Level::Ok | Level::Warning => ExitCode::SUCCESS,
    })
}

async fn run(arguments: Run) -> Result<()> {
    let service = Service::start()?;
    let agent = Agent::new(Folder::new(&arguments.dir), arguments.api_listen, own_binary()?).await?;
    service.ready(&format!("ready: {}", agent.announcement()?))?;
    agent.run(service.stop().clone()).await
}

fn own_binary() -> Result<Binary> {
    let path = std::env::current_exe().context("the path of this binary")?;
    Ok(Binary::new(path))
}

fn asynchronously<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(work)
}

fn say(text: &str) -> Result<()> {
    Ok(writeln!(stdout(), "{}", text.trim_end())?)
}
