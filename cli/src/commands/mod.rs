//! One module per noun. Each parses its own arguments, calls the controller, and shows a view.

pub mod audit;
pub mod completions;
pub mod context;
pub mod deploy;
pub mod devices;
pub mod doctor;
pub mod job;
pub mod plan;
pub mod quickstart;
pub mod release;
pub mod rollout;
pub mod token;
pub mod trainers;

use anyhow::Result;

use crate::args::{Command, CommandLine, Format, Global};
use crate::client::Client;
use crate::context::{Context, Contexts};
use crate::exit::{Advice, Failure};
use crate::limits::CALL_TIMEOUT;

/// Runs the command until it ends or is interrupted.
///
/// # Errors
/// What failed, why, and what next.
pub async fn run(line: CommandLine) -> Result<()> {
    let CommandLine { global, command } = line;
    // Quickstart stops its own processes first.
    if let Command::Quickstart(arguments) = command {
        return quickstart::run(&global, *arguments).await;
    }
    tokio::select! {
        done = dispatch(&global, command) => done,
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted.into()),
    }
}

async fn dispatch(global: &Global, command: Command) -> Result<()> {
    match command {
        Command::Quickstart(arguments) => quickstart::run(global, *arguments).await,
        Command::Context(action) => context::run(global, action),
        Command::Token(action) => token::run(&Session::open(global).await?, action).await,
        Command::Devices(action) => devices::run(&Session::open(global).await?, action).await,
        Command::Trainers(action) => trainers::run(&Session::open(global).await?, action).await,
        Command::Release(action) => release::run(global, action).await,
        Command::Plan(arguments) => plan::run(global, arguments).await,
        Command::Deploy(arguments) => deploy::run(&Session::open(global).await?, arguments).await,
        Command::Rollout(action) => rollout::run(&Session::open(global).await?, action).await,
        Command::Job(action) => job::run(&Session::open(global).await?, action).await,
        Command::Doctor => doctor::run(global).await,
        Command::Audit(action) => audit::run(global.output, &action),
        Command::Completions(arguments) => completions::run(global, &arguments),
    }
}

/// A connected context.
#[derive(Clone, Debug)]
pub struct Session {
    /// The fleet and the credential.
    pub context: Context,
    /// The connection.
    pub client: Client,
    /// How results are printed.
    pub format: Format,
}

impl Session {
    /// Connects to the context that the options name.
    ///
    /// # Errors
    /// There is no such context, or its controller does not answer.
    pub async fn open(global: &Global) -> Result<Self> {
        let context = Contexts::of_user(global.config.as_deref())?.open(global.context.as_deref())?;
        let limit = global.timeout.unwrap_or(CALL_TIMEOUT);
        let endpoint = context.grpc()?;
        let late = |_| {
            let what = format!("no controller answered at {endpoint} within {} s", limit.as_secs_f64());
            Advice::new(what, "see whether it runs, or give it longer with --timeout")
        };
        let connecting = Client::connect(&context, global.timeout);
        let client = tokio::time::timeout(limit, connecting).await.map_err(late)??;
        Ok(Self {
            context,
            client,
            format: global.output,
        })
    }
}

/// `key=value` pairs, from `a=b,c=d`.
pub(crate) fn labels(text: &str) -> Result<std::collections::BTreeMap<String, String>, String> {
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(format!(
                "{pair:?} is no label; expected KEY=VALUE, several separated by commas"
            )),
        })
        .collect()
}
