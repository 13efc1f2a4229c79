//! How the controller itself is, for `fieldfare doctor`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use fieldfare_files::is_exposed;
use fieldfare_proto::v1::{DeviceClock, DiskSpace, ExamineResponse, MetadataState};
use fieldfare_release::tuf::{Header, Repository, Signed, Snapshot};
use fieldfare_store::Location;
use fieldfare_tls::limits::RENEWAL_GRACE;

use crate::clock::unix_ms;
use crate::folder::Folder;
use crate::limits::{CERTIFICATE_LIFETIME, CLOCK_DIFFERENCE_MIN_MS, CLOCKS_SHOWN_MAX, MISSING_SHOWN_MAX};
use crate::plane::ControlPlane;
use crate::refusal::Refusal;

pub(super) async fn examine(plane: &ControlPlane) -> Result<ExamineResponse, Refusal> {
    let asked = Instant::now();
    plane.records.store().revision().await?;
    let store_answer_us = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
    let authority = plane.authority.issuing().certificate().validity();
    let own = plane.identity.current();
    let mut answer = ExamineResponse {
        now_unix_ms: plane.unix_ms(),
        store: match &plane.location {
            Location::Embedded(_) => "redb".to_owned(),
            Location::Etcd(_) => "etcd".to_owned(),
        },
        store_answer_us,
        disks: disks(plane),
        exposed_keys: exposed_keys(&plane.folder),
        certificate_expires_unix_ms: unix_ms(own.certificate().validity.not_after()),
        authority_expires_unix_ms: unix_ms(authority.not_after()),
        online_keys_named: true,
        clocks: clocks(plane),
        device_certificate_lifetime_ms: millis(CERTIFICATE_LIFETIME),
        renewal_grace_ms: millis(RENEWAL_GRACE),
        ..ExamineResponse::default()
    };
    if let Some(repository) = plane.releases.current().await? {
        answer.metadata = metadata(&repository);
        let named = plane.releases.online().named_by(repository.root().payload());
        answer.online_keys_named = named.is_ok();
        look_for_artifacts(plane, &repository, &mut answer).await?;
    }
    Ok(answer)
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Room where the store (if it is a file) and the artifacts lie. What cannot be looked at is left out.
fn disks(plane: &ControlPlane) -> Vec<DiskSpace> {
    let state = match &plane.location {
        Location::Embedded(path) => path.parent().map(Path::to_owned),
        Location::Etcd(_) => None,
    };
    let places = state.map(|folder| ("state", folder)).into_iter();
    places
        .chain([("artifacts", plane.folder.blobs())])
        .filter_map(|(holds, folder)| {
            let space = rustix::fs::statvfs(&folder).ok()?;
            Some(DiskSpace {
                holds: holds.to_owned(),
                free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
                total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
            })
        })
        .collect()
}

/// Private keys with any right for others than their owner.
fn exposed_keys(folder: &Folder) -> Vec<String> {
    let keys = [
        folder.authority_key(),
        folder.identity_key(),
        folder.snapshot_key(),
        folder.timestamp_key(),
        folder.audit_key(),
    ];
    let exposed = |path: &PathBuf| is_exposed(path).unwrap_or(false);
    let shown = |path: PathBuf| path.strip_prefix(folder.root()).unwrap_or(&path).display().to_string();
    keys.into_iter().filter(exposed).map(shown).collect()
}

fn metadata(repository: &Repository) -> Vec<MetadataState> {
    let state = |role: &str, header: &Header| MetadataState {
        role: role.to_owned(),
        version: header.version.get(),
        expires_unix_ms: i64::try_from(header.expires.get().saturating_mul(1000)).unwrap_or(i64::MAX),
    };
    let mut states = vec![state("root", &repository.root().payload().header)];
    if let Some(targets) = repository.targets() {
        states.push(state("targets", &targets.payload().header));
    }
    for role in delegated(repository) {
        if let Some(targets) = repository.delegated(&role) {
            states.push(state(&role, &targets.payload().header));
        }
    }
    let is_snapshot = |name: &str| name.ends_with(".snapshot.json");
    let snapshot = repository.files().into_iter().find(|file| is_snapshot(&file.name));
    if let Some(Ok(snapshot)) = snapshot.map(|file| Signed::<Snapshot>::read(&file.bytes)) {
        states.push(state("snapshot", &snapshot.payload().header));
    }
    if let Some(timestamp) = repository.timestamp() {
        states.push(state("timestamp", &timestamp.payload().header));
    }
    states
}

fn delegated(repository: &Repository) -> Vec<String> {
    let delegations = repository
        .targets()
        .and_then(|file| file.payload().delegations.as_ref());
    let roles = delegations.map(|delegations| delegations.roles.iter().map(|role| role.name.clone()));
    roles.map(Iterator::collect).unwrap_or_default()
}

/// Whether everything that the metadata list is there, in its length. What was withdrawn need not be.
async fn look_for_artifacts(
    plane: &ControlPlane,
    repository: &Repository,
    answer: &mut ExamineResponse,
) -> Result<(), Refusal> {
    let roles = delegated(repository);
    let adapters = roles.iter().filter_map(|role| repository.delegated(role));
    for file in repository.targets().into_iter().chain(adapters) {
        for (name, target) in &file.payload().targets {
            let Some(sha256) = target.hashes.sha256.filter(|_| !target.is_withdrawn()) else {
                continue;
            };
            answer.listed_artifacts += 1;
            if plane.releases.blobs().length(&sha256).await? == Some(target.length) {
                continue;
            }
            answer.missing_artifacts += 1;
            if answer.missing.len() < MISSING_SHOWN_MAX {
                answer.missing.push(name.clone());
            }
        }
    }
    Ok(())
}

fn clocks(plane: &ControlPlane) -> Vec<DeviceClock> {
    let off = plane.presence.clocks_off_by(CLOCK_DIFFERENCE_MIN_MS);
    let records = plane.mirror.read();
    let clock = |(id, ahead_ms)| {
        let record = records.devices.get(&id);
        DeviceClock {
            device_id: id.to_string(),
            name: record.map(|record| record.name.clone()).unwrap_or_default(),
            ahead_ms,
        }
    };
    off.into_iter().take(CLOCKS_SHOWN_MAX).map(clock).collect()
}
