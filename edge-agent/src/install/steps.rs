//! One step of an installation, carried out. Nothing here decides what comes next.

use std::sync::Arc;
use std::time::Duration;

use fieldfare_fleet::Generation;
use fieldfare_fleet::install::{Installed, Stage, StepFailure};
use fieldfare_fleet::rollout::Evidence;
use fieldfare_proto::v1::{self, AuditModelChangeKind};
use fieldfare_release::TargetName;
use tokio::sync::watch;

use super::audited;
use super::bytes::{BytesError, Described, Shelf};
use super::context::context_within;
use super::download::Fetched;
use super::probes::{self, Answers};
use super::repository::{RemoteRepository, RepositoryError, Resolved};
use crate::audit::Audit;
use crate::clock;
use crate::limits::{MIN_CONTEXT, OUTAGE_RETRY_MAX, RECONNECT_BASE, SERVE_ADDRESS_SPACE_SLACK};
use crate::process::{self, Binary};
use crate::serving::protocol::Load;
use crate::serving::{Engine, Served, StartError};

/// What steps work with.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    pub(super) shelf: Shelf,
    pub(super) binary: Binary,
    pub(super) repository: Option<RemoteRepository>,
    pub(super) fetched: watch::Sender<Fetched>,
    /// Memory that models may use, in bytes.
    pub(super) model_memory: u64,
    pub(super) audit: Audit,
    pub(super) deployment: String,
    /// What serves now.
    pub(super) active: Option<Installed>,
}

/// How a step ended.
#[derive(Debug)]
pub(super) enum StepEnd {
    /// It is done.
    Done,
    /// A process has loaded the release.
    Warm(Arc<Served>),
    /// The probes were answered.
    Probed(Evidence),
    /// It failed.
    Failed(StepFailure),
}

/// What tasks of the installation report.
#[derive(Debug)]
pub(super) enum Report {
    Step {
        assignment: Generation,
        stage: Stage,
        end: StepEnd,
    },
    Resolved {
        generation: Generation,
        model: v1::DesiredModel,
        target: TargetName,
        answer: Box<Result<Option<Resolved>, RepositoryError>>,
    },
    Ended {
        pid: Option<u32>,
        how: String,
    },
    Started {
        installed: Installed,
        answer: Result<Arc<Served>, ServeError>,
    },
}

fn transient(error: &dyn std::error::Error) -> StepEnd {
    StepEnd::Failed(StepFailure::Transient(process::chain(error)))
}

fn permanent(error: &dyn std::error::Error) -> StepEnd {
    StepEnd::Failed(StepFailure::Permanent(process::chain(error)))
}

fn repository_failure(error: &RepositoryError) -> StepEnd {
    if error.is_transient() {
        transient(error)
    } else {
        permanent(error)
    }
}

/// The wait before attempt `attempt` (from 1) after an outage: full jitter over a doubling range.
fn outage_wait(attempt: u32) -> Duration {
    let range = RECONNECT_BASE
        .saturating_mul(1 << attempt.min(10))
        .min(OUTAGE_RETRY_MAX);
    range.mul_f64(clock::jitter())
}

/// Tries until the server is there: an outage is nobody's failure, and an installation waits it out.
async fn patiently<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, RepositoryError>
where
    F: Future<Output = Result<T, RepositoryError>>,
{
    let mut failures = 0;
    loop {
        match attempt().await {
            Err(error) if error.is_outage() => {
                failures += 1;
                tracing::warn!(
                    error = process::chain(&error),
                    failures,
                    "the artifact server cannot be reached"
                );
                tokio::time::sleep(outage_wait(failures)).await;
            }
            other => return other,
        }
    }
}

impl Tools {
    /// Carries out one step.
    pub(super) async fn run(self, stage: Stage, installed: Installed, candidate: Option<Arc<Served>>) -> StepEnd {
        match stage {
            Stage::Fetch => self.fetch(&installed).await,
            Stage::Verify => self.verify(&installed).await,
            // Bytes reach their place whole and synced, one by one: there is nothing left to stage.
            Stage::Stage | Stage::Confirm => StepEnd::Done,
            Stage::WarmUp => match self.serve(&installed).await {
                Ok(served) => StepEnd::Warm(Arc::new(served)),
                Err(ServeError::Start(error @ StartError::Load { .. })) => permanent(&error),
                Err(error) => transient(&error),
            },
            Stage::Probe => match candidate {
                Some(served) => self.probe(&served).await,
                None => StepEnd::Failed(StepFailure::Transient("the serving process is gone".to_owned())),
            },
            Stage::Switch => self.announce(&installed).await,
        }
    }

    /// The log says what will serve before it does.
    async fn announce(&self, installed: &Installed) -> StepEnd {
        let kind = AuditModelChangeKind::Switched;
        let (model, previous) = (Some(installed), self.active.as_ref());
        let change = audited::change(kind, &self.deployment, model, previous, String::new(), &self.shelf);
        match self.audit.announce(change).await {
            Ok(()) => StepEnd::Done,
            Err(error) => transient(&error),
        }
    }

    async fn fetch(&self, installed: &Installed) -> StepEnd {
        let Some(repository) = &self.repository else {
            return StepEnd::Failed(StepFailure::Transient(
                "no controller has said yet where artifacts are".to_owned(),
            ));
        };
        let described = match self.shelf.describe(installed) {
            Ok(described) => described,
            Err(error) => return permanent(&error),
        };
        let total = described
            .variant
            .artifacts
            .values()
            .map(|artifact| artifact.length)
            .sum();
        self.fetched.send_replace(Fetched { done: 0, total });
        for artifact in described.variant.artifacts.values() {
            if let Err(error) = patiently(|| repository.fetch(artifact, &self.shelf, &self.fetched)).await {
                return repository_failure(&error);
            }
        }
        StepEnd::Done
    }

    /// The release is still listed by unexpired metadata, and the bytes on the disk are those that it lists.
    async fn verify(&self, installed: &Installed) -> StepEnd {
        let (Some(repository), Ok(described)) = (&self.repository, self.shelf.describe(installed)) else {
            return StepEnd::Failed(StepFailure::Permanent("the release's manifest is gone".to_owned()));
        };
        match patiently(|| repository.resolve(&described.target)).await {
            Ok(resolved)
                if super::bytes::digest(&fieldfare_release::Sha256Digest::of(&resolved.bytes))
                    == installed.manifest => {}
            Ok(_) => {
                return StepEnd::Failed(StepFailure::Permanent(
                    "the signed metadata list another manifest".to_owned(),
                ));
            }
            Err(error) => return repository_failure(&error),
        }
        match self.hash(installed).await {
            Ok(_) => StepEnd::Done,
            Err(error) => {
                self.forget_damaged(&described);
                transient(&error)
            }
        }
    }

    async fn hash(&self, installed: &Installed) -> Result<Described, BytesError> {
        let (shelf, installed) = (self.shelf.clone(), installed.clone());
        let changed = || BytesError::Manifest {
            release: installed.release.to_string(),
        };
        let task = {
            let installed = installed.clone();
            tokio::task::spawn_blocking(move || shelf.verify(&installed))
        };
        task.await.map_err(|_| changed())?
    }

    /// Removes artifacts whose bytes are wrong.
    pub(super) fn forget_damaged(&self, described: &Described) {
        for artifact in described.variant.artifacts.values() {
            if self
                .shelf
                .verify_artifact(artifact)
                .is_err_and(|error| error.is_damage())
                && let Err(error) = self.shelf.forget(artifact)
            {
                tracing::error!(error = process::chain(&error), target = %artifact.target, "damaged bytes stay");
            }
        }
    }

    async fn probe(&self, served: &Served) -> StepEnd {
        let Answers { evidence, all_empty } = probes::run(&served.engine, &served.manifest.probes).await;
        if all_empty {
            let text = format!("all {} probes got an empty answer", evidence.probes_run);
            return StepEnd::Failed(StepFailure::Permanent(text));
        }
        if evidence.errors > 0 {
            let text = format!("{} of {} probes got no answer", evidence.errors, evidence.requests);
            return StepEnd::Failed(StepFailure::Transient(text));
        }
        StepEnd::Probed(evidence)
    }

    /// Starts a process that serves this release, after hashing every byte that it will read.
    pub(super) async fn serve(&self, installed: &Installed) -> Result<Served, ServeError> {
        let described = self.hash(installed).await?;
        let gone = || BytesError::Manifest {
            release: installed.release.to_string(),
        };
        let weights = described.variant.weights().ok_or_else(gone)?.sha256;
        let adapter = described.variant.adapter().map(|adapter| adapter.sha256);
        let load = load_order(&self.shelf, &described, self.model_memory).ok_or_else(gone)?;
        let engine = Engine::start(&self.binary, load).await?;
        Ok(Served {
            engine,
            installed: installed.clone(),
            manifest_target: described.target,
            weights,
            adapter,
            manifest: described.manifest,
        })
    }

    /// What the signed metadata say of a release.
    pub(super) async fn resolve(&self, target: &TargetName) -> Result<Option<Resolved>, RepositoryError> {
        match &self.repository {
            Some(repository) => repository.resolve(target).await.map(Some),
            None => Ok(None),
        }
    }
}

/// What a serving process is told to load, in the memory that the owner grants, in bytes; nothing where the variant has no weights.
pub(crate) fn load_order(shelf: &Shelf, described: &Described, model_memory: u64) -> Option<Load> {
    let variant = &described.variant;
    let bytes: u64 = variant.artifacts.values().map(|artifact| artifact.length).sum();
    Some(Load {
        weights: shelf.artifact(&variant.weights()?.sha256),
        adapter: variant.adapter().map(|adapter| shelf.artifact(&adapter.sha256)),
        // What is installed is served also where the owner has granted less since then.
        context: context_within(variant, model_memory).unwrap_or(MIN_CONTEXT),
        address_space: bytes
            .saturating_add(model_memory)
            .saturating_add(SERVE_ADDRESS_SPACE_SLACK),
    })
}

/// Why an installed release does not serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    /// Its bytes are not what was installed.
    #[error(transparent)]
    Bytes(#[from] BytesError),
    /// Its process does not start.
    #[error(transparent)]
    Start(#[from] StartError),
}
