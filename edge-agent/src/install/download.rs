//! An artifact's bytes: fetched from where an earlier attempt broke off, and put in their place once their digest is right.

use std::io::Read;
use std::path::Path;

use fieldfare_files as files;
use fieldfare_member::patience::Pace;
use fieldfare_release::ArtifactVerifier;
use fieldfare_release::manifest::Artifact;
use reqwest::StatusCode;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::Instant;

use super::bytes::Shelf;
use super::repository::{RemoteRepository, RepositoryError, next_chunk};
use crate::limits::COPY_CHUNK;

/// How far a download is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes on the disk.
    pub done: u64,
    /// Bytes of all artifacts.
    pub total: u64,
}

impl RemoteRepository {
    /// Fetches an artifact, going on where an earlier attempt broke off, and puts it on the shelf once its digest is right.
    ///
    /// # Errors
    /// [`RepositoryError`]. What came stays for the next attempt, unless its digest is wrong.
    pub async fn fetch(
        &self,
        artifact: &Artifact,
        shelf: &Shelf,
        progress: &watch::Sender<Fetched>,
    ) -> Result<(), RepositoryError> {
        if crate::process::length(&shelf.artifact(&artifact.sha256)) == artifact.length {
            progress.send_modify(|fetched| fetched.done += artifact.length);
            return Ok(());
        }
        let before = progress.borrow().done;
        let part = shelf.part(&artifact.sha256);
        let fetched = self.download(artifact, &part, progress).await;
        if let Err(RepositoryError::Artifact { .. }) = &fetched {
            files::remove(&part)?;
        }
        if fetched.is_err() {
            progress.send_modify(|fetched| fetched.done = before);
        }
        fetched?;
        let place = shelf.artifact(&artifact.sha256);
        let name = artifact.target.to_string();
        std::fs::rename(&part, &place).map_err(|source| RepositoryError::Write { name, source })?;
        fieldfare_crash::point("agent.install.artifact-fetched");
        Ok(files::sync_folder(&self.folder.blobs())?)
    }

    async fn download(
        &self,
        artifact: &Artifact,
        part: &Path,
        progress: &watch::Sender<Fetched>,
    ) -> Result<(), RepositoryError> {
        let name = format!("targets/{}", artifact.target.stored_as(&artifact.sha256));
        let write = |source| RepositoryError::Write {
            name: name.clone(),
            source,
        };
        let wrong = |source| RepositoryError::Artifact {
            name: name.clone(),
            source,
        };
        let (mut verifier, mut have) = hash_part(artifact, part.to_owned()).await.map_err(write)?;
        progress.send_modify(|fetched| fetched.done += have);
        if have < artifact.length {
            let response = self.get(&name, have).await?;
            let resumed = match response.status() {
                StatusCode::PARTIAL_CONTENT if have > 0 => true,
                StatusCode::OK => false,
                status => return Err(RepositoryError::Status { name, status }),
            };
            if !resumed && have > 0 {
                // The server knows no ranges: everything comes again.
                progress.send_modify(|fetched| fetched.done -= have);
                (verifier, have) = (ArtifactVerifier::new(artifact.length, artifact.sha256), 0);
            }
            let mut options = tokio::fs::OpenOptions::new();
            let mut file = options
                .create(true)
                .write(true)
                .truncate(have == 0)
                .append(have > 0)
                .open(part)
                .await
                .map_err(write)?;
            let copied = copy(response.bytes_stream(), &name, &mut verifier, &mut file, progress).await;
            // What came before a break-off reaches the disk too: the next attempt begins by hashing it.
            file.flush().await.map_err(write)?;
            file.sync_all().await.map_err(write)?;
            copied?;
            let (received, listed) = (verifier.received(), artifact.length);
            if received < listed {
                return Err(RepositoryError::BrokenOff { name, received, listed });
            }
        }
        verifier.finish().map_err(wrong)
    }
}

/// Writes a body to a file as it comes, up to its end, the first byte that is too many, or until too little comes.
async fn copy<S>(
    mut stream: S,
    name: &str,
    verifier: &mut ArtifactVerifier,
    file: &mut File,
    progress: &watch::Sender<Fetched>,
) -> Result<(), RepositoryError>
where
    S: futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Unpin,
{
    let name = || name.to_owned();
    let write = |source| RepositoryError::Write { name: name(), source };
    let wrong = |source| RepositoryError::Artifact { name: name(), source };
    let slow = |source| RepositoryError::Trickles { name: name(), source };
    let mut pace = Pace::new(Instant::now());
    while let Some(chunk) = next_chunk(&mut stream, &name()).await? {
        verifier.update(&chunk).map_err(wrong)?;
        file.write_all(&chunk).await.map_err(write)?;
        progress.send_modify(|fetched| fetched.done += chunk.len() as u64);
        pace.note(Instant::now(), chunk.len() as u64).map_err(slow)?;
    }
    Ok(())
}

/// Hashes what an earlier attempt left. More bytes than listed are thrown away.
async fn hash_part(artifact: &Artifact, part: std::path::PathBuf) -> std::io::Result<(ArtifactVerifier, u64)> {
    let (length, sha256) = (artifact.length, artifact.sha256);
    let hash = move || {
        let mut verifier = ArtifactVerifier::new(length, sha256);
        if crate::process::length(&part) > length {
            std::fs::remove_file(&part)?;
        }
        let Ok(mut file) = std::fs::File::open(&part) else {
            return Ok((verifier, 0));
        };
        let mut buffer = vec![0; COPY_CHUNK];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 || verifier.update(&buffer[..read]).is_err() {
                let received = verifier.received();
                return Ok((verifier, received));
            }
        }
    };
    tokio::task::spawn_blocking(hash).await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fieldfare_member::limits::DOWNLOAD_WINDOW;
    use fieldfare_release::Sha256Digest;

    use super::super::repository::tests::trickle;
    use super::*;
    use crate::limits::DOWNLOAD_SILENCE;

    #[tokio::test(start_paused = true)]
    async fn attack_an_artifact_that_comes_a_byte_at_a_time_is_given_up_and_what_came_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("blob.part");
        let mut file = File::create(&part).await.unwrap();
        let mut verifier = ArtifactVerifier::new(1 << 30, Sha256Digest::of(b"what is listed"));
        let (progress, fetched) = watch::channel(Fetched::default());
        let begun = Instant::now();
        let every = DOWNLOAD_SILENCE - Duration::from_secs(1);
        let copied = copy(trickle(every), "targets/blob", &mut verifier, &mut file, &progress).await;
        let error = copied.unwrap_err();
        assert!(
            matches!(error, RepositoryError::Trickles { .. }) && error.is_outage(),
            "{error}"
        );
        assert!(begun.elapsed() < DOWNLOAD_WINDOW + every, "{:?}", begun.elapsed());
        file.flush().await.unwrap();
        let came = std::fs::metadata(&part).unwrap().len();
        assert!(came > 0 && fetched.borrow().done == came, "{came}");
    }
}
