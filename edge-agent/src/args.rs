//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The device of a Fieldfare fleet: it serves a language model locally and, with its owner's consent, helps to improve it.
#[derive(Debug, Parser)]
#[command(name = "fieldfare-agent", version, propagate_version = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the agent can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Enrols this device with a join token.
    Enrol(Enrol),
    /// Runs the device until it is told to stop.
    Run(Run),
    /// Says what a running agent is doing.
    Status(Status),
    /// Looks for what is wrong with a device, and says what to do about it. Changes nothing; fails where there is a problem.
    Doctor(Status),
    /// Measures this machine.
    Profile {
        /// Form of the answer.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Serves one model over standard input and output.
    #[command(hide = true)]
    Serve,
    /// Does one device's part of a round over standard input and output.
    #[command(hide = true)]
    Train,
}

/// Form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Yes or no.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Answer {
    /// Yes.
    Yes,
    /// No.
    #[default]
    No,
}

/// `enrol`.
#[derive(Debug, Args)]
pub struct Enrol {
    /// The agent's folder, made if need be.
    #[arg(long)]
    pub dir: PathBuf,
    /// The join token.
    #[arg(long)]
    pub token: String,
    /// What people call the device: a DNS label. The host's name unless given.
    #[arg(long)]
    pub name: Option<String>,
    /// Labels, KEY=VALUE,KEY=VALUE.
    #[arg(long, default_value = "")]
    pub labels: String,
    /// `measured`, or the name of a reference device that this one pretends to be.
    #[arg(long, default_value = "measured")]
    pub profile: String,
    /// Memory that models may use, in bytes. What the profile says unless given.
    #[arg(long, value_name = "BYTES")]
    pub model_memory: Option<u64>,
    /// Whether this device's examples may take part in training.
    #[arg(long, value_enum, default_value_t)]
    pub consent: Answer,
}

/// `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The agent's folder.
    #[arg(long)]
    pub dir: PathBuf,
    /// Where the local API listens; a loopback address. The settings' unless given.
    #[arg(long)]
    pub api_listen: Option<SocketAddr>,
}

/// `status` and `doctor`.
#[derive(Debug, Args)]
pub struct Status {
    /// The agent's folder.
    #[arg(long)]
    pub dir: PathBuf,
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}
