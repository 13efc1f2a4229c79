//! Exit codes, and how a failure is told: what, why, and what next.

use std::process::ExitCode;

/// A failure whose exit code says more than "failed", which is 1. Wrong usage is 2, as clap has it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A gate said no: 3.
    #[error("{0}")]
    Refused(String),
    /// An examination found problems, which it has told: 1.
    #[error("{0} of these are problems")]
    Unwell(usize),
    /// Ctrl-C, or a request to terminate: 130.
    #[error("interrupted")]
    Interrupted,
}

/// A refusal by a gate, as an error.
pub fn refused(reason: impl Into<String>) -> anyhow::Error {
    Failure::Refused(reason.into()).into()
}

/// Advice on what to do next, attached to an error with `anyhow`'s context.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Advice {
    /// What failed.
    pub what: String,
    /// What to do about it.
    pub next: String,
}

impl Advice {
    /// A failure, and what to do about it.
    pub fn new(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            next: next.into(),
        }
    }
}

/// Tells the failure on standard error and gives the exit code.
pub fn report(error: &anyhow::Error, colour: bool) -> ExitCode {
    let label = console::style("error:").red().bold().force_styling(colour);
    let mut lines = error.chain().map(ToString::to_string);
    eprintln!("{label} {}", lines.next().unwrap_or_default());
    for cause in lines {
        eprintln!("  because: {cause}");
    }
    // Not by way of the chain: what anyhow's `context` attached is found by its own `downcast_ref` alone.
    if let Some(advice) = error.downcast_ref::<Advice>() {
        eprintln!("  next: {}", advice.next);
    }
    match error.downcast_ref::<Failure>() {
        Some(Failure::Refused(_)) => ExitCode::from(3),
        Some(Failure::Interrupted) => ExitCode::from(130),
        Some(Failure::Unwell(_)) | None => ExitCode::FAILURE,
    }
}
