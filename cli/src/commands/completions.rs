//! `fieldfare completions SHELL`.

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;
use serde::Serialize;

use crate::args::{CommandLine, Global};
use crate::output::show;

/// Arguments of `fieldfare completions`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The shell, for example `bash`: `fieldfare completions bash > /etc/bash_completion.d/fieldfare`.
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Serialize)]
struct View {
    shell: String,
    script: String,
}

/// Prints the completions.
///
/// # Errors
/// Standard output is closed.
pub fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut CommandLine::command(), "fieldfare", &mut script);
    let view = View {
        shell: arguments.shell.to_string(),
        script: String::from_utf8_lossy(&script).into_owned(),
    };
    show(global.output, &view, |view| view.script.clone())
}
