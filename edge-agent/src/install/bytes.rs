//! The bytes of releases on this disk: artifacts and manifests by digest.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use fieldfare_files::{self as files, FileError, Secrecy};
use fieldfare_fleet::install::Installed;
use fieldfare_fleet::{ByteSize, Digest};
use fieldfare_release::manifest::{Artifact, Variant};
use fieldfare_release::names::TargetKind;
use fieldfare_release::{
    ArtifactError, ArtifactVerifier, ModelName, ReleaseManifest, ReleaseNumber, Sha256Digest, TargetName,
};

use crate::folder::Folder;
use crate::limits::COPY_CHUNK;

/// Why bytes cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BytesError {
    /// The folder cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// An artifact is not what the signed release lists.
    #[error("{target} on this disk is not what the signed release lists")]
    Changed {
        /// Which target.
        target: Box<TargetName>,
        /// In which way.
        #[source]
        source: ArtifactError,
    },
    /// A manifest is missing or is not what was installed.
    #[error("the manifest of {release} on this disk is missing or has changed")]
    Manifest {
        /// Of which release.
        release: String,
    },
    /// The manifest has no such variant.
    #[error("{release} has no variant {variant}")]
    NoVariant {
        /// The release.
        release: String,
        /// The variant.
        variant: String,
    },
}

impl BytesError {
    /// Whether the bytes themselves are wrong, so that reading them again cannot help.
    pub const fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Changed { .. } | Self::Manifest { .. } | Self::NoVariant { .. }
        )
    }
}

/// A release's manifest with the variant that is installed.
#[derive(Clone, Debug)]
pub struct Described {
    /// The manifest's name in the repository.
    pub target: TargetName,
    /// The manifest.
    pub manifest: ReleaseManifest,
    /// The variant.
    pub variant: Variant,
}

/// The digest in the other crate's form.
pub(crate) const fn digest(sha256: &Sha256Digest) -> Digest {
    Digest::from_bytes(*sha256.as_bytes())
}

/// Where releases lie.
#[derive(Clone, Debug)]
pub struct Shelf {
    folder: Folder,
}

impl Shelf {
    /// The releases of a folder.
    pub const fn new(folder: Folder) -> Self {
        Self { folder }
    }

    /// Where an artifact lies once it is whole.
    pub fn artifact(&self, sha256: &Sha256Digest) -> PathBuf {
        self.folder.blobs().join(sha256.to_string())
    }

    /// Where an artifact lies while it is being fetched.
    pub fn part(&self, sha256: &Sha256Digest) -> PathBuf {
        self.folder.blobs().join(format!("{sha256}.part"))
    }

    fn manifest_path(&self, sha256: &Digest) -> PathBuf {
        self.folder.manifests().join(format!("{sha256}.json"))
    }

    /// Keeps a manifest that was verified.
    ///
    /// # Errors
    /// The system refuses.
    pub fn keep_manifest(&self, bytes: &[u8]) -> Result<Digest, FileError> {
        let sha256 = digest(&Sha256Digest::of(bytes));
        files::replace(&self.manifest_path(&sha256), bytes, Secrecy::Secret)?;
        Ok(sha256)
    }

    /// The manifest and the variant of what is installed, checked against the digest under which it was installed.
    ///
    /// # Errors
    /// [`BytesError`].
    pub fn describe(&self, installed: &Installed) -> Result<Described, BytesError> {
        let changed = || BytesError::Manifest {
            release: installed.release.to_string(),
        };
        let bytes = files::read(&self.manifest_path(&installed.manifest))?.ok_or_else(changed)?;
        if digest(&Sha256Digest::of(&bytes)) != installed.manifest {
            return Err(changed());
        }
        let model: ModelName = installed.release.model.as_str().parse().map_err(|_| changed())?;
        let number = u32::try_from(installed.release.number.0)
            .ok()
            .and_then(ReleaseNumber::new)
            .ok_or_else(changed)?;
        let decode = |kind| {
            let target = TargetName::new(ModelName::clone(&model), number, kind);
            ReleaseManifest::decode(&target, &bytes)
                .ok()
                .map(|manifest| (target, manifest))
        };
        let decoded = decode(TargetKind::Release).or_else(|| decode(TargetKind::AdapterRelease));
        let (target, manifest) = decoded.ok_or_else(changed)?;
        let variant = installed
            .variant
            .as_str()
            .parse()
            .ok()
            .and_then(|name| manifest.variant(&name).cloned());
        let variant = variant.ok_or_else(|| BytesError::NoVariant {
            release: installed.release.to_string(),
            variant: installed.variant.to_string(),
        })?;
        Ok(Described {
            target,
            manifest,
            variant,
        })
    }

    /// Hashes the bytes of one artifact. Blocks.
    ///
    /// # Errors
    /// They cannot be read, or are not what is listed.
    pub fn verify_artifact(&self, artifact: &Artifact) -> Result<(), BytesError> {
        let path = self.artifact(&artifact.sha256);
        let changed = |source| BytesError::Changed {
            target: Box::new(artifact.target.clone()),
            source,
        };
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let source = ArtifactError::TooShort {
                    listed: artifact.length,
                    received: 0,
                };
                return Err(changed(source));
            }
            opened => opened.map_err(|source| BytesError::Read {
                path: path.clone(),
                source,
            })?,
        };
        let mut verifier = ArtifactVerifier::new(artifact.length, artifact.sha256);
        let mut buffer = vec![0; COPY_CHUNK];
        loop {
            let read = file.read(&mut buffer).map_err(|source| BytesError::Read {
                path: path.clone(),
                source,
            })?;
            if read == 0 {
                return verifier.finish().map_err(changed);
            }
            verifier.update(&buffer[..read]).map_err(changed)?;
        }
    }

    /// Hashes everything that serving this release would read. Blocks.
    ///
    /// # Errors
    /// [`BytesError`] names the artifact.
    pub fn verify(&self, installed: &Installed) -> Result<Described, BytesError> {
        let described = self.describe(installed)?;
        for artifact in described.variant.artifacts.values() {
            self.verify_artifact(artifact)?;
        }
        Ok(described)
    }

    /// Bytes of a variant that are not on the disk yet; what was fetched in part counts.
    pub fn missing(&self, variant: &Variant) -> ByteSize {
        let missing = variant.artifacts.values().map(|artifact| {
            if crate::process::length(&self.artifact(&artifact.sha256)) == artifact.length {
                return 0;
            }
            let part = crate::process::length(&self.part(&artifact.sha256));
            artifact.length.saturating_sub(part)
        });
        ByteSize::new(missing.fold(0, u64::saturating_add))
    }

    /// Removes an artifact whose bytes are wrong, so that it is fetched again.
    ///
    /// # Errors
    /// The system refuses.
    pub fn forget(&self, artifact: &Artifact) -> Result<(), FileError> {
        files::remove(&self.artifact(&artifact.sha256))?;
        files::remove(&self.part(&artifact.sha256))
    }

    /// Removes everything that none of these releases has. A release whose manifest cannot be read keeps everything.
    ///
    /// # Errors
    /// The system refuses.
    pub fn keep_only(&self, kept: &[&Installed]) -> Result<(), FileError> {
        let mut names = BTreeSet::new();
        for installed in kept {
            names.insert(format!("{}.json", installed.manifest));
            let Ok(described) = self.describe(installed) else {
                return Ok(());
            };
            for artifact in described.variant.artifacts.values() {
                names.insert(artifact.sha256.to_string());
                names.insert(format!("{}.part", artifact.sha256));
            }
        }
        for directory in [self.folder.blobs(), self.folder.manifests()] {
            let Ok(entries) = std::fs::read_dir(&directory) else {
                continue;
            };
            for entry in entries.flatten() {
                let unknown = entry.file_name().into_string().is_ok_and(|name| !names.contains(&name));
                if unknown {
                    files::remove(&entry.path())?;
                }
            }
        }
        Ok(())
    }
}
