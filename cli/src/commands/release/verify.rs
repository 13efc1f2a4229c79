//! `fieldfare release verify`: everything that a device checks before it installs.

use std::io::{ErrorKind, Read};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use fieldfare_release::tuf::{ListedTarget, TrustedState, VerifiedRepository};
use fieldfare_release::{ArtifactVerifier, ReleaseManifest, TargetName};
use serde::Serialize;

use super::super::Session;
use crate::args::{Format, Global};
use crate::client::Client;
use crate::context::Contexts;
use crate::limits::UPLOAD_CHUNK;
use crate::output::{bytes, show};
use crate::signing;

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

/// Where the files of a repository are: `metadata/...` and `targets/...`.
enum Files<'a> {
    Controller(&'a Client),
    Folder(&'a Path),
}

impl Files<'_> {
    /// One file of at most `limit` bytes; `None` where there is none.
    async fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let folder = match self {
            Self::Controller(client) => return client.file(path, limit).await,
            Self::Folder(folder) => folder,
        };
        let path = folder.join(path);
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            facts if facts.as_ref().is_ok_and(|facts| facts.len() > limit) => {
                bail!("{} is longer than {limit} bytes", path.display())
            }
            _ => {}
        }
        let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(Some(bytes))
    }

    /// Reads an artifact to its end and checks it, keeping nothing.
    async fn check(&self, target: &TargetName, listed: &ListedTarget) -> Result<()> {
        let stored = target.stored_as(&listed.sha256);
        let folder = match self {
            Self::Controller(client) => return client.check_target(&stored, listed.length, listed.sha256).await,
            Self::Folder(folder) => folder,
        };
        let path = folder.join("targets").join(stored);
        let mut file = std::fs::File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let mut verifier = ArtifactVerifier::new(listed.length, listed.sha256);
        let mut chunk = vec![0; UPLOAD_CHUNK];
        loop {
            match file
                .read(&mut chunk)
                .with_context(|| format!("reading {}", path.display()))?
            {
                0 => return Ok(verifier.finish()?),
                read => verifier.update(&chunk[..read])?,
            }
        }
    }
}

/// Brings what is known of the repository up to date, and verifies all of its metadata.
async fn update(files: &Files<'_>, state: TrustedState) -> Result<VerifiedRepository> {
    signing::verify_repository(state, async |file: &str, limit: u64| {
        files.read(&format!("metadata/{file}"), limit).await
    })
    .await
}

/// Verifies one release of the repository, and every artifact that it names.
async fn verified(files: &Files<'_>, mut repository: VerifiedRepository, name: &TargetName) -> Result<Verified> {
    let mut fetch = async |file: &str, limit: u64| files.read(&format!("metadata/{file}"), limit).await;
    let listed = signing::listed(&mut repository, name, &mut fetch).await?;
    let stored = format!("targets/{}", name.stored_as(&listed.sha256));
    let bytes = files.read(&stored, listed.length).await?;
    let bytes = bytes.ok_or_else(|| anyhow!("{stored} is missing"))?;
    let manifest = manifest(name, &listed, &bytes).with_context(|| name.to_string())?;
    let mut verified = Verified {
        manifest_target: name.to_string(),
        manifest_sha256: listed.sha256.to_string(),
        role: listed.role.to_string(),
        files: 1,
        bytes: listed.length,
    };
    for (target, artifact) in manifest.artifacts() {
        let entry = signing::listed(&mut repository, target, &mut fetch).await?;
        artifact.agrees_with(&entry).with_context(|| target.to_string())?;
        files.check(target, &entry).await.with_context(|| target.to_string())?;
        verified.files += 1;
        verified.bytes += entry.length;
    }
    Ok(verified)
}

fn manifest(name: &TargetName, listed: &ListedTarget, bytes: &[u8]) -> Result<ReleaseManifest> {
    ArtifactVerifier::check(listed.length, listed.sha256, bytes)?;
    Ok(ReleaseManifest::decode(name, bytes)?)
}

/// Verifies a release from the controller, as a device would, and keeps what was seen of the repository.
///
/// # Errors
/// What a device would refuse.
pub async fn verify(session: &Session, name: &TargetName) -> Result<Verified> {
    let files = Files::Controller(&session.client);
    let repository = update(&files, signing::trusted(&session.context)?).await?;
    // What was seen counts, whatever becomes of this release: an older repository is refused from now on.
    session.context.keep_trust(repository.state())?;
    verified(&files, repository, name).await
}

/// Verifies a release in a copy of the repository, without a network.
pub(super) async fn verify_folder(
    global: &Global,
    release: &str,
    folder: &Path,
    root: Option<&Path>,
) -> Result<Verified> {
    let name: TargetName = release
        .parse()
        .with_context(|| format!("with --folder, {release:?} should be a target name"))?;
    let state = match root {
        Some(path) => {
            let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            TrustedState::from_root(&bytes).with_context(|| format!("reading {}", path.display()))?
        }
        None => signing::trusted(&Contexts::of_user(global.config.as_deref())?.open(global.context.as_deref())?)?,
    };
    let files = Files::Folder(folder);
    verified(&files, update(&files, state).await?, &name).await
}

/// Says what was verified.
pub(super) fn tell(format: Format, verified: &Verified) -> Result<()> {
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
