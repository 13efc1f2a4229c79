//! `fieldfare-sim`: lives as many lives as one likes, or one of them again with all that happens in it.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use fieldfare_sim::{Outcome, live};

/// Lives whole lives of a fleet, each from its seed, and says which promise was broken in which.
#[derive(Debug, Parser)]
#[command(name = "fieldfare-sim", version)]
struct Arguments {
    /// Devices of the fleet.
    #[arg(long, default_value_t = 50)]
    devices: u32,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// How many seeds from there on.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// One seed, with everything that happens.
    #[arg(long, conflicts_with_all = ["start", "seeds"])]
    trace: Option<u64>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell where that fails.
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if let Some(seed) = arguments.trace {
        let outcome = live(seed, arguments.devices, true);
        for line in &outcome.trace {
            writeln!(out, "{line}").context("writing the trace")?;
        }
        let broken = outcome.broken.map(|broken| anyhow::anyhow!("seed {seed}: {broken}"));
        return broken.map_or(Ok(()), Err);
    }
    let (mut failed, mut sum) = (0_u64, Outcome::default());
    for seed in arguments.start..arguments.start.saturating_add(arguments.seeds) {
        let outcome = live(seed, arguments.devices, false);
        sum += &outcome;
        if let Some(broken) = outcome.broken {
            failed += 1;
            writeln!(out, "seed {seed}: {broken}").context("writing")?;
        }
    }
    let (lives, devices) = (arguments.seeds, arguments.devices);
    writeln!(out, "{lives} lives of {devices} devices: {sum}").context("writing")?;
    anyhow::ensure!(failed == 0, "{failed} lives failed");
    Ok(())
}
