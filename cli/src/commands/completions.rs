//! `fieldfare completions SHELL`.

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::CommandLine;
use crate::output;

/// Arguments of `fieldfare completions`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The shell, for example `bash`: `fieldfare completions bash > /etc/bash_completion.d/fieldfare`.
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the completions.
///
/// # Errors
/// Standard output is closed.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut CommandLine::command(), "fieldfare", &mut script);
    output::line(&String::from_utf8_lossy(&script))
}
