//! Changes of the model that serves, as the audit log has them.

use fieldfare_fleet::install::{Event, InstallState, Installed, Stage};
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
        _ if news.is_some() => Some((AuditModelChangeKind::Refused, why())),
        // A start says by itself what is installed.
        (Event::Started, _) => None,
        _ => gave_up_switch(before, after).then(|| {
            (
                AuditModelChangeKind::Found,
                "the switch that was announced last did not happen".to_owned(),
            )
        }),
    }
}

/// Whether a switch that may be in the log already will not happen.
fn gave_up_switch(before: &InstallState, after: &InstallState) -> bool {
    let switching = |state: &InstallState| {
        let candidate = state
            .candidate
            .as_ref()
            .filter(|candidate| candidate.stage == Stage::Switch)?;
        Some(candidate.assignment.install.clone())
    };
    switching(before).is_some_and(|before| !switching(after).is_some_and(|after| after.same_bytes(&before)))
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
            AuditModelChangeKind::Found => self.record(kind, after.active.as_ref(), None, reason),
            _ => self.record(kind, after.active.as_ref(), before.active.as_ref(), reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fieldfare_fleet::install::{Assignment, InstallPolicy, StepFailure};
    use fieldfare_fleet::{ByteSize, Digest, Generation, ReleaseId, ReleaseNumber, Timestamp};

    use super::*;
    use crate::install::install_policy;

    fn installed(number: u64, counter: u64) -> Installed {
        Installed {
            release: ReleaseId {
                model: "soil".parse().unwrap(),
                number: ReleaseNumber(number),
            },
            variant: "q4".parse().unwrap(),
            manifest: Digest::from_bytes([number as u8; 32]),
            assignment: Generation { epoch: 1, counter },
        }
    }

    struct Told {
        state: InstallState,
        kinds: Vec<AuditModelChangeKind>,
    }

    impl Told {
        fn tell(&mut self, event: Event) -> &mut Self {
            let before = self.state.clone();
            self.state
                .handle(Timestamp::from_unix_ms(0), event.clone(), &mut Vec::new())
                .unwrap();
            self.kinds
                .extend(brought(&event, &before, &self.state).map(|(kind, _)| kind));
            self
        }

        fn assign(&mut self, install: &Installed) -> &mut Self {
            let assignment = Assignment {
                install: install.clone(),
                bytes_missing: ByteSize::ZERO,
                probes_required: 0,
            };
            self.tell(Event::Assigned {
                assignment,
                disk_free: ByteSize::from_mib(1 << 20),
            })
        }

        /// Up to the switch, which is announced but not done.
        fn until_switch(&mut self, install: &Installed) -> &mut Self {
            self.assign(install);
            let assignment = install.assignment;
            for stage in [Stage::Fetch, Stage::Verify, Stage::Stage, Stage::WarmUp] {
                self.tell(Event::Done { assignment, stage });
            }
            self.tell(Event::Probed {
                assignment,
                matched: 0,
                run: 0,
            })
        }

        fn switch(&mut self, install: &Installed) -> &mut Self {
            let (assignment, stage) = (install.assignment, Stage::Switch);
            self.until_switch(install).tell(Event::Done { assignment, stage })
        }
    }

    fn told() -> Told {
        let policy = InstallPolicy {
            confirm_window: Duration::from_secs(60),
            crash_window: Duration::from_secs(60),
            max_crashes: 1,
            ..install_policy()
        };
        Told {
            state: InstallState::empty(policy),
            kinds: Vec::new(),
        }
    }

    #[test]
    fn what_serves_is_told_when_it_changes_otherwise_than_by_a_switch() {
        use AuditModelChangeKind::{Found, Refused, Reverted, Stopped};
        let (first, second) = (installed(1, 1), installed(2, 2));
        let unassigned = Event::Unassigned {
            assignment: Generation { epoch: 1, counter: 9 },
            obstacle: None,
        };
        let failed = |failure| Event::Failed {
            assignment: second.assignment,
            stage: Stage::Fetch,
            failure,
        };
        let mut told_all = told();
        assert_eq!(told_all.switch(&first).kinds, [], "the step itself says so");
        // The first release is confirmed; the second crashes.
        told_all.state.switched_at = None;
        assert_eq!(told_all.switch(&second).tell(Event::Crashed).kinds, [Reverted]);
        assert_eq!(told().switch(&first).tell(Event::Crashed).kinds, [Stopped]);
        assert_eq!(told().switch(&first).tell(unassigned.clone()).kinds, [Stopped]);
        assert_eq!(
            told()
                .switch(&first)
                .tell(Event::Damaged { install: first.clone() })
                .kinds,
            [Stopped]
        );
        let mut refused = told();
        refused
            .switch(&first)
            .assign(&second)
            .tell(failed(StepFailure::Permanent("no such bytes".to_owned())));
        assert_eq!(refused.kinds, [Refused]);
        let mut waits = told();
        waits
            .switch(&first)
            .assign(&second)
            .tell(failed(StepFailure::Transient("busy".to_owned())));
        assert_eq!(waits.kinds, [], "it is tried again");
        // The switch was announced, and something newer came first.
        assert_eq!(
            told()
                .switch(&first)
                .until_switch(&second)
                .assign(&installed(3, 3))
                .kinds,
            [Found]
        );
        assert_eq!(
            told()
                .switch(&first)
                .until_switch(&second)
                .assign(&installed(1, 3))
                .kinds,
            [Found]
        );
        assert_eq!(told().until_switch(&first).tell(unassigned).kinds, [Found]);
    }
}
