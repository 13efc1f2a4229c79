//! `fieldfare job`: federated jobs, and imports.

mod follow;
mod training;
mod view;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use fieldfare_fleet::DeploymentName;
use fieldfare_proto::v1;

pub use follow::{follow, follow_with, is_over, round_line, succeeded};
pub use training::Training;
pub use view::{Evaluation, gate, print, stage};

use super::{Session, release};
use crate::clock;
use crate::limits::MAX_TEXT_BYTES;
use crate::lines;

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Starts rounds of private training on a deployment's devices.
    Start(Box<Start>),
    /// Shows a job.
    Status {
        /// The job.
        job: String,
    },
    /// Follows a job until it ends.
    Watch {
        /// The job.
        job: String,
    },
    /// Stops a job; nothing of it is published.
    Cancel {
        /// The job.
        job: String,
    },
    /// Lists jobs.
    List,
}

/// Arguments of `job start`. Nobody but the operator can say what the devices' privacy may cost, so that the budget has no default
/// here.
#[derive(Clone, Debug, Args)]
#[command(mut_arg("epsilon", |epsilon| epsilon.required(true).default_value(clap::builder::Resettable::Reset)))]
pub struct Start {
    /// Name of the job; made from the deployment's when not given.
    #[arg(long)]
    pub name: Option<String>,
    /// The deployment whose devices train, on top of the release that they run.
    #[arg(long)]
    pub deployment: String,
    /// The consented evaluation set: JSONL. The trainer sees it; nothing else leaves a device but contributions.
    #[arg(long)]
    pub evaluation: PathBuf,
    /// How it trains, and what it may cost.
    #[command(flatten)]
    pub training: Training,
    /// Return at once rather than follow the job.
    #[arg(long)]
    pub detach: bool,
}

/// A job, now.
///
/// # Errors
/// There is none.
pub async fn get(session: &Session, name: &str) -> Result<v1::Job> {
    let request = v1::GetJobRequest { name: name.to_owned() };
    session
        .client
        .call(request, |mut api, request| async move { api.get_job(request).await })
        .await
}

/// Uploads the evaluation set and starts a federated job.
///
/// # Errors
/// The file is missing or has a line that is no example, or the controller refuses.
pub async fn start(session: &Session, start: &Start) -> Result<v1::Job> {
    let deployment = DeploymentName::new(start.deployment.as_str()).context("--deployment")?;
    lines::check(&start.evaluation, lines::example)?;
    let evaluation = release::upload(session, &start.evaluation, MAX_TEXT_BYTES).await?;
    let name = start
        .name
        .clone()
        .unwrap_or_else(|| format!("{deployment}-{}", clock::now().unix_ms() / 1000));
    let request = v1::StartJobRequest {
        spec: Some(start.training.spec(name, deployment.to_string(), evaluation)),
    };
    session
        .client
        .call(request, |mut api, request| async move { api.start_job(request).await })
        .await
}

async fn cancel(session: &Session, name: String) -> Result<v1::Job> {
    let request = v1::CancelJobRequest { name };
    session
        .client
        .call(request, |mut api, request| async move { api.cancel_job(request).await })
        .await
}

async fn list(session: &Session) -> Result<Vec<v1::Job>> {
    let request = v1::ListJobsRequest {};
    let answer = session
        .client
        .call(request, |mut api, request| async move { api.list_jobs(request).await });
    Ok(answer.await?.jobs)
}

/// Follows a job to its end, prints it, and fails where it failed.
///
/// # Errors
/// There is no such job, the controller goes, or the job did not succeed.
pub async fn conclude(session: &Session, name: &str) -> Result<()> {
    let ended = follow(session, name).await?;
    print(session.format, ended.clone())?;
    succeeded(ended).map(drop)
}

/// Does it.
///
/// # Errors
/// What the controller says, or a job that did not succeed.
pub async fn run(session: &Session, action: Action) -> Result<()> {
    match action {
        Action::Start(arguments) => {
            let job = start(session, &arguments).await?;
            if arguments.detach {
                return print(session.format, job);
            }
            conclude(session, &job.name).await
        }
        Action::Status { job } => print(session.format, get(session, &job).await?),
        Action::Watch { job } => conclude(session, &job).await,
        Action::Cancel { job } => print(session.format, cancel(session, job).await?),
        Action::List => view::print_all(session.format, list(session).await?),
    }
}
