//! What the process does for each of its commands, and what it says when that is done.

use std::io::Write;

use anyhow::Result;
use fieldfare_service::Service;
use fieldfare_tls::TimeSource;

use crate::authority::step;
use crate::backup::{backup, restore};
use crate::clock;
use crate::config::{Command, Run};
use crate::garbage::ask_to_collect;
use crate::init::{Outcome, init, next_online_keys};
use crate::server::Server;
use crate::telemetry::Telemetry;

/// Carries a command out; `run` until a signal.
///
/// # Errors
/// Those of the command, or standard output is closed.
pub async fn carry_out(command: Command) -> Result<()> {
    let clock = clock::system();
    say(&match command {
        Command::Run(options) => return run(options, clock).await,
        Command::Init(options) => {
            let dir = options.dir.display();
            match init(&options, &clock).await? {
                Outcome::Created => format!("created a fleet in {dir}"),
                Outcome::Present(fleet) => {
                    let (domain, tenant) = (&fleet.domain, &fleet.tenant);
                    format!("{dir} holds the fleet {domain}, tenant {tenant}, already: nothing changed")
                }
            }
        }
        Command::Backup(options) => {
            let made = backup(&options, &clock).await?;
            let to = options.to.display();
            format!("{made} are in {to}, which holds private keys: keep it as safe as they are")
        }
        Command::Restore(options) => {
            let restored = restore(&options, &clock).await?;
            let into = options.into.display();
            format!("{into} holds {restored}: `fieldfare-controller run --dir {into}` serves it")
        }
        Command::Authority(options) => step(&options, &clock)?,
        Command::NextOnlineKeys(options) => {
            next_online_keys(&options, &clock)?;
            "the next online keys are there: `fieldfare release rotate-root --online-keys` has the root name them"
                .to_owned()
        }
        Command::Collect(options) => ask_to_collect(&options, &clock).await?,
    })
}

async fn run(options: Run, clock: TimeSource) -> Result<()> {
    let telemetry = Telemetry::install(&options)?;
    let service = Service::start()?;
    let server = Server::start(&options, clock).await?;
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

fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", text.trim_end())?;
    Ok(out.flush()?)
}
