//! `fieldfare trainers`.

use anyhow::Result;
use clap::Subcommand;
use fieldfare_proto::v1;
use serde::Serialize;

use super::Session;
use crate::clock;
use crate::output::{show, since, table};

/// What to do with trainers.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Lists the trainers.
    List,
}

#[derive(Serialize)]
struct View {
    name: String,
    connected: bool,
    last_heard_unix_ms: i64,
    rounds_endpoint: String,
}

/// All trainers.
///
/// # Errors
/// What the controller says.
pub async fn list(session: &Session) -> Result<Vec<v1::Trainer>> {
    let request = v1::ListTrainersRequest {};
    let answer = session.client.call(
        request,
        |mut api, request| async move { api.list_trainers(request).await },
    );
    Ok(answer.await?.trainers)
}

/// Does it.
///
/// # Errors
/// What the controller says.
pub async fn run(session: &Session, Action::List: Action) -> Result<()> {
    let views = list(session).await?.into_iter().map(|trainer| View {
        name: trainer.name,
        connected: trainer.connected,
        last_heard_unix_ms: trainer.last_heard_unix_ms,
        rounds_endpoint: trainer.rounds_endpoint,
    });
    show(session.format, &views.collect::<Vec<_>>(), |views| {
        table(
            ["name", "connected", "heard from", "rounds at"],
            views.iter().map(|view| {
                let connected = if view.connected { "yes" } else { "no" };
                let heard = since(clock::now(), view.last_heard_unix_ms);
                [
                    view.name.clone(),
                    connected.to_owned(),
                    heard,
                    view.rounds_endpoint.clone(),
                ]
            }),
        )
    })
}
