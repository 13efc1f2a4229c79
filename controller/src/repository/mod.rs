//! The signed release repository: which metadata is current, and how it moves forward.
//!
//! Files are written first, as blobs; then one record, the pointer, makes them current by compare-and-swap. The targets key is
//! never here: snapshot and timestamp are signed, everything else is only accepted.

pub mod listing;
pub mod manifests;
pub mod online;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use fieldfare_proto::v1;
use fieldfare_release::tuf::{PublishError, PublishedFile, Repository, Version, adapter_role};
use fieldfare_release::{Sha256Digest, TargetName, UnixSeconds};
use fieldfare_tls::TimeSource;
use ring::rand::SystemRandom;

use self::online::OnlineKeys;
use crate::backup::first_number;
use crate::blobs::{BlobError, Blobs};
use crate::clock::unix_ms;
use crate::keys::Keys;
use crate::limits::{METADATA_BYTES_MAX, RETIRED_METADATA_MAX, TIMESTAMP_CHECK, TIMESTAMP_RENEW_BEFORE};
use crate::records::{Change, Records, attempt};
use crate::refusal::Refusal;

/// The metadata that a pointer of this generation points at.
type Current = (v1::Generation, Arc<Repository>);

/// The release repository of one tenant.
#[derive(Clone, Debug)]
pub struct ReleaseRepository {
    records: Records,
    keys: Keys,
    blobs: Blobs,
    online: Arc<OnlineKeys>,
    clock: TimeSource,
    /// The metadata of the newest pointer that was read.
    current: Arc<Mutex<Option<Current>>>,
}

impl From<BlobError> for Refusal {
    fn from(error: BlobError) -> Self {
        Self::broken("reading or writing a blob", error)
    }
}

/// A refused file is the sender's mistake; a missing one is a matter of order.
fn refused(field: &'static str) -> impl Fn(PublishError) -> Refusal {
    move |error| match error {
        PublishError::Missing { .. } => Refusal::Unready(crate::refusal::chain(&error)),
        PublishError::WrongVersion { .. } => Refusal::Stale(crate::refusal::chain(&error)),
        error => Refusal::invalid(field, crate::refusal::chain(&error)),
    }
}

fn digest(bytes: &[u8]) -> Option<Sha256Digest> {
    bytes.try_into().ok().map(Sha256Digest::from_bytes)
}

impl ReleaseRepository {
    /// The repository whose pointer and files lie here.
    pub fn new(records: Records, keys: Keys, blobs: Blobs, online: Arc<OnlineKeys>, clock: TimeSource) -> Self {
        Self {
            records,
            keys,
            blobs,
            online,
            clock,
            current: Arc::default(),
        }
    }

    /// The blobs that hold its files and artifacts.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// The keys that sign for it.
    pub fn online(&self) -> &OnlineKeys {
        &self.online
    }

    fn now(&self) -> UnixSeconds {
        UnixSeconds::new(self.clock.now().unix_ms() / 1000)
    }

    /// The pointer as it is now; an empty one before the first root.
    pub async fn pointer(&self) -> Result<v1::RepositoryRecord, Refusal> {
        Ok(self.records.get(&self.keys.repository()).await?.unwrap_or_default())
    }

    /// The digest of a metadata file that is served under this name.
    pub async fn file(&self, name: &str) -> Result<Option<Sha256Digest>, Refusal> {
        let pointer = self.pointer().await?;
        let found = pointer
            .current
            .iter()
            .chain(&pointer.retired)
            .find(|file| file.name == name);
        Ok(found.and_then(|file| digest(&file.sha256)))
    }

    /// Whether the current metadata of any role lists a target with these bytes.
    pub async fn is_listed(&self, name: &TargetName, sha256: &Sha256Digest) -> Result<bool, Refusal> {
        let Some(repository) = self.current().await? else {
            return Ok(false);
        };
        let adapters = repository.delegated(&adapter_role(name.model()));
        let listed = [repository.targets(), adapters]
            .into_iter()
            .flatten()
            .filter_map(|file| file.payload().targets.get(name.as_str()));
        Ok(listed
            .into_iter()
            .any(|target| target.hashes.sha256.as_ref() == Some(sha256)))
    }

    /// The current metadata; nothing before the first root.
    pub async fn current(&self) -> Result<Option<Arc<Repository>>, Refusal> {
        let pointer = self.pointer().await?;
        self.current_at(&pointer).await
    }

    async fn current_at(&self, pointer: &v1::RepositoryRecord) -> Result<Option<Arc<Repository>>, Refusal> {
        let held = || self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, repository)) = held().as_ref().filter(|(at, _)| Some(*at) == pointer.generation) {
            return Ok(Some(Arc::clone(repository)));
        }
        let Some(repository) = self.load_from(pointer).await?.map(Arc::new) else {
            return Ok(None);
        };
        *held() = pointer.generation.map(|at| (at, Arc::clone(&repository)));
        Ok(Some(repository))
    }

    async fn load_from(&self, pointer: &v1::RepositoryRecord) -> Result<Option<Repository>, Refusal> {
        if pointer.root_version == 0 {
            return Ok(None);
        }
        let mut files = BTreeMap::new();
        for file in &pointer.current {
            let lost = || {
                Refusal::broken(
                    "reading the release repository",
                    format!("the file {} is lost", file.name),
                )
            };
            let sha256 = digest(&file.sha256).ok_or_else(lost)?;
            let bytes = self.blobs.read(&sha256, METADATA_BYTES_MAX).await?.ok_or_else(lost)?;
            files.insert(file.name.clone(), bytes.to_vec());
        }
        let loaded = Repository::load(Version::FIRST, |name| files.get(name).cloned());
        loaded
            .map(Some)
            .map_err(|error| Refusal::broken("reading the release repository", error))
    }

    /// Takes the first root, or the next one. Repeating the newest one changes nothing.
    pub async fn install_root(&self, root: &[u8]) -> Result<(), Refusal> {
        let root = attempt!("the release repository", self.records, change, {
            let mut pointer = self.read_pointer(&mut change).await?;
            let mut repository = match self.load_from(&pointer).await? {
                Some(repository) if repository.root().bytes() == root => return Ok(()),
                None => {
                    let first = Repository::new(root).map_err(refused("root"))?;
                    if first.root().version() != Version::FIRST {
                        return Err(Refusal::invalid("root", "the first root has version 1"));
                    }
                    first
                }
                Some(mut repository) => {
                    repository.accept_root(root).map_err(refused("root"))?;
                    repository
                }
            };
            // One under which this controller could sign nothing would stop every later publication.
            self.online.named_by(repository.root().payload())?;
            // A root that replaces the online keys is followed by a snapshot and a timestamp of the new ones.
            if repository.timestamp().is_some() {
                self.sign(&mut repository)?;
            }
            self.advance(&mut pointer, &repository).await?;
            change.put(self.keys.repository(), &mut pointer);
            repository.root().payload().clone()
        });
        self.online.settle(&root)
    }

    async fn read_pointer(&self, change: &mut Change<'_>) -> Result<v1::RepositoryRecord, Refusal> {
        Ok(change.read(&self.keys.repository()).await?.unwrap_or_default())
    }

    /// Below this, devices may have seen other metadata: what was signed after the backup that this fleet was restored from.
    fn least_version(&self) -> Version {
        Version::new(first_number(self.records.epoch())).unwrap_or(Version::FIRST)
    }

    fn sign(&self, repository: &mut Repository) -> Result<(), Refusal> {
        let keys = self.online.named_by(repository.root().payload())?;
        let roles = keys.roles(self.least_version());
        let signed = repository.publish(self.now(), roles, &SystemRandom::new());
        signed.map(drop).map_err(refused("targets"))
    }

    /// Writes the files that are now current and points the record at them.
    async fn advance(&self, pointer: &mut v1::RepositoryRecord, repository: &Repository) -> Result<(), Refusal> {
        let before = std::mem::take(&mut pointer.current);
        for PublishedFile { name, bytes } in repository.files() {
            let length_bytes = bytes.len() as u64;
            let sha256 = self.blobs.put(bytes).await?.as_bytes().to_vec();
            fieldfare_crash::point("controller.repository.file-written");
            pointer.current.push(v1::MetadataFile {
                name,
                sha256,
                length_bytes,
            });
        }
        fieldfare_crash::point("controller.repository.written");
        let superseded = |file: &v1::MetadataFile| {
            file.name != "timestamp.json" && pointer.current.iter().all(|current| current.name != file.name)
        };
        pointer.retired.extend(before.into_iter().filter(superseded));
        let surplus = pointer.retired.len().saturating_sub(RETIRED_METADATA_MAX);
        pointer.retired.drain(..surplus);
        pointer.root_version = repository.root().version().get();
        pointer.targets_version = repository.targets().map_or(0, |targets| targets.version().get());
        let expires = repository
            .timestamp()
            .map(|timestamp| timestamp.payload().header.expires.get() * 1000);
        pointer.timestamp_expires_unix_ms = expires.map_or(0, |ms| i64::try_from(ms).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Signs the timestamp again when it will expire soon, or is of an earlier epoch. Tells whether it did.
    pub async fn refresh(&self) -> Result<bool, Refusal> {
        let soon = unix_ms(self.clock.now().saturating_add(TIMESTAMP_RENEW_BEFORE));
        let least = self.least_version();
        let renewed = attempt!("the release repository", self.records, change, {
            let mut pointer = self.read_pointer(&mut change).await?;
            if pointer.timestamp_expires_unix_ms == 0 {
                return Ok(false);
            }
            let ages = pointer.timestamp_expires_unix_ms < soon;
            let Some(repository) = self.current_at(&pointer).await? else {
                return Ok(false);
            };
            // What an interrupted change of the keys left.
            self.online.settle(repository.root().payload())?;
            let due = ages || repository.is_below(least);
            if due {
                let mut repository = Repository::clone(&repository);
                let keys = self.online.named_by(repository.root().payload())?;
                let signed = repository.refresh(self.now(), keys.roles(least), &SystemRandom::new());
                signed.map_err(|error| Refusal::broken("signing the timestamp", error))?;
                self.advance(&mut pointer, &repository).await?;
                change.put(self.keys.repository(), &mut pointer);
            }
            due
        });
        Ok(renewed)
    }

    /// Keeps the timestamp fresh until `stop`.
    pub async fn keep_fresh(self, stop: tokio_util::sync::CancellationToken) {
        loop {
            match self.refresh().await {
                Ok(true) => tracing::info!("the timestamp of the release repository is signed again"),
                Ok(false) => {}
                Err(error) => tracing::error!(
                    error = crate::refusal::chain(&error),
                    "the timestamp is not signed again"
                ),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TIMESTAMP_CHECK) => {}
            }
        }
    }
}
