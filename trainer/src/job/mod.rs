//! A federated job: rounds of private training on the devices, and a release if the result is good enough.
//!
//! After each committed round its state is with the controller, so that another trainer goes on after it.

mod base;
mod bench;
mod drive;
mod gate;
mod plan;
mod privacy;
mod publish;
mod round;

use std::sync::Arc;

use fieldfare_proto::v1::{
    FederatedCheckpoint, FederatedWork, JobRefused, JobStage, JobSucceeded, VariantEvaluation, finish_request,
    work_checkpoint,
};

use crate::evaluation::Measured;
use crate::examples::ExampleSet;
use crate::failure::{WorkError, chain, told};
use crate::gateway::FencedGateway;
use crate::limits::EXAMPLES_BYTES_MAX;
use crate::work::Workshop;

use bench::Bench;
use plan::Plan;

/// What every part of a job works with.
struct Job<'a> {
    workshop: &'a Workshop,
    gateway: &'a FencedGateway,
    plan: Plan,
    bench: Arc<Bench>,
    /// The consented evaluation set.
    evaluation: Arc<ExampleSet>,
}

/// Carries a job through, from its last checkpoint on.
pub(crate) async fn run(
    workshop: &Workshop,
    gateway: &FencedGateway,
    work: FederatedWork,
    from: Option<FederatedCheckpoint>,
) -> Result<finish_request::Outcome, WorkError> {
    let job = Job::prepare(workshop, gateway, work).await?;
    // Asked before the first round: what the trainer could not sign in the end, no device shall pay for.
    job.gateway.delegation(job.plan.base.manifest.model.to_string()).await?;
    let mut checkpoint = match from {
        Some(checkpoint) if !checkpoint.before.is_empty() => job.complete(checkpoint).await?,
        _ => job.begin().await?,
    };
    let mut state = job.state(&checkpoint).await?;
    if checkpoint.committed_round < job.plan.spec.rounds {
        (checkpoint, state) = drive::rounds(&job, checkpoint, state).await?;
    }
    checkpoint.stage = JobStage::Evaluating.into();
    job.refuse_stale(&job.checkpoint(checkpoint.clone()).await?)?;
    let measured = job.measure_all(&state).await?;
    let (evaluations, reasons) = gate::judge(&job.plan.spec.gate.unwrap_or_default(), &checkpoint.before, &measured);
    if !reasons.is_empty() {
        tracing::warn!(job = gateway.job(), ?reasons, "the evaluation gate refuses to publish");
        let reasons = reasons.into_iter().map(told).collect();
        return Ok(finish_request::Outcome::Refused(JobRefused { evaluations, reasons }));
    }
    let manifest_target = publish::publish(&job, &checkpoint, &state, &measured, &evaluations).await?;
    Ok(finish_request::Outcome::Succeeded(JobSucceeded {
        manifest_target,
        evaluations,
    }))
}

impl<'a> Job<'a> {
    async fn prepare(
        workshop: &'a Workshop,
        gateway: &'a FencedGateway,
        work: FederatedWork,
    ) -> Result<Self, WorkError> {
        let spec = work.spec.clone().unwrap_or_default();
        let artifact = spec.evaluation.as_ref();
        let artifact = artifact.ok_or_else(|| {
            WorkError::Impossible("field `evaluation` is missing: a job needs a consented evaluation set".to_owned())
        })?;
        let sha256 = crate::import::digest("evaluation", &artifact.sha256)?;
        let limit = artifact.length_bytes.min(EXAMPLES_BYTES_MAX);
        let (base, files) = base::fetch(workshop, gateway.job(), &work).await?;
        let bytes = workshop.artifacts.read(sha256, limit).await?;
        let evaluation = ExampleSet::parse(&bytes);
        let evaluation = evaluation.map_err(WorkError::impossible(format!(
            "the evaluation set {:?}",
            artifact.file_name
        )))?;
        let bench = Bench::open(workshop, files, base.adapter.clone()).await?;
        let plan = Plan::new(workshop.identity.current().principal(), spec, &work, base, &bench)?;
        let bench = Arc::new(bench.with_lora(plan.lora));
        Ok(Self {
            workshop,
            gateway,
            plan,
            bench,
            evaluation: Arc::new(evaluation),
        })
    }

    /// Keeps a checkpoint; the variants that devices run now.
    async fn checkpoint(&self, checkpoint: FederatedCheckpoint) -> Result<Vec<String>, WorkError> {
        let kept = self.gateway.checkpoint(work_checkpoint::Work::Federated(checkpoint));
        Ok(kept.await?.variants_in_use)
    }

    /// Devices may have moved to a variant that is not here: the claim on the job is taken anew then, with what is in use.
    fn refuse_stale(&self, in_use: &[String]) -> Result<(), WorkError> {
        let here: Vec<String> = (0..self.bench.variants()).map(|index| self.bench.name(index)).collect();
        match in_use.iter().find(|variant| !here.contains(variant)) {
            Some(moved) => Err(WorkError::interrupted("judging every variant in use")(format!(
                "devices have moved to {moved} since the job was claimed"
            ))),
            None => Ok(()),
        }
    }

    /// The checkpoint of a job that begins: the losses before it, and the state that its first round starts from.
    async fn begin(&self) -> Result<FederatedCheckpoint, WorkError> {
        let start = self.bench.start().map_err(WorkError::Impossible)?;
        let before = self.before(&start).await?;
        let state_sha256 = self
            .workshop
            .artifacts
            .store(bench::encode(&start))
            .await?
            .as_bytes()
            .to_vec();
        let stage = JobStage::Running.into();
        let checkpoint = FederatedCheckpoint {
            state_sha256,
            stage,
            before,
            ..FederatedCheckpoint::default()
        };
        self.checkpoint(checkpoint.clone()).await?;
        Ok(checkpoint)
    }

    /// The checkpoint with the losses before the job of variants that were not in use when it began.
    async fn complete(&self, checkpoint: FederatedCheckpoint) -> Result<FederatedCheckpoint, WorkError> {
        let is_known = |name: &String| checkpoint.before.iter().any(|known| known.variant == *name);
        let all_known = (0..self.bench.variants()).all(|index| is_known(&self.bench.name(index)));
        if all_known {
            return Ok(checkpoint);
        }
        let start = self.bench.start().map_err(WorkError::Impossible)?;
        let before = self.before(&start).await?;
        Ok(FederatedCheckpoint { before, ..checkpoint })
    }

    /// How every variant in use does before the job.
    async fn before(&self, start: &[f32]) -> Result<Vec<VariantEvaluation>, WorkError> {
        let measured = self.measure_all(start).await?;
        let majority = self.evaluation.majority_rate();
        let before = measured.iter().map(|(variant, measured)| VariantEvaluation {
            variant: variant.clone(),
            loss_before: measured.loss_per_token(),
            exact_match_before: measured.exact_rate(),
            majority_exact_match: majority,
            examples: self.evaluation.examples().len() as u32,
            ..VariantEvaluation::default()
        });
        let before: Vec<_> = before.collect();
        for evaluation in &before {
            tracing::info!(
                variant = evaluation.variant,
                loss = evaluation.loss_before,
                exact_match = evaluation.exact_match_before,
                majority,
                "before the job"
            );
        }
        Ok(before)
    }

    /// The state after the last committed round.
    async fn state(&self, checkpoint: &FederatedCheckpoint) -> Result<Vec<f32>, WorkError> {
        let sha256 = crate::import::digest("checkpoint.state", &checkpoint.state_sha256)?;
        let bytes = self
            .workshop
            .artifacts
            .read(sha256, 4 * self.plan.entries as u64)
            .await?;
        bench::decode(&bytes, self.plan.entries)
            .map_err(|problem| WorkError::Impossible(format!("the state of the last checkpoint: {problem}")))
    }

    /// Every variant in use with this state, the most precise first.
    async fn measure_all(&self, state: &[f32]) -> Result<Vec<(String, Measured)>, WorkError> {
        let (bench, evaluation, state) = (Arc::clone(&self.bench), Arc::clone(&self.evaluation), state.to_vec());
        let measured = self.workshop.compute.run(move |stop| {
            let measure = |index| {
                bench
                    .measure(index, &state, &evaluation, stop)
                    .map(|m| (bench.name(index), m))
            };
            (0..bench.variants()).map(measure).collect::<Result<Vec<_>, _>>()
        });
        let measured = measured.await.map_err(WorkError::computing("evaluating"))?;
        measured.map_err(|error| {
            WorkError::Impossible(format!("the evaluation set cannot be evaluated: {}", chain(&error)))
        })
    }
}
