//! `fieldfare release`: importing, signing, publishing, verifying.

mod import;
mod verify;
mod view;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use fieldfare_proto::v1;
use fieldfare_release::{ModelName, ReleaseManifest, TargetName};
use serde::Serialize;

pub use import::{Import, import, upload};
pub use verify::{Verified, verify};

use super::{Session, job};
use crate::args::{Format, Global};
use crate::exit::Advice;
use crate::output::{note, show};
use crate::signing;

/// What to do with releases.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Makes this fleet's release root and targets keys, and installs the root. They stay in the context's folder: back it up.
    Init,
    /// Signs the next root with the keys of this one, and has other keys take their place. Without options it renews the root, which
    /// is good for a year. Devices follow by themselves.
    RotateRoot {
        /// Another root key.
        #[arg(long)]
        root_key: bool,
        /// Another targets key.
        #[arg(long)]
        targets_key: bool,
        /// The next online keys, which `fieldfare-controller next-online-keys` made. Devices forget what the present ones signed.
        #[arg(long)]
        online_keys: bool,
    },
    /// Has a trainer build, evaluate and propose a release of a model.
    Import(Import),
    /// Signs a proposed release and publishes it.
    Publish {
        /// MODEL:N
        release: String,
    },
    /// Lets a trainer sign adapter releases of one model, and nothing else.
    Delegate {
        /// The model.
        model: String,
        /// The trainer.
        #[arg(long)]
        trainer: String,
    },
    /// Lists releases.
    List {
        /// Of this model alone.
        model: Option<String>,
    },
    /// Shows one release: its variants, and how it was made.
    Show {
        /// MODEL (the newest published), MODEL:N, or the manifest's target name.
        release: String,
    },
    /// Verifies a release as a device would: metadata, manifest, and every artifact.
    Verify {
        /// MODEL (the newest published), MODEL:N, or the manifest's target name.
        release: String,
        /// A copy of the repository (folders `metadata` and `targets`) instead of the controller; RELEASE is then a target name.
        #[arg(long)]
        folder: Option<PathBuf>,
        /// The root to trust, with --folder; this context's own when not given.
        #[arg(long, requires = "folder")]
        root: Option<PathBuf>,
    },
    /// Takes a release out of the repository: no device installs it from now on.
    Withdraw {
        /// MODEL:N
        release: String,
    },
}

/// A release by MODEL, MODEL:N or target name.
///
/// # Errors
/// There is none.
pub async fn get(session: &Session, release: &str) -> Result<v1::Release> {
    let request = v1::GetReleaseRequest {
        release: release.to_owned(),
    };
    session
        .client
        .call(
            request,
            |mut api, request| async move { api.get_release(request).await },
        )
        .await
}

/// The manifest of a release, decoded.
///
/// # Errors
/// It is not sound.
pub fn manifest(release: &v1::Release) -> Result<(TargetName, ReleaseManifest)> {
    let name: TargetName = release.manifest_target.parse().context("the manifest's target name")?;
    let manifest = ReleaseManifest::decode(&name, &release.manifest).with_context(|| format!("the manifest {name}"))?;
    Ok((name, manifest))
}

/// Signs a proposed release and publishes it. Gives its name and the version of targets.
///
/// # Errors
/// It is not proposed, or the controller refuses.
pub async fn publish(session: &Session, release: &v1::Release) -> Result<u64> {
    if release.standing() == v1::ReleaseStanding::Published {
        bail!("{} is published already", release.manifest_target);
    }
    let (name, _) = manifest(release)?;
    signing::publish_release(&session.context, &session.client, &name, &release.manifest).await
}

/// Lets a trainer sign adapter releases of a model. Gives the version of targets.
///
/// # Errors
/// The trainer is unknown or never connected, or the controller refuses.
pub async fn delegate(session: &Session, model: &str, trainer: &str) -> Result<u64> {
    let model: ModelName = model.parse().with_context(|| format!("the model's name {model:?}"))?;
    let trainers = super::trainers::list(session).await?;
    let Some(found) = trainers.iter().find(|known| known.name == trainer) else {
        let names = trainers
            .iter()
            .map(|known| known.name.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        bail!(Advice::new(
            format!("there is no trainer {trainer:?}"),
            format!("trainers: {names}")
        ));
    };
    if found.delegation_public_key_pem.is_empty() {
        bail!(Advice::new(
            format!("trainer {trainer} has not said its key yet"),
            "start it with `fieldfare-trainer run`"
        ));
    }
    signing::delegate(
        &session.context,
        &session.client,
        &model,
        &found.delegation_public_key_pem,
    )
    .await
}

/// Deployments whose devices have a release.
async fn running(session: &Session, manifest_target: &str) -> Result<Vec<String>> {
    let request = v1::ListDeploymentsRequest {};
    let answer = session.client.call(request, |mut api, request| async move {
        api.list_deployments(request).await
    });
    let found = answer.await?.deployments.into_iter();
    let runs = found.filter(|deployment| deployment.current_manifest == manifest_target);
    Ok(runs.map(|deployment| deployment.name).collect())
}

/// A release that was listed, or is no longer.
#[derive(Serialize)]
struct Listed<'a> {
    manifest_target: &'a str,
    standing: &'static str,
    targets_version: u64,
}

impl Listed<'_> {
    fn print(&self, format: Format) -> Result<()> {
        show(format, self, |listed| {
            let Listed {
                manifest_target,
                standing,
                targets_version,
            } = listed;
            format!("{manifest_target} is {standing}: targets version {targets_version}")
        })
    }
}

/// What a trainer may sign now.
#[derive(Serialize)]
struct Delegated<'a> {
    model: &'a str,
    trainer: &'a str,
    targets_version: u64,
}

/// What `release rotate-root` did.
#[derive(Serialize)]
struct Rotated {
    root_version: u64,
}

/// What `release init` did.
#[derive(Serialize)]
struct Initialised {
    new: bool,
}

async fn list(session: &Session, model: String) -> Result<Vec<v1::Release>> {
    let request = v1::ListReleasesRequest { model };
    let answer = session.client.call(
        request,
        |mut api, request| async move { api.list_releases(request).await },
    );
    Ok(answer.await?.releases)
}

/// Does it.
///
/// # Errors
/// What the controller says, or what does not verify.
pub async fn run(global: &Global, action: Action) -> Result<()> {
    if let Action::Verify {
        release,
        folder: Some(folder),
        root,
    } = &action
    {
        let verified = verify::verify_folder(global, release, folder, root.as_deref()).await?;
        return verify::tell(global.output, &verified);
    }
    let session = Session::open(global).await?;
    let format = session.format;
    match action {
        Action::Init => {
            let new = signing::init(&session.context, &session.client).await?;
            show(format, &Initialised { new }, |done| match done.new {
                true => "the release root is installed".to_owned(),
                false => "the release root was there; nothing changed".to_owned(),
            })
        }
        Action::RotateRoot {
            root_key,
            targets_key,
            online_keys,
        } => {
            let rotation = signing::Rotation {
                root_key,
                targets_key,
                online_keys,
            };
            let root_version = signing::rotate_root(&session.context, &session.client, rotation)
                .await?
                .get();
            if root_key || targets_key {
                note("the keys of this context have changed: back its folder up");
            }
            show(format, &Rotated { root_version }, |rotated| {
                format!("root version {} is installed", rotated.root_version)
            })
        }
        Action::Import(arguments) => {
            let started = import(&session, &arguments).await?;
            if arguments.detach {
                return job::print(format, started);
            }
            job::conclude(&session, &started.name).await
        }
        Action::Publish { release } => {
            let release = get(&session, &release).await?;
            let targets_version = publish(&session, &release).await?;
            let listed = Listed {
                manifest_target: &release.manifest_target,
                standing: "published",
                targets_version,
            };
            listed.print(format)
        }
        Action::Delegate { model, trainer } => {
            let delegated = Delegated {
                targets_version: delegate(&session, &model, &trainer).await?,
                model: &model,
                trainer: &trainer,
            };
            show(format, &delegated, |delegated| {
                let version = delegated.targets_version;
                format!("{trainer} may sign adapter releases of {model}: targets version {version}")
            })
        }
        Action::List { model } => view::print_all(format, list(&session, model.unwrap_or_default()).await?),
        Action::Show { release } => view::print(format, get(&session, &release).await?),
        Action::Verify { release, .. } => {
            let (name, _) = manifest(&get(&session, &release).await?)?;
            verify::tell(format, &verify(&session, &name).await?)
        }
        Action::Withdraw { release } => {
            let (name, _) = manifest(&get(&session, &release).await?)?;
            let targets_version = signing::withdraw_release(&session.context, &session.client, &name).await?;
            note("devices that run it go on until a rollout");
            for deployment in running(&session, name.as_str()).await? {
                note(format!(
                    "the deployment {deployment} runs it: from now on its rollouts have nothing to go back to"
                ));
            }
            let listed = Listed {
                manifest_target: name.as_str(),
                standing: "withdrawn",
                targets_version,
            };
            listed.print(format)
        }
    }
}
