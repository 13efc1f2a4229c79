//! Publication: new targets metadata is accepted when everything that it newly lists is there and consistent.

use std::collections::{BTreeMap, BTreeSet};

use fieldfare_fleet::JobName;
use fieldfare_proto::v1::{ModelRecord, ReleaseRecord, ReleaseStanding};
use fieldfare_release::manifest::{Artifact, Provenance};
use fieldfare_release::tuf::{Repository, Target, Targets, adapter_role};
use fieldfare_release::{ReleaseManifest, Sha256Digest, TargetKind, TargetName};

use super::{ReleaseRepository, manifests, refused};
use crate::clock::unix_ms;
use crate::jobs::HeldClaim;
use crate::records::{Change, attempt};
use crate::refusal::{Refusal, chain};

/// A manifest that a publication lists for the first time.
struct NewRelease {
    target: TargetName,
    bytes: Vec<u8>,
}

impl ReleaseRepository {
    /// Takes the next top-level targets, with the manifests that they newly list. Gives their version.
    pub async fn publish_targets(&self, bytes: &[u8], manifests: &BTreeMap<String, Vec<u8>>) -> Result<u64, Refusal> {
        let version = attempt!("the release repository", self.records, change, {
            let mut pointer = self.read_pointer(&mut change).await?;
            let mut repository = self.load_from(&pointer).await?.ok_or_else(no_root)?;
            if repository.targets().is_some_and(|targets| targets.bytes() == bytes) {
                return Ok(pointer.targets_version);
            }
            let before = repository.targets().map(|file| file.payload().clone());
            repository.accept_targets(bytes).map_err(refused("targets"))?;
            let releases = self
                .check_listing(&repository, None, before.as_ref(), manifests)
                .await?;
            self.withdraw(&mut change, &repository, before.as_ref()).await?;
            self.enter(&mut change, releases, None).await?;
            self.sign(&mut repository)?;
            self.advance(&mut pointer, &repository).await?;
            change.put(self.keys.repository(), &mut pointer);
            pointer.targets_version
        });
        Ok(version)
    }

    /// Takes the next metadata of the role that a trainer signs adapter releases of a model with, and the one manifest that
    /// it newly lists, if the claim is still the current one at the commit.
    pub(crate) async fn publish_delegated(
        &self,
        target: &TargetName,
        manifest: &[u8],
        bytes: &[u8],
        claim: &HeldClaim,
    ) -> Result<(), Refusal> {
        let role = adapter_role(target.model());
        let manifests = BTreeMap::from([(target.to_string(), manifest.to_vec())]);
        attempt!("the release repository", self.records, change, {
            claim.guard(&mut change).await?;
            let mut pointer = self.read_pointer(&mut change).await?;
            let mut repository = self.load_from(&pointer).await?.ok_or_else(no_root)?;
            if repository.delegated(&role).is_some_and(|file| file.bytes() == bytes) {
                return Ok(());
            }
            let before = repository.delegated(&role).map(|file| file.payload().clone());
            repository
                .accept_delegated(&role, bytes)
                .map_err(refused("delegated_targets"))?;
            let releases = self
                .check_listing(&repository, Some(&role), before.as_ref(), &manifests)
                .await?;
            self.enter(&mut change, releases, Some(&claim.job)).await?;
            self.sign(&mut repository)?;
            self.advance(&mut pointer, &repository).await?;
            change.put(self.keys.repository(), &mut pointer);
        });
        Ok(())
    }

    /// Checks what the new metadata of a role lists beyond the metadata before it.
    async fn check_listing(
        &self,
        repository: &Repository,
        role: Option<&str>,
        before: Option<&Targets>,
        manifests: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Vec<NewRelease>, Refusal> {
        let listed = match role {
            None => repository.targets(),
            Some(role) => repository.delegated(role),
        };
        let listed = listed.map(|file| file.payload()).ok_or_else(no_root)?;
        check_scope(repository, role, listed)?;
        let mut releases = Vec::new();
        let mut used = BTreeSet::new();
        for (name, target) in &listed.targets {
            if before.and_then(|before| before.targets.get(name)) == Some(target) {
                continue;
            }
            if before.is_some_and(|before| before.targets.contains_key(name)) {
                return Err(field(
                    name,
                    "is listed already with other bytes: a release is immutable, publish a new number",
                ));
            }
            let (sha256, parsed) = identify(name, target)?;
            if role.is_none() && target.is_withdrawn() {
                continue;
            }
            match parsed.kind() {
                TargetKind::Release | TargetKind::AdapterRelease => {
                    let bytes = manifests
                        .get(name)
                        .ok_or_else(|| field(name, "is newly listed; its bytes are missing in `manifests`"))?;
                    used.insert(name);
                    self.check_manifest(repository, listed, &parsed, target, bytes).await?;
                    releases.push(NewRelease {
                        target: parsed,
                        bytes: bytes.clone(),
                    });
                }
                TargetKind::Weights(_) | TargetKind::AdapterFactors => {
                    self.check_stored(name, &sha256, target.length).await?
                }
            }
        }
        if let Some(surplus) = manifests.keys().find(|name| !used.contains(name)) {
            return Err(Refusal::invalid(
                "manifests",
                format!("{surplus} is not newly listed by the targets"),
            ));
        }
        Ok(releases)
    }

    async fn check_stored(&self, name: &str, sha256: &Sha256Digest, length: u64) -> Result<(), Refusal> {
        match self.blobs.hold(sha256).await? {
            Some(found) if found == length => Ok(()),
            Some(found) => Err(field(
                name,
                format!("is listed with {length} bytes, the artifact has {found}"),
            )),
            None => Err(field(
                name,
                format!("the artifact {sha256} is not in the store: upload it to /blobs/sha256/{sha256} first"),
            )),
        }
    }

    async fn check_manifest(
        &self,
        repository: &Repository,
        listed: &Targets,
        name: &TargetName,
        target: &Target,
        bytes: &[u8],
    ) -> Result<(), Refusal> {
        let at = format!("manifests.{name}");
        if target.length != bytes.len() as u64 || target.hashes.sha256 != Some(Sha256Digest::of(bytes)) {
            return Err(Refusal::invalid(
                at,
                "the bytes differ from length and digest in the targets",
            ));
        }
        let manifest = ReleaseManifest::decode(name, bytes).map_err(|error| Refusal::invalid(&at, chain(&error)))?;
        manifests::variant_specs(&manifest)?;
        for (target, artifact) in manifest.artifacts() {
            if find(repository, listed, target).is_none_or(|found| !agrees(artifact, found)) {
                return Err(Refusal::invalid(
                    &at,
                    format!("its artifact {target} is not listed with the same length and digest"),
                ));
            }
            self.check_stored(target.as_str(), &artifact.sha256, artifact.length)
                .await?;
        }
        if let (Provenance::Federated { .. }, Some(base)) = (&manifest.provenance, &manifest.base) {
            let found = find(repository, listed, &base.manifest).and_then(|target| target.hashes.sha256);
            if found != Some(base.sha256) {
                return Err(Refusal::invalid(
                    &at,
                    format!("its base {} is not listed with the same digest", base.manifest),
                ));
            }
        }
        Ok(())
    }

    /// Enters the releases into the registry, in the same commit.
    async fn enter(
        &self,
        change: &mut Change<'_>,
        releases: Vec<NewRelease>,
        job: Option<&JobName>,
    ) -> Result<(), Refusal> {
        let mut newest = BTreeMap::new();
        for NewRelease { target, bytes } in releases {
            let id = manifests::release_id(target.as_str())?;
            let number = newest.entry(id.model.clone()).or_insert(id.number);
            *number = id.number.max(*number);
            let key = self.keys.release(&id.model, id.number.0);
            let held: Option<ReleaseRecord> = change.read(&key).await?;
            let sha256 = Sha256Digest::of(&bytes).as_bytes().to_vec();
            let mut record = match held {
                // A proposed release may still change its manifest on the way to the signature; a published one may not.
                Some(held) if held.standing() == ReleaseStanding::Proposed || held.manifest_sha256 == sha256 => held,
                Some(_) => {
                    return Err(Refusal::Exists {
                        what: "release",
                        name: id.to_string(),
                    });
                }
                None => ReleaseRecord {
                    created_unix_ms: unix_ms(self.clock.now()),
                    ..ReleaseRecord::default()
                },
            };
            record.manifest_target = target.to_string();
            record.manifest_length_bytes = bytes.len() as u64;
            record.manifest_sha256 = self.blobs.put(bytes).await?.as_bytes().to_vec();
            record.set_standing(ReleaseStanding::Published);
            if let Some(job) = job {
                record.job = job.to_string();
            }
            change.put(key, &mut record);
        }
        // Numbers up to that of a published release are taken, whoever chose them.
        for (model, number) in newest {
            let key = self.keys.model(&model);
            let mut record: ModelRecord = change.read(&key).await?.unwrap_or_default();
            if record.last_release < number.0 {
                record.last_release = number.0;
                change.put(key, &mut record);
            }
        }
        Ok(())
    }

    /// Marks the releases that the new targets list no longer, or take back from a delegated role.
    async fn withdraw(
        &self,
        change: &mut Change<'_>,
        repository: &Repository,
        before: Option<&Targets>,
    ) -> Result<(), Refusal> {
        let now = repository.targets().map(|file| file.payload());
        let Some(now) = now else { return Ok(()) };
        let gone = before.into_iter().flat_map(|before| before.targets.keys());
        let gone = gone.filter(|name| !now.targets.contains_key(*name));
        let taken_back = now.targets.iter().filter(|(_, target)| target.is_withdrawn());
        for name in gone.chain(taken_back.map(|(name, _)| name)) {
            let Ok(id) = manifests::release_id(name) else { continue };
            let key = self.keys.release(&id.model, id.number.0);
            let held: Option<ReleaseRecord> = change.read(&key).await?;
            if let Some(mut record) = held.filter(|held| held.standing() != ReleaseStanding::Withdrawn) {
                record.set_standing(ReleaseStanding::Withdrawn);
                change.put(key, &mut record);
            }
        }
        Ok(())
    }
}

fn no_root() -> Refusal {
    Refusal::Unready("the release repository has no root yet: install one first".to_owned())
}

fn field(name: &str, expected: impl std::fmt::Display) -> Refusal {
    Refusal::invalid(format!("targets.{name}"), expected)
}

fn identify(name: &str, target: &Target) -> Result<(Sha256Digest, TargetName), Refusal> {
    let sha256 = target
        .hashes
        .sha256
        .ok_or_else(|| field(name, "has no SHA-256 digest"))?;
    let parsed = name.parse().map_err(|error| field(name, error))?;
    Ok((sha256, parsed))
}

fn agrees(artifact: &Artifact, listed: &Target) -> bool {
    listed.length == artifact.length && listed.hashes.sha256 == Some(artifact.sha256)
}

/// A delegated role lists only what its delegation lets it list; anything else would be ignored by every client.
fn check_scope(repository: &Repository, role: Option<&str>, listed: &Targets) -> Result<(), Refusal> {
    let Some(role) = role else { return Ok(()) };
    let top = repository.targets().map(|file| file.payload());
    let delegation = top.and_then(|top| top.delegation(role)).ok_or_else(no_root)?;
    match listed.targets.keys().find(|name| !delegation.may_list(name)) {
        Some(outside) => Err(Refusal::Forbidden(format!("the role {role} may not list {outside}"))),
        None => Ok(()),
    }
}

/// A target as the metadata in hand, or else the top-level targets or its model's adapter role, lists it.
fn find<'a>(repository: &'a Repository, listed: &'a Targets, name: &TargetName) -> Option<&'a Target> {
    let top = repository
        .targets()
        .and_then(|file| file.payload().targets.get(name.as_str()));
    let adapters = repository.delegated(&adapter_role(name.model()));
    let adapters = adapters.and_then(|file| file.payload().targets.get(name.as_str()));
    let found = listed.targets.get(name.as_str());
    top.filter(|top| top.is_withdrawn()).or(found).or(top).or(adapters)
}
