//! `fieldfare context`: the fleets that this command knows.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;

use crate::args::Global;
use crate::context::{Context, Contexts};
use crate::output::{show, table};

/// What to do with contexts.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Adds a fleet from an operator's credential.
    Add {
        /// What to call it.
        name: String,
        /// The folder with the credential: `DIR/operator` of `fieldfare-controller init --dir DIR`.
        #[arg(long)]
        from: PathBuf,
    },
    /// Makes a context the current one.
    Use {
        /// Its name.
        name: String,
    },
    /// Lists the contexts.
    List,
    /// Shows one context, or the current one.
    Show {
        /// Its name.
        name: Option<String>,
    },
}

#[derive(Serialize)]
struct View {
    name: String,
    current: bool,
    endpoint: String,
    operator: String,
    certificate_ends_unix_ms: u64,
    signs_releases: bool,
}

fn view(contexts: &Contexts, context: &Context) -> Result<View> {
    let identity = context.identity()?;
    Ok(View {
        name: context.name().to_owned(),
        current: contexts.current()?.as_deref() == Some(context.name()),
        endpoint: context.endpoints()?.grpc,
        operator: identity.principal().to_string(),
        certificate_ends_unix_ms: identity.certificate().validity.not_after().unix_ms(),
        signs_releases: context.offline_key(crate::context::OfflineKey::Targets)?.is_some(),
    })
}

fn text(views: &[View]) -> String {
    table(
        ["", "name", "endpoint", "operator", "signs releases"],
        views.iter().map(|view| {
            let mark = if view.current { "*" } else { "" };
            let signs = if view.signs_releases { "yes" } else { "no" };
            [
                mark.to_owned(),
                view.name.clone(),
                view.endpoint.clone(),
                view.operator.clone(),
                signs.to_owned(),
            ]
        }),
    )
}

/// Does it.
///
/// # Errors
/// The context is missing or damaged.
pub fn run(global: &Global, action: Action) -> Result<()> {
    let contexts = Contexts::of_user(global.config.as_deref())?;
    match action {
        Action::Add { name, from } => {
            let context = contexts.add(&name, &from)?;
            show(global.output, &view(&contexts, &context)?, |view| {
                format!("added {} at {}", view.name, view.endpoint)
            })
        }
        Action::Use { name } => {
            contexts.select(&name)?;
            let context = contexts.open(Some(&name))?;
            show(global.output, &view(&contexts, &context)?, |view| {
                format!("{} is the current context", view.name)
            })
        }
        Action::List => {
            let all = contexts
                .names()?
                .into_iter()
                .map(|name| view(&contexts, &contexts.open(Some(&name))?));
            show(global.output, &all.collect::<Result<Vec<_>>>()?, |views| text(views))
        }
        Action::Show { name } => {
            let context = contexts.open(name.as_deref().or(global.context.as_deref()))?;
            show(global.output, &view(&contexts, &context)?, |view| {
                text(std::slice::from_ref(view))
            })
        }
    }
}
