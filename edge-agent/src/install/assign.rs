//! From what the controller wants to what the decider is told: looked up in signed metadata, and checked against them.

use fieldfare_fleet::install::{Assignment, Event, Installed};
use fieldfare_fleet::{Generation, Obstacle, ReleaseId, ReleaseNumber};
use fieldfare_proto::v1;
use fieldfare_release::{Sha256Digest, TargetName};
use tokio::time::Instant;

use super::context::context_within;
use super::kept::{Unresolved, release_text};
use super::repository::{RepositoryError, Resolved};
use super::steps::Report;
use super::task::{InstallError, Installer};
use crate::limits::{MAX_DEPLOYMENTS, RESOLVE_REFUSED_RETRY, RESOLVE_RETRY};
use crate::process;

impl Installer {
    /// Takes in what the controller wants, which may be what it wanted before.
    pub(super) fn hear_desired(&mut self) -> Result<(), InstallError> {
        self.look_up_at = None;
        let Some(desired) = self.parts.desired.borrow_and_update().clone() else {
            return Ok(());
        };
        if self.kept.artifact_endpoint.as_ref() != Some(&desired.artifact_endpoint) || self.repository.is_none() {
            self.kept.artifact_endpoint = Some(desired.artifact_endpoint.clone());
            self.connect_repository();
        }
        if desired.state.models.len() > MAX_DEPLOYMENTS {
            tracing::warn!(
                assigned = desired.state.models.len(),
                "only the first deployment by name is served"
            );
        }
        // No deployment selects the device: it keeps what it has.
        let Some(model) = desired
            .state
            .models
            .into_iter()
            .min_by(|a, b| a.deployment.cmp(&b.deployment))
        else {
            return Ok(());
        };
        let generation: Generation = model.generation.map_or(Generation::ZERO, Generation::from);
        if self.kept.deployment != model.deployment {
            self.kept.deployment = model.deployment.clone();
            self.kept.install.change_deployment();
        }
        if model.variant.is_empty() || model.manifest_target.is_empty() {
            self.unresolved = None;
            self.kept.target = model.manifest_target.parse().ok();
            // Before a deployment's first wave reaches the device there is nothing to run, which is no obstacle.
            let obstacle = self.kept.target.is_some().then_some(Obstacle::NoVariant);
            return self.tell(Event::Unassigned {
                assignment: generation,
                obstacle,
            });
        }
        match model.manifest_target.parse::<TargetName>() {
            Ok(target) => self.look_up(generation, target, model),
            Err(error) => {
                tracing::error!(
                    error = process::chain(&error),
                    "the controller assigns what is no release"
                );
                Ok(())
            }
        }
    }

    /// Looks a newly assigned release up in the signed metadata. What is known is not looked up again.
    fn look_up(
        &mut self,
        generation: Generation,
        target: TargetName,
        model: v1::DesiredModel,
    ) -> Result<(), InstallError> {
        let release = release_text(&target).parse().ok();
        if !self.kept.install.asks_for(generation, release.as_ref(), &model.variant) {
            return Ok(());
        }
        let obstacle = self
            .unresolved
            .take()
            .filter(|u| u.target == target)
            .and_then(|unresolved| unresolved.obstacle);
        self.unresolved = Some(Unresolved {
            generation,
            target: target.clone(),
            obstacle,
        });
        // However long the look-up takes: what is on its way in under an older assignment does not get to serve meanwhile.
        self.tell(Event::Superseded { assignment: generation })?;
        self.report();
        let (tools, reports) = (self.tools(), self.reports.clone());
        // What was looked up before is no longer asked for, and a slow server does not make look-ups pile up.
        let looking_up = tokio::spawn(async move {
            let answer = Box::new(tools.resolve(&target).await);
            let _ = reports
                .send(Report::Resolved {
                    generation,
                    model,
                    target,
                    answer,
                })
                .await;
        });
        if let Some(before) = self.looking_up.replace(looking_up.abort_handle()) {
            before.abort();
        }
        Ok(())
    }

    pub(super) fn take_assignment(
        &mut self,
        generation: Generation,
        model: &v1::DesiredModel,
        target: TargetName,
        answer: Result<Option<Resolved>, RepositoryError>,
    ) -> Result<(), InstallError> {
        let resolved = match answer {
            Ok(Some(resolved)) => resolved,
            Ok(None) => {
                self.look_up_at = Some(Instant::now() + RESOLVE_RETRY);
                return Ok(());
            }
            Err(error) if error.is_transient() => {
                let detail = process::chain(&error);
                tracing::warn!(error = detail, %target, "the release cannot be looked up yet");
                if error.is_of_the_disk()
                    && let Some(unresolved) = &mut self.unresolved
                {
                    // Nobody but the owner can help, and nobody tells the owner but this.
                    unresolved.obstacle = Some(Obstacle::Staging { detail });
                    self.report();
                }
                self.look_up_at = Some(Instant::now() + RESOLVE_RETRY);
                return Ok(());
            }
            Err(error) => return self.refuse(process::chain(&error)),
        };
        let assignment = match self.assignment(generation, model, &resolved) {
            Ok(assignment) => assignment,
            Err(reason) => return self.refuse(reason),
        };
        self.shelf.keep_manifest(&resolved.bytes)?;
        self.unresolved = None;
        self.kept.target = Some(target);
        let disk_free = crate::measure::disk_free(self.parts.folder.path()).unwrap_or_default();
        self.tell(Event::Assigned { assignment, disk_free })
    }

    /// The metadata or the manifest do not allow the release: said, and looked up again later, since metadata are renewed.
    fn refuse(&mut self, detail: String) -> Result<(), InstallError> {
        tracing::error!(detail, "an assigned release may not be installed");
        if let Some(unresolved) = &mut self.unresolved {
            unresolved.obstacle = Some(Obstacle::Verification { detail });
        }
        self.look_up_at = Some(Instant::now() + RESOLVE_REFUSED_RETRY);
        self.report();
        Ok(())
    }

    /// What the decider is told, checked against what the signed manifest says of the variant and this device's limits.
    fn assignment(
        &self,
        generation: Generation,
        model: &v1::DesiredModel,
        resolved: &Resolved,
    ) -> Result<Assignment, String> {
        let manifest = &resolved.manifest;
        let name = model
            .variant
            .parse()
            .map_err(|error| format!("variant {:?}: {error}", model.variant))?;
        let variant = manifest
            .variant(&name)
            .ok_or_else(|| format!("the release has no variant {name}"))?;
        let allowed = self.parts.settings.borrow().model_memory;
        context_within(variant, allowed.get())?;
        let release = ReleaseId {
            model: manifest
                .model
                .as_str()
                .parse()
                .map_err(|error| format!("model name: {error}"))?,
            number: ReleaseNumber(u64::from(manifest.release.get())),
        };
        let install = Installed {
            release,
            variant: model
                .variant
                .parse()
                .map_err(|error| format!("variant name: {error}"))?,
            manifest: super::bytes::digest(&Sha256Digest::of(&resolved.bytes)),
            assignment: generation,
        };
        // How many exact answers a variant owes is a gate's question: the device only insists on an answer to each probe.
        Ok(Assignment {
            install,
            bytes_missing: self.shelf.missing(variant),
            probes_required: 0,
        })
    }
}
