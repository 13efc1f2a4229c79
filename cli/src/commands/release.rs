//! `fieldfare release`: importing, signing, publishing, verifying.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Subcommand};
use fieldfare_proto::v1;
use fieldfare_release::tuf::TrustedState;
use fieldfare_release::{ModelName, ReleaseManifest, Sha256Digest, TargetName};
use serde::Serialize;

use super::{Session, job};
use crate::args::{Format, Global};
use crate::clock;
use crate::exit::Advice;
use crate::limits::MAX_TEXT_BYTES;
use crate::output::{Progress, bytes, note, show, since, table};
use crate::signing;

/// What to do with releases.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Makes this fleet's release root and targets keys, and installs the root. They stay in the context's folder: back it up.
    Init,
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

/// Arguments of `release import`.
#[derive(Clone, Debug, Args)]
pub struct Import {
    /// A GGUF file, or hf://OWNER/REPOSITORY/FILE.gguf, which the trainer fetches.
    pub source: String,
    /// The model it becomes a release of.
    #[arg(long)]
    pub model: String,
    /// Held-out text to evaluate each variant on: JSONL of {"text"}, {"prompt","completion"} or {"messages"}.
    #[arg(long)]
    pub evaluation: PathBuf,
    /// Probe prompts that go into the release: JSONL of {"prompt"}, with "completion" where the answer is known.
    #[arg(long)]
    pub probes: Option<PathBuf>,
    /// Variants to build, for example f16,q8_0,q4_0; all that fit the source when not given.
    #[arg(long, value_delimiter = ',')]
    pub variants: Vec<String>,
    /// Name of the job; made from the model's when not given.
    #[arg(long)]
    pub job: Option<String>,
    /// Print the job and go, rather than follow it.
    #[arg(long)]
    pub detach: bool,
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

/// Uploads what an import needs and starts the job.
///
/// # Errors
/// A file is missing or too large, or the controller refuses.
pub async fn import(session: &Session, import: &Import) -> Result<v1::Job> {
    let source = if import.source.starts_with("hf://") {
        v1::import_spec::Source::HubUri(import.source.clone())
    } else {
        v1::import_spec::Source::Uploaded(upload(session, import.source.as_ref(), u64::MAX).await?)
    };
    let probes = match &import.probes {
        Some(path) => Some(upload(session, path, MAX_TEXT_BYTES).await?),
        None => None,
    };
    let spec = v1::ImportSpec {
        job: import
            .job
            .clone()
            .unwrap_or_else(|| format!("import-{}-{}", import.model, clock::now().unix_ms() / 1000)),
        model: import.model.clone(),
        source: Some(source),
        variants: import.variants.clone(),
        evaluation: Some(upload(session, &import.evaluation, MAX_TEXT_BYTES).await?),
        probes,
    };
    let request = v1::ImportModelRequest { spec: Some(spec) };
    session
        .client
        .call(
            request,
            |mut api, request| async move { api.import_model(request).await },
        )
        .await
}

/// Uploads one file, showing how far it is.
///
/// # Errors
/// It is missing, larger than `limit` bytes, or not taken.
pub async fn upload(session: &Session, path: &std::path::Path, limit: u64) -> Result<v1::UploadedArtifact> {
    let length = std::fs::metadata(path)
        .with_context(|| format!("reading {}", path.display()))?
        .len();
    if length > limit {
        bail!("{} has {length} bytes, more than the limit of {limit}", path.display());
    }
    let progress = std::sync::Arc::new(Progress::begin(format!("uploading {}", path.display())));
    let telling = std::sync::Arc::clone(&progress);
    session
        .client
        .upload(path, move |sent, total| telling.bytes(sent, total))
        .await
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

/// What was verified.
#[derive(Clone, Debug, Serialize)]
pub struct Verified {
    /// Target name of the manifest.
    pub manifest_target: String,
    /// Its digest.
    pub manifest_sha256: String,
    /// Who signed for it: "targets", or a delegated role.
    pub role: String,
    /// Files checked, the manifest included.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Verifies a release from the controller, as a device would.
///
/// # Errors
/// What a device would refuse.
pub async fn verify(session: &Session, name: &TargetName) -> Result<Verified> {
    let client = &session.client;
    let mut fetch = async |file: &str, limit: u64| client.file(&format!("metadata/{file}"), limit).await;
    let state = signing::trusted(&session.context)?;
    let mut repository = signing::verify_repository(state, &mut fetch).await?;
    session.context.keep_trust(repository.state())?;
    let listed = signing::look_up(&mut repository, name, &mut fetch)
        .await?
        .ok_or_else(|| unlisted(name))?;
    let stored = format!("targets/{}", name.stored_as(&listed.sha256));
    let bytes = client
        .file(&stored, listed.length)
        .await?
        .ok_or_else(|| anyhow!("{stored} is missing"))?;
    let manifest = check_manifest(name, &listed, &bytes)?;
    let mut verified = Verified::of(name, &listed);
    for (target, artifact) in manifest.artifacts() {
        let entry = signing::look_up(&mut repository, target, &mut fetch)
            .await?
            .ok_or_else(|| unlisted(target))?;
        artifact.agrees_with(&entry).with_context(|| format!("{target}"))?;
        client
            .check_target(&target.stored_as(&entry.sha256), entry.length, entry.sha256)
            .await
            .with_context(|| format!("{target}"))?;
        verified.add(entry.length);
    }
    Ok(verified)
}

/// Verifies a release from a copy of the repository, without a network.
async fn verify_folder(folder: &std::path::Path, state: TrustedState, name: &TargetName) -> Result<Verified> {
    let read = |path: PathBuf, limit: u64| -> Result<Option<Vec<u8>>> {
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            facts if facts.as_ref().is_ok_and(|facts| facts.len() > limit) => {
                bail!("{} is longer than {limit} bytes", path.display())
            }
            _ => {}
        }
        std::fs::read(&path)
            .map(Some)
            .with_context(|| format!("reading {}", path.display()))
    };
    let mut fetch = async |file: &str, limit: u64| read(folder.join("metadata").join(file), limit);
    let target = |stored: String, length: u64| {
        let path = folder.join("targets").join(stored);
        read(path.clone(), length)?.ok_or_else(|| anyhow!("{} is missing", path.display()))
    };
    let mut repository = signing::verify_repository(state, &mut fetch).await?;
    let listed = signing::look_up(&mut repository, name, &mut fetch)
        .await?
        .ok_or_else(|| unlisted(name))?;
    let manifest = check_manifest(name, &listed, &target(name.stored_as(&listed.sha256), listed.length)?)?;
    let mut verified = Verified::of(name, &listed);
    for (artifact_name, artifact) in manifest.artifacts() {
        let entry = signing::look_up(&mut repository, artifact_name, &mut fetch)
            .await?
            .ok_or_else(|| unlisted(artifact_name))?;
        artifact
            .agrees_with(&entry)
            .with_context(|| format!("{artifact_name}"))?;
        let bytes = target(artifact_name.stored_as(&entry.sha256), entry.length)?;
        fieldfare_release::ArtifactVerifier::check(entry.length, entry.sha256, &bytes)
            .with_context(|| format!("{artifact_name}"))?;
        verified.add(entry.length);
    }
    Ok(verified)
}

impl Verified {
    fn of(name: &TargetName, listed: &fieldfare_release::tuf::ListedTarget) -> Self {
        Self {
            manifest_target: name.to_string(),
            manifest_sha256: listed.sha256.to_string(),
            role: listed.role.to_string(),
            files: 1,
            bytes: listed.length,
        }
    }

    fn add(&mut self, length: u64) {
        self.files += 1;
        self.bytes += length;
    }
}

fn unlisted(name: &TargetName) -> anyhow::Error {
    anyhow!("{name} is not listed by the signed repository")
}

fn check_manifest(
    name: &TargetName,
    listed: &fieldfare_release::tuf::ListedTarget,
    bytes: &[u8],
) -> Result<ReleaseManifest> {
    fieldfare_release::ArtifactVerifier::check(listed.length, listed.sha256, bytes)
        .with_context(|| format!("{name}"))?;
    ReleaseManifest::decode(name, bytes).with_context(|| format!("{name}"))
}

#[derive(Serialize)]
struct View {
    model: String,
    number: u64,
    manifest_target: String,
    manifest_sha256: String,
    standing: &'static str,
    created_unix_ms: i64,
    manifest: Option<ReleaseManifest>,
}

impl View {
    fn of(release: v1::Release) -> Self {
        Self {
            standing: match release.standing() {
                v1::ReleaseStanding::Proposed => "proposed",
                v1::ReleaseStanding::Published => "published",
                v1::ReleaseStanding::Withdrawn => "withdrawn",
                v1::ReleaseStanding::Unspecified => "unknown",
            },
            manifest: manifest(&release).ok().map(|(_, manifest)| manifest),
            manifest_sha256: Sha256Digest::of(&release.manifest).to_string(),
            model: release.model,
            number: release.number,
            manifest_target: release.manifest_target,
            created_unix_ms: release.created_unix_ms,
        }
    }
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
        return verify_offline(global, release, folder, root.as_deref()).await;
    }
    let session = Session::open(global).await?;
    match action {
        Action::Init => {
            let made = signing::init(&session.context, &session.client).await?;
            note(if made {
                "the release root is installed"
            } else {
                "the release root was there; nothing changed"
            });
            Ok(())
        }
        Action::Import(arguments) => {
            let started = import(&session, &arguments).await?;
            if arguments.detach {
                return job::print(session.format, started);
            }
            let ended = job::follow(&session, &started.name).await?;
            job::print(session.format, job::succeeded(ended)?)
        }
        Action::Publish { release } => {
            let release = get(&session, &release).await?;
            let version = publish(&session, &release).await?;
            note(format!(
                "{} is published: targets version {version}",
                release.manifest_target
            ));
            Ok(())
        }
        Action::Delegate { model, trainer } => {
            let version = delegate(&session, &model, &trainer).await?;
            note(format!(
                "{trainer} may sign adapter releases of {model}: targets version {version}"
            ));
            Ok(())
        }
        Action::List { model } => {
            let request = v1::ListReleasesRequest {
                model: model.unwrap_or_default(),
            };
            let answer = session.client.call(
                request,
                |mut api, request| async move { api.list_releases(request).await },
            );
            let views: Vec<View> = answer.await?.releases.into_iter().map(View::of).collect();
            show(session.format, &views, |views| list(views))
        }
        Action::Show { release } => show(session.format, &View::of(get(&session, &release).await?), details),
        Action::Verify { release, .. } => {
            let (name, _) = manifest(&get(&session, &release).await?)?;
            tell(session.format, &verify(&session, &name).await?)
        }
        Action::Withdraw { release } => {
            let (name, _) = manifest(&get(&session, &release).await?)?;
            let version = signing::withdraw_release(&session.context, &session.client, &name).await?;
            note(format!(
                "{name} is withdrawn: targets version {version}; devices that run it go on until a rollout"
            ));
            Ok(())
        }
    }
}

async fn verify_offline(
    global: &Global,
    release: &str,
    folder: &std::path::Path,
    root: Option<&std::path::Path>,
) -> Result<()> {
    let name: TargetName = release
        .parse()
        .with_context(|| format!("with --folder, {release:?} should be a target name"))?;
    let state = match root {
        Some(path) => {
            TrustedState::from_root(&std::fs::read(path).with_context(|| format!("reading {}", path.display()))?)?
        }
        None => signing::trusted(
            &crate::context::Contexts::of_user(global.config.as_deref())?.open(global.context.as_deref())?,
        )?,
    };
    tell(global.output, &verify_folder(folder, state, &name).await?)
}

fn tell(format: Format, verified: &Verified) -> Result<()> {
    show(format, verified, |verified| {
        let Verified {
            manifest_target,
            manifest_sha256,
            role,
            files,
            bytes: size,
        } = verified;
        format!(
            "{manifest_target} is genuine: signed by {role}, {files} files, {}\nsha256 {manifest_sha256}",
            bytes(*size)
        )
    })
}

fn list(views: &[View]) -> String {
    let now = clock::now();
    table(
        ["release", "standing", "variants", "made", "manifest"],
        views.iter().map(|view| {
            let variants = view.manifest.iter().flat_map(|manifest| &manifest.variants);
            let names: Vec<String> = variants.map(|variant| variant.name.to_string()).collect();
            [
                format!("{}:{}", view.model, view.number),
                view.standing.to_owned(),
                names.join(", "),
                since(now, view.created_unix_ms),
                view.manifest_target.clone(),
            ]
        }),
    )
}

fn details(view: &View) -> String {
    let head = format!(
        "{}:{} ({})\n{}\nsha256 {}",
        view.model, view.number, view.standing, view.manifest_target, view.manifest_sha256
    );
    let Some(manifest) = &view.manifest else { return head };
    let variants = table(
        ["variant", "size", "held-out loss", "memory", "adapter"],
        manifest.variants.iter().map(|variant| {
            [
                variant.name.to_string(),
                bytes(variant.figures.weight_bytes),
                format!("{:.4} nats/token", variant.figures.held_out_loss),
                bytes(variant.requirements.memory_bytes),
                variant
                    .adapter()
                    .map(|adapter| adapter.target.to_string())
                    .unwrap_or_default(),
            ]
        }),
    );
    let made = serde_json::to_string_pretty(&manifest.provenance).unwrap_or_default();
    format!("{head}\n{variants}\nmade by {made}")
}
