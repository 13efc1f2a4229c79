//! Changes of the model that serves, as the audit log has them.

use fieldfare_fleet::install::{Event, InstallState, Installed};
use fieldfare_proto::v1::{AuditModel, AuditModelChange, AuditModelChangeKind};
use fieldfare_release::Sha256Digest;

use super::bytes::Shelf;
use super::task::Installer;

/// What is installed, by name and by the manifest that lists its bytes.
pub(crate) fn named(installed: &Installed) -> AuditModel {
    AuditModel {
        release: installed.release.to_string(),
        variant: installed.variant.to_string(),
        manifest_sha256: installed.manifest.as_bytes().to_vec(),
        ..AuditModel::default()
    }
}

/// What is installed, with the digests of its bytes as far as its manifest is still there.
fn described(installed: &Installed, shelf: &Shelf) -> AuditModel {
    let bytes = |sha256: Sha256Digest| sha256.as_bytes().to_vec();
    let described = shelf.describe(installed).ok();
    let variant = described.as_ref().map(|described| &described.variant);
    AuditModel {
        weights_sha256: variant
            .and_then(|variant| variant.weights())
            .map(|a| bytes(a.sha256))
            .unwrap_or_default(),
        adapter_sha256: variant
            .and_then(|variant| variant.adapter())
            .map(|a| bytes(a.sha256))
            .unwrap_or_default(),
        ..named(installed)
    }
}

/// One change.
pub(super) fn change(
    kind: AuditModelChangeKind,
    deployment: &str,
    model: Option<&Installed>,
    previous: Option<&Installed>,
    reason: String,
    shelf: &Shelf,
) -> AuditModelChange {
    let under = model.or(previous);
    AuditModelChange {
        kind: kind.into(),
        deployment: deployment.to_owned(),
        assignment: under.map(|installed| installed.assignment.into()),
        model: model.map(|installed| described(installed, shelf)),
        previous: previous.map(|installed| described(installed, shelf)),
        reason,
    }
}

/// What an event brought about, beside a switch, which is in the log before it happens.
fn brought(event: &Event, before: &InstallState, after: &InstallState) -> Option<(AuditModelChangeKind, String)> {
    let same = match (&before.active, &after.active) {
        (None, None) => true,
        (Some(before), Some(after)) => before.same_bytes(after),
        _ => false,
    };
    let news = after
        .failed
        .last()
        .filter(|failed| before.failed.last() != Some(failed));
    let why = || news.map(|failed| failed.obstacle.to_string()).unwrap_or_default();
    match (event, &after.active) {
        (Event::Done { .. }, _) => None,
        (Event::Unassigned { .. }, None) if !same => Some((
            AuditModelChangeKind::Stopped,
            "the deployment has nothing for this device any more".to_owned(),
        )),
        (_, Some(_)) if !same => Some((AuditModelChangeKind::Reverted, why())),
        (Event::Damaged { .. }, None) if !same => Some((
            AuditModelChangeKind::Stopped,
            "the installed bytes have changed".to_owned(),
        )),
        (_, None) if !same => Some((AuditModelChangeKind::Stopped, why())),
        _ => news.map(|_| (AuditModelChangeKind::Refused, why())),
    }
}

impl Installer {
    fn record(
        &self,
        kind: AuditModelChangeKind,
        model: Option<&Installed>,
        previous: Option<&Installed>,
        reason: String,
    ) {
        let change = change(kind, &self.kept.deployment, model, previous, reason, &self.shelf);
        self.parts.audit.tell(change);
    }

    /// Says at a start what is installed, whatever the log said last.
    pub(super) fn record_found(&self) {
        if let Some(active) = &self.kept.install.active {
            self.record(AuditModelChangeKind::Found, Some(active), None, String::new());
        }
    }

    /// Records what an event changed, if it changed what serves.
    pub(super) fn record_change(&self, event: &Event, before: &InstallState) {
        let after = &self.kept.install;
        let Some((kind, reason)) = brought(event, before, after) else {
            return;
        };
        let refused = before.candidate.as_ref().map(|candidate| &candidate.assignment.install);
        match kind {
            AuditModelChangeKind::Refused => self.record(kind, refused, None, reason),
            _ => self.record(kind, after.active.as_ref(), before.active.as_ref(), reason),
        }
    }
}
