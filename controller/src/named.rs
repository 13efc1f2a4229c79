//! Which blobs the records name: what a backup holds, and what stays when blobs are collected.
//!
//! A record names a blob by its SHA-256. Every run of 32 bytes with their length before them that is a blob's digest is taken for a
//! name, in whatever field and in records of whatever kind: a field that is added later is never forgotten here.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fieldfare_fleet::JobName;
use fieldfare_proto::v1::{JobStatusRecord, ReleaseRecord, ReleaseStanding, RepositoryRecord, StoredRecord};
use fieldfare_release::limits::{MAX_MANIFEST_BYTES, MAX_TARGETS_BYTES};
use fieldfare_release::tuf::{Signed, Targets};
use fieldfare_release::{ReleaseManifest, Sha256Digest, TargetKind, TargetName};
use fieldfare_store::Key;

use crate::blobs::{Blobs, Inventory};
use crate::jobs::is_over;
use crate::keys::{Keys, Place};
use crate::records::decode_at;
use crate::refusal::Refusal;

/// Gathers names from records, which must all be of one revision, and of one that is no older than the inventory.
#[derive(Debug)]
pub struct Names<'a> {
    keys: &'a Keys,
    inventory: &'a Inventory,
    named: BTreeSet<Sha256Digest>,
    /// Of jobs, whose names count until they are over.
    jobs: BTreeMap<JobName, Job>,
    /// Metadata that lists targets.
    listings: Vec<Sha256Digest>,
    /// Releases that run or wait for their signature.
    releases: Vec<(TargetName, Sha256Digest)>,
}

#[derive(Debug, Default)]
struct Job {
    is_over: bool,
    named: BTreeSet<Sha256Digest>,
}

/// What is named.
#[derive(Debug, Default)]
pub struct Named {
    /// Every blob that is named.
    pub blobs: BTreeSet<Sha256Digest>,
    /// Of these, what only the listings of releases name: weights and adapters.
    pub artifacts: BTreeSet<Sha256Digest>,
}

impl<'a> Names<'a> {
    /// Nothing is named yet.
    pub fn new(keys: &'a Keys, inventory: &'a Inventory) -> Self {
        Self {
            keys,
            inventory,
            named: BTreeSet::new(),
            jobs: BTreeMap::new(),
            listings: Vec::new(),
            releases: Vec::new(),
        }
    }

    /// Takes in a record.
    ///
    /// # Errors
    /// It cannot be read: what it names is not known.
    pub fn see(&mut self, record: &StoredRecord) -> Result<(), Refusal> {
        let key = Key::new(&record.key).map_err(|error| Refusal::broken("reading a record's key", error))?;
        let named = digests(&record.value, self.inventory);
        match self.keys.parse(&key) {
            Some(Place::Job(name)) => {
                self.jobs.entry(name).or_default().named.extend(named);
                return Ok(());
            }
            Some(Place::JobStatus(name)) => {
                let status: JobStatusRecord = decode_at(&key, Bytes::copy_from_slice(&record.value))?;
                let job = self.jobs.entry(name).or_default();
                job.is_over = is_over(status.stage());
                job.named.extend(named);
                return Ok(());
            }
            Some(Place::Release(..)) => {
                let release: ReleaseRecord = decode_at(&key, Bytes::copy_from_slice(&record.value))?;
                self.release(&release)?;
            }
            _ if key == self.keys.repository() => {
                let repository: RepositoryRecord = decode_at(&key, Bytes::copy_from_slice(&record.value))?;
                self.repository(&repository);
            }
            _ => {}
        }
        self.named.extend(named);
        Ok(())
    }

    fn release(&mut self, release: &ReleaseRecord) -> Result<(), Refusal> {
        if !matches!(
            release.standing(),
            ReleaseStanding::Proposed | ReleaseStanding::Published
        ) {
            return Ok(());
        }
        let name = release.manifest_target.parse();
        let name = name.map_err(|error| Refusal::broken("reading a release's name", error))?;
        self.releases
            .extend(digest(&release.manifest_sha256).map(|sha256| (name, sha256)));
        Ok(())
    }

    fn repository(&mut self, repository: &RepositoryRecord) {
        let lists = |name: &str| {
            let role = name.split_once('.').map_or(name, |(_, role)| role);
            !matches!(role, "root.json" | "snapshot.json" | "json")
        };
        let listings = repository.current.iter().filter(|file| lists(&file.name));
        self.listings.extend(listings.filter_map(|file| digest(&file.sha256)));
    }

    /// Adds what the listings and the manifests name.
    ///
    /// # Errors
    /// One of them is lost or cannot be read: what it names is not known.
    pub async fn finish(self, blobs: &Blobs) -> Result<Named, Refusal> {
        let mut named = self.named;
        for job in self.jobs.into_values().filter(|job| !job.is_over) {
            named.extend(job.named);
        }
        let mut artifacts = BTreeSet::new();
        for sha256 in self.listings {
            let bytes = blobs.read(&sha256, MAX_TARGETS_BYTES).await?;
            let bytes = bytes.ok_or_else(|| lost(&sha256))?;
            let file = Signed::<Targets>::read(&bytes);
            let file = file.map_err(|error| Refusal::broken("reading the release repository", error))?;
            for (name, target) in &file.payload().targets {
                let Some(sha256) = target.hashes.sha256.filter(|_| !target.is_withdrawn()) else {
                    continue;
                };
                match name.parse::<TargetName>().map(|name| name.kind().clone()) {
                    Ok(TargetKind::Release | TargetKind::AdapterRelease) => drop(named.insert(sha256)),
                    _ => drop(artifacts.insert(sha256)),
                }
            }
        }
        for (name, sha256) in self.releases {
            let bytes = blobs.read(&sha256, MAX_MANIFEST_BYTES as u64).await?;
            let bytes = bytes.ok_or_else(|| lost(&sha256))?;
            let manifest = ReleaseManifest::decode(&name, &bytes);
            let manifest = manifest.map_err(|error| Refusal::broken("reading a manifest", error))?;
            artifacts.extend(manifest.artifacts().values().map(|artifact| artifact.sha256));
        }
        artifacts.retain(|sha256| !named.contains(sha256));
        named.extend(&artifacts);
        Ok(Named {
            blobs: named,
            artifacts,
        })
    }
}

fn lost(sha256: &Sha256Digest) -> Refusal {
    Refusal::broken("looking for what is listed", format!("the blob {sha256} is lost"))
}

fn digest(bytes: &[u8]) -> Option<Sha256Digest> {
    bytes.try_into().ok().map(Sha256Digest::from_bytes)
}

/// Digests of blobs in the encoded form of a record, where each follows its length.
fn digests(value: &[u8], inventory: &Inventory) -> BTreeSet<Sha256Digest> {
    const LENGTH: u8 = 32;
    let runs = value.windows(1 + usize::from(LENGTH)).filter(|run| run[0] == LENGTH);
    runs.filter_map(|run| digest(&run[1..]))
        .filter(|sha256| inventory.blobs.contains_key(sha256))
        .collect()
}
