//! What the agent keeps of its installation beside the bytes, and what it tells the controller about it.

use fieldfare_files::{self as files, FileError, Secrecy};
use fieldfare_fleet::install::{InstallPolicy, InstallState, Installed};
use fieldfare_fleet::rollout::Evidence;
use fieldfare_fleet::{ByteSize, Generation, Obstacle, Timestamp};
use fieldfare_proto::v1;
use fieldfare_release::TargetName;
use serde::{Deserialize, Serialize};

use super::bytes::Shelf;
use super::download::Fetched;
use super::task::InstallError;
use crate::folder::Folder;
use crate::limits::{CONFIRM_WINDOW, CRASH_WINDOW, DISK_RESERVE_BYTES, INSTALL_ATTEMPTS, INSTALL_RETRY, MAX_CRASHES};

/// Schema of `installation.json`.
pub(super) const SCHEMA: u32 = 1;

/// `installation.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    schema: u32,
    /// The deployment that the installation belongs to.
    pub(super) deployment: String,
    /// The decider's state.
    pub(super) install: InstallState,
    /// The manifest that the newest assignment named.
    pub(super) target: Option<TargetName>,
    /// What is known of the release that serves.
    pub(super) evidence: Evidence,
    /// Where artifacts are served, as the last welcome said.
    pub(super) artifact_endpoint: Option<String>,
}

/// How patient an installation is, by the limits of this build.
pub const fn install_policy() -> InstallPolicy {
    InstallPolicy {
        confirm_window: CONFIRM_WINDOW,
        max_crashes: MAX_CRASHES,
        crash_window: CRASH_WINDOW,
        max_attempts: INSTALL_ATTEMPTS,
        retry_after: INSTALL_RETRY,
        disk_reserve: ByteSize::new(DISK_RESERVE_BYTES),
    }
}

impl Kept {
    fn new(policy: InstallPolicy) -> Self {
        Self {
            schema: SCHEMA,
            deployment: String::new(),
            install: InstallState::empty(policy),
            target: None,
            evidence: Evidence::default(),
            artifact_endpoint: None,
        }
    }

    /// What was kept. The policy is this build's: a limit that an update changes holds for what is under way too.
    pub(super) fn load(folder: &Folder, policy: InstallPolicy) -> Result<Self, InstallError> {
        let Some(mut kept) = files::read_json::<Self>(&folder.installation())? else {
            return Ok(Self::new(policy));
        };
        if kept.schema != SCHEMA {
            return Err(InstallError::Schema { found: kept.schema });
        }
        kept.install.policy = policy;
        Ok(kept)
    }

    pub(super) fn save(&self, folder: &Folder) -> Result<(), FileError> {
        files::replace_json(&folder.installation(), self, Secrecy::Secret)
    }
}

/// What an installation has come to, for somebody who only looks.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// What serves.
    pub active: Option<Installed>,
    /// When its serving process crashed, the newest times.
    pub crashes: Vec<Timestamp>,
    /// Where artifacts are served, as the last welcome said.
    pub artifact_endpoint: Option<String>,
}

/// What the installation of a folder has come to.
///
/// # Errors
/// The kept state cannot be read.
pub fn standing(folder: &Folder) -> Result<Standing, InstallError> {
    let kept = Kept::load(folder, install_policy())?;
    Ok(Standing {
        active: kept.install.active,
        crashes: kept.install.crashes,
        artifact_endpoint: kept.artifact_endpoint,
    })
}

/// An assignment whose manifest is not known yet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Unresolved {
    pub(super) generation: Generation,
    pub(super) target: TargetName,
    /// Why it cannot be had, where that is more than an outage.
    pub(super) obstacle: Option<Obstacle>,
}

/// MODEL.rNUMBER.
pub(super) fn release_text(target: &TargetName) -> String {
    // A release number shows itself as `r1`.
    format!("{}.{}", target.model(), target.release())
}

/// What the controller is told.
pub(super) fn observed(
    kept: &Kept,
    unresolved: Option<&Unresolved>,
    shelf: &Shelf,
    fetched: Fetched,
    disk_free: ByteSize,
) -> v1::ObservedState {
    let disk_free_bytes = disk_free.get();
    if kept.deployment.is_empty() {
        return v1::ObservedState {
            models: Vec::new(),
            disk_free_bytes,
        };
    }
    let target = unresolved.map_or(kept.target.as_ref(), |unresolved| Some(&unresolved.target));
    let (generation, progress) = kept
        .install
        .report(unresolved.map(|unresolved| (unresolved.generation, unresolved.obstacle.as_ref())));
    let mut model = v1::ObservedModel {
        deployment: kept.deployment.clone(),
        generation: Some(generation.into()),
        target_release: target.map(release_text).unwrap_or_default(),
        progress: Some((&progress).into()),
        evidence: Some((&kept.evidence).into()),
        fetched_bytes: fetched.done,
        total_bytes: fetched.total,
        ..v1::ObservedModel::default()
    };
    if let Some(active) = &kept.install.active
        && let Ok(running) = shelf.describe(active)
    {
        let bytes = |sha256: fieldfare_release::Sha256Digest| sha256.as_bytes().to_vec();
        model.running_release = active.release.to_string();
        model.running_manifest_target = running.target.to_string();
        model.running_variant = active.variant.to_string();
        model.running_weights_sha256 = running.variant.weights().map(|a| bytes(a.sha256)).unwrap_or_default();
        model.running_adapter_sha256 = running.variant.adapter().map(|a| bytes(a.sha256)).unwrap_or_default();
    }
    v1::ObservedState {
        models: vec![model],
        disk_free_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_version_kept_is_refused_and_an_old_policy_is_replaced() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::new(place.path());
        let mut kept = Kept::load(&folder, install_policy()).unwrap();
        kept.deployment = "soil".to_owned();
        kept.save(&folder).unwrap();
        let hasty = InstallPolicy {
            max_attempts: 1,
            ..install_policy()
        };
        let again = Kept::load(&folder, hasty.clone()).unwrap();
        assert_eq!((again.deployment.as_str(), &again.install.policy), ("soil", &hasty));
        kept.schema = SCHEMA + 1;
        kept.save(&folder).unwrap();
        let refused = Kept::load(&folder, hasty);
        assert!(matches!(refused, Err(InstallError::Schema { found: 2 })), "{refused:?}");
    }

    #[test]
    fn releases_are_told_as_the_fleet_writes_them() {
        for (name, text) in [
            ("farm-alert.r1.release.json", "farm-alert.r1"),
            ("adapter.farm-alert.r12.release.json", "farm-alert.r12"),
        ] {
            let told = release_text(&name.parse().unwrap());
            assert_eq!(told, text);
            assert_eq!(told.parse::<fieldfare_fleet::ReleaseId>().unwrap().to_string(), text);
        }
    }
}
