//! Starts the process: parses the command line, runs until a signal, drains.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use fieldfare_controller::authority::step;
use fieldfare_controller::backup::{backup, restore};
use fieldfare_controller::clock;
use fieldfare_controller::config::{Command, CommandLine, Run};
use fieldfare_controller::garbage::ask_to_collect;
use fieldfare_controller::init::{Outcome, init, next_online_keys};
use fieldfare_controller::server::Server;
use fieldfare_controller::telemetry::Telemetry;
use fieldfare_service::Service;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let outcome = match CommandLine::parse().command {
        Command::Init(options) => runtime.block_on(async {
            let outcome = init(&options, &clock::system()).await?;
            say(&match outcome {
                Outcome::Created => format!("created a fleet in {}", options.dir.display()),
                Outcome::Present(fleet) => {
                    let (dir, domain, tenant) = (options.dir.display(), &fleet.domain, &fleet.tenant);
                    format!("{dir} holds the fleet {domain}, tenant {tenant}, already: nothing changed")
                }
            })
        }),
        Command::Run(options) => runtime.block_on(run(options)),
        Command::Backup(options) => runtime.block_on(backup(&options, &clock::system())).and_then(|made| {
            let to = options.to.display();
            say(&format!(
                "{made} are in {to}, which holds private keys: keep it as safe as they are"
            ))
        }),
        Command::Authority(options) => step(&options, &clock::system()).and_then(|told| say(&told)),
        Command::NextOnlineKeys(options) => next_online_keys(&options).and_then(|()| {
            say("the next online keys are there: `fieldfare release rotate-root --online-keys` has the root name them")
        }),
        Command::Collect(options) => runtime
            .block_on(ask_to_collect(&options, &clock::system()))
            .and_then(|told| say(told.trim_end())),
        Command::Restore(options) => runtime
            .block_on(restore(&options, &clock::system()))
            .and_then(|restored| {
                let into = options.into.display();
                say(&format!(
                    "{into} holds {restored}: `fieldfare-controller run --dir {into}` serves it"
                ))
            }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

async fn run(options: Run) -> anyhow::Result<()> {
    let telemetry = Telemetry::install(&options)?;
    let service = Service::start()?;
    let server = Server::start(&options, clock::system()).await?;
    telemetry.observe(server.plane());
    let endpoints = server.endpoints();
    service.ready(&format!(
        "ready grpc={} artifacts={} metrics={}",
        endpoints.grpc, endpoints.artifacts, endpoints.metrics
    ))?;
    let outcome = server.run_until(service.stop().cancelled()).await;
    telemetry.flush();
    outcome
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
    ExitCode::FAILURE
}
