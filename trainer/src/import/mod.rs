//! Import of a model: a GGUF file becomes the manifest of a release with several evaluated variants.
//!
//! Each variant is recorded in a checkpoint once its bytes are with the controller, so that another trainer goes on after it.

mod build;
pub mod hub;
mod manifest;
mod plan;
mod probes;
mod source;

use std::path::PathBuf;
use std::sync::Arc;

use fieldfare_lm::config::DecoderConfig;
use fieldfare_lm::engine::{Engine, Mapping};
use fieldfare_lm::gguf::Gguf;
use fieldfare_proto::v1::{
    BuiltVariant, ImportCheckpoint, ImportSpec, ImportStage, ImportWork, JobSucceeded, UploadedArtifact,
    finish_request, work_checkpoint,
};
use fieldfare_release::{ModelName, ReleaseNumber, Sha256Digest, TargetKind, TargetName};

use crate::download::Downloaded;
use crate::examples::ExampleSet;
use crate::failure::WorkError;
use crate::gateway::FencedGateway;
use crate::limits::EXAMPLES_BYTES_MAX;
use crate::work::Workshop;

use build::BuiltFile;
use plan::VariantPlan;

/// One import on its way.
struct Import<'a> {
    workshop: &'a Workshop,
    gateway: &'a FencedGateway,
    spec: ImportSpec,
    model: ModelName,
    release: ReleaseNumber,
    folder: PathBuf,
    built: Vec<BuiltVariant>,
}

/// The file that is imported, found to be a model that this build runs.
struct Source {
    file: Downloaded,
    /// As the operator named it.
    name: String,
    mapping: Arc<Mapping>,
    gguf: Gguf,
    config: DecoderConfig,
}

/// Carries an import through, from its last checkpoint on.
pub(crate) async fn run(
    workshop: &Workshop,
    gateway: &FencedGateway,
    work: ImportWork,
    from: Option<ImportCheckpoint>,
) -> Result<finish_request::Outcome, WorkError> {
    let spec = work
        .spec
        .ok_or_else(|| WorkError::Impossible("the import has no specification".to_owned()))?;
    let model: ModelName = spec.model.parse().map_err(WorkError::impossible("field `model`"))?;
    let number = u32::try_from(work.release_number).ok().and_then(ReleaseNumber::new);
    let release = number.ok_or_else(|| {
        WorkError::Impossible(format!(
            "field `release_number` is {}, expected 1 to {}",
            work.release_number,
            u32::MAX
        ))
    })?;
    let target = TargetName::new(model.clone(), release, TargetKind::Release);
    let from = from.unwrap_or_default();
    if from.stage() == ImportStage::Proposed {
        return Ok(succeeded(&target));
    }
    let folder = workshop
        .folder
        .job(gateway.job())
        .map_err(WorkError::interrupted("making the job's folder"))?;
    let import = Import {
        workshop,
        gateway,
        spec,
        model,
        release,
        folder,
        built: from.built,
    };
    import.carry_through(target).await
}

fn succeeded(target: &TargetName) -> finish_request::Outcome {
    finish_request::Outcome::Succeeded(JobSucceeded {
        manifest_target: target.to_string(),
        ..JobSucceeded::default()
    })
}

impl Import<'_> {
    async fn carry_through(mut self, target: TargetName) -> Result<finish_request::Outcome, WorkError> {
        let evaluation = self.evaluation_set().await?;
        let source = self.source().await?;
        let plans = plan::variants(&self.spec.variants, &source.gguf)
            .map_err(|problem| WorkError::Impossible(format!("{}: {problem}", source.name)))?;
        self.built
            .retain(|variant| plans.iter().any(|plan| plan.name.as_str() == variant.name));
        let mut files = Vec::with_capacity(plans.len());
        for plan in &plans {
            files.push(self.variant(plan, plans.len(), &source, &evaluation).await?);
        }
        let probes = self.probes(&files[0], &evaluation).await?;
        let manifest = manifest::assemble(&self, &source, &files, probes)?;
        let bytes = manifest
            .encode()
            .map_err(WorkError::impossible("the release's manifest"))?;
        tracing::info!(%target, variants = files.len(), "proposing the release");
        self.gateway.propose_release(target.to_string(), bytes).await?;
        self.checkpoint(ImportStage::Proposed, files.len() as u64, files.len() as u64)
            .await?;
        Ok(succeeded(&target))
    }

    async fn checkpoint(&self, stage: ImportStage, done: u64, total: u64) -> Result<(), WorkError> {
        let checkpoint = ImportCheckpoint {
            stage: stage.into(),
            built: self.built.clone(),
            done,
            total,
        };
        let kept = self.gateway.checkpoint(work_checkpoint::Work::Import(checkpoint));
        Ok(kept.await.map(drop)?)
    }

    /// The held-out text on which every variant is evaluated.
    async fn evaluation_set(&self) -> Result<ExampleSet, WorkError> {
        let artifact = self.spec.evaluation.as_ref();
        let artifact = artifact.ok_or_else(|| WorkError::Impossible("field `evaluation` is missing".to_owned()))?;
        let bytes = self.uploaded("evaluation", artifact, EXAMPLES_BYTES_MAX).await?;
        ExampleSet::parse(&bytes).map_err(WorkError::impossible(format!(
            "the held-out text {:?}",
            artifact.file_name
        )))
    }

    /// Bytes that the operator uploaded for this job.
    async fn uploaded(&self, field: &str, artifact: &UploadedArtifact, limit: u64) -> Result<Vec<u8>, WorkError> {
        let sha256 = digest(field, &artifact.sha256)?;
        if artifact.length_bytes > limit {
            let found = artifact.length_bytes;
            return Err(WorkError::Impossible(format!(
                "field `{field}` has {found} bytes, more than the limit of {limit}"
            )));
        }
        Ok(self.workshop.artifacts.read(sha256, artifact.length_bytes).await?)
    }

    /// One variant, built, evaluated and with the controller. One that an earlier trainer got so far is fetched instead.
    async fn variant(
        &mut self,
        plan: &VariantPlan,
        count: usize,
        source: &Source,
        evaluation: &ExampleSet,
    ) -> Result<BuiltFile, WorkError> {
        let done = self.built.len() as u64;
        if let Some(known) = self.built.iter().find(|known| known.name == plan.name.as_str()) {
            tracing::info!(variant = known.name, "built before; going on after it");
            return build::fetch(self.workshop, known, plan, &self.folder).await;
        }
        self.checkpoint(ImportStage::Building, done, count as u64).await?;
        let file = build::build(self.workshop, source, plan, &self.folder).await?;
        self.checkpoint(ImportStage::Evaluating, done, count as u64).await?;
        let loss = build::evaluate(self.workshop, &file, evaluation).await?;
        self.workshop.artifacts.store_file(&file).await?;
        tracing::info!(
            variant = plan.name.as_str(),
            bytes = file.length,
            loss,
            "built, evaluated and uploaded"
        );
        self.built.push(BuiltVariant {
            name: plan.name.to_string(),
            sha256: file.sha256.as_bytes().to_vec(),
            length_bytes: file.length,
            loss_nats_per_token: loss,
        });
        self.checkpoint(ImportStage::Building, done + 1, count as u64).await?;
        Ok(BuiltFile {
            name: plan.name.clone(),
            file,
            loss,
        })
    }
}

/// The digest in a field of the wire.
pub(crate) fn digest(field: &str, bytes: &[u8]) -> Result<Sha256Digest, WorkError> {
    let wrong = |_| WorkError::Impossible(format!("field `{field}.sha256` has {} bytes, expected 32", bytes.len()));
    <[u8; 32]>::try_from(bytes).map(Sha256Digest::from_bytes).map_err(wrong)
}

/// Loads a model from a file, on the compute thread.
pub(crate) fn load(file: &Downloaded) -> Result<Engine, WorkError> {
    Engine::open(&file.path).map_err(WorkError::impossible(format!(
        "{} is no model that runs here",
        file.path.display()
    )))
}
