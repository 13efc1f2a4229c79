//! The command line, parsed into values that cannot be wrong.

use std::io::IsTerminal;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands;

/// Runs small language models on a fleet of unlike devices, and lets the fleet improve them.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by a gate, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "fieldfare", version, propagate_version = true)]
pub struct CommandLine {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The fleet to talk to; the current context when not given (see `fieldfare context`).
    #[arg(long, global = true, env = "FIELDFARE_CONTEXT")]
    pub context: Option<String>,
    /// Folder of the contexts.
    #[arg(long, global = true, env = "FIELDFARE_CONFIG", hide = true)]
    pub config: Option<std::path::PathBuf>,
    /// How results are printed.
    #[arg(long, short = 'o', global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Seconds that a call may take.
    #[arg(long, global = true, value_parser = seconds)]
    pub timeout: Option<Duration>,
    // An empty NO_COLOR is as good as none, and no error.
    #[arg(long, global = true, hide = true, env = "NO_COLOR")]
    no_color: Option<String>,
}

impl Global {
    /// Whether to colour: on a terminal, unless NO_COLOR is set (<https://no-color.org>).
    pub fn colour(&self) -> bool {
        self.no_color.as_deref().unwrap_or_default().is_empty() && std::io::stderr().is_terminal()
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs: one JSON value on standard output.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows the whole of it on this machine: a fleet gets a model, uses it, improves it privately, and gets the better one.
    Quickstart(Box<commands::quickstart::Arguments>),
    /// The fleets that this command knows.
    #[command(subcommand)]
    Context(commands::context::Action),
    /// One-time tokens with which devices, trainers and operators join.
    #[command(subcommand)]
    Token(commands::token::Action),
    /// Enrolled machines.
    #[command(subcommand, alias = "device")]
    Devices(commands::devices::Action),
    /// Trainers that claim imports and federated jobs.
    #[command(subcommand, alias = "trainer")]
    Trainers(commands::trainers::Action),
    /// Signed versions of models.
    #[command(subcommand, alias = "releases")]
    Release(commands::release::Action),
    /// Says which variant of a model a device would run, how fast, and why not a better one.
    Plan(commands::plan::Arguments),
    /// Puts a release on the devices that a selector matches.
    Deploy(commands::deploy::Arguments),
    /// A release moving through a deployment.
    #[command(subcommand, alias = "rollouts")]
    Rollout(commands::rollout::Action),
    /// Federated jobs and imports.
    #[command(subcommand, alias = "jobs")]
    Job(commands::job::Action),
    /// Looks at clocks, certificates, keys, disks, the store, releases, trainers and devices, and says what to do about what it finds.
    Doctor,
    /// Audit logs of controllers and devices, offline: from their files alone.
    #[command(subcommand)]
    Audit(commands::audit::Action),
    /// Prints the completions of a shell.
    Completions(commands::completions::Arguments),
}

/// Seconds, as on the command line: more than 0, at most a day.
pub fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 86_400.0 => Ok(Duration::from_secs_f64(value)),
        _ => Err("expected seconds, more than 0 and at most 86400".to_owned()),
    }
}

fn number(text: &str, expected: &str, holds: impl Fn(f64) -> bool) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && holds(value) => Ok(value),
        _ => Err(format!("expected {expected}")),
    }
}

/// A number on the command line.
pub fn real(text: &str) -> Result<f64, String> {
    number(text, "a finite number", |_| true)
}

/// A number above 0.
pub fn positive(text: &str) -> Result<f64, String> {
    number(text, "a finite number above 0", |value| value > 0.0)
}

/// A number of at least 0.
pub fn not_negative(text: &str) -> Result<f64, String> {
    number(text, "0, or a finite number above it", |value| value >= 0.0)
}

/// A rate: above 0 and at most 1.
pub fn rate(text: &str) -> Result<f64, String> {
    number(text, "a number above 0 and at most 1", |value| {
        value > 0.0 && value <= 1.0
    })
}

/// A probability that is neither 0 nor 1.
pub fn probability(text: &str) -> Result<f64, String> {
    number(text, "a number above 0 and below 1", |value| value > 0.0 && value < 1.0)
}

/// A count of at least 1.
pub fn at_least_one(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(value) if value > 0 => Ok(value),
        _ => Err(format!("expected a whole number from 1 to {}", u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        CommandLine::command().debug_assert();
    }

    #[test]
    fn an_empty_no_color_is_no_error() {
        for value in ["", "1"] {
            assert!(CommandLine::try_parse_from(["fieldfare", "--no-color", value, "context", "list"]).is_ok());
        }
    }

    #[test]
    fn numbers_are_bounded() {
        for text in ["NaN", "inf", "-inf", "x", "", "1e999"] {
            for parse in [real, positive, not_negative, rate, probability] {
                assert!(parse(text).is_err(), "{text:?}");
            }
        }
        assert_eq!(
            (real("-1"), not_negative("0"), positive("8")),
            (Ok(-1.0), Ok(0.0), Ok(8.0))
        );
        assert!(positive("0").is_err() && positive("-1").is_err() && not_negative("-0.1").is_err());
        assert_eq!(
            (rate("1"), rate("0.16"), probability("1e-5")),
            (Ok(1.0), Ok(0.16), Ok(1e-5))
        );
        assert!(rate("0").is_err() && rate("2").is_err() && probability("1").is_err() && probability("0").is_err());
        assert_eq!(at_least_one("7"), Ok(7));
        assert!(
            ["0", "-1", "1.5", "4294967296"]
                .iter()
                .all(|text| at_least_one(text).is_err())
        );
    }

    #[test]
    fn seconds_are_bounded() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for text in ["0", "-1", "NaN", "inf", "x", "86401", ""] {
            assert!(seconds(text).is_err(), "{text:?}");
        }
    }
}
