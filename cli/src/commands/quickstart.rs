//! `fieldfare quickstart`: the whole of it on this machine.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::job::Training;
use crate::args::Global;
use crate::quickstart;

/// Arguments of `quickstart`.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Folder of everything that is made; each run has a folder of its own in it.
    #[arg(long, default_value = ".quickstart")]
    pub dir: PathBuf,
    /// Leaves the fleet running.
    #[arg(long)]
    pub keep: bool,
    /// The base model, a GGUF file. The farm-gateway model of this repository when not given.
    #[arg(long, value_name = "FILE.gguf")]
    pub model: Option<PathBuf>,
    /// Your own text: each NAME.jsonl in it is one device. The farm-gateway's readings when not given.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// The controller's state store: given to it as it is. Its own file in the run's folder when not given.
    #[arg(long, value_name = "redb:PATH | etcd:URL[,URL...]")]
    pub store: Option<String>,
    /// What to ask a device; a held-out example of the first one when not given.
    #[arg(long)]
    pub prompt: Option<String>,
    /// How the fleet trains.
    #[command(flatten)]
    pub training: Training,
    /// What this process becomes; see `quickstart::processes`.
    #[arg(long, hide = true, value_name = "PID")]
    pub child_of: Option<u32>,
    /// The program and its arguments.
    #[arg(last = true, hide = true, requires = "child_of")]
    pub child: Vec<OsString>,
}

/// Does it.
///
/// # Errors
/// What failed, what was refused, or that it was interrupted; after every process was stopped.
pub async fn run(global: &Global, arguments: Arguments) -> Result<()> {
    match arguments.child_of {
        Some(parent) => Err(quickstart::processes::become_child(parent, &arguments.child)),
        None => quickstart::run(global, arguments).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Command, CommandLine};

    fn parse(arguments: &[&str]) -> Result<Box<Arguments>, clap::Error> {
        let line = CommandLine::try_parse_from(["fieldfare", "quickstart"].iter().chain(arguments))?;
        match line.command {
            Command::Quickstart(arguments) => Ok(arguments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_defaults_are_the_setting_that_was_measured() {
        let training = parse(&[]).unwrap().training;
        assert_eq!((training.rounds, training.steps, training.rank), (5, 8, 4));
        assert_eq!(
            (
                training.epsilon,
                training.delta,
                training.sampling_rate,
                training.clip_norm
            ),
            (8.0, 1e-5, 0.16, 0.5)
        );
    }

    #[test]
    fn a_child_is_given_whole() {
        let arguments = parse(&["--child-of", "7", "--", "agent", "run", "--dir", "x"]).unwrap();
        assert_eq!((arguments.child_of, arguments.child.len()), (Some(7), 4));
        assert!(parse(&["--", "agent"]).is_err());
    }
}
