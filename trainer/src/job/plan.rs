//! What a job is made of, decided once from its specification and the base release.

use std::time::Duration;

use fieldfare_fleet::round::{EvaluationRule, JobSpec};
use fieldfare_fleet::{ByteSize, DeploymentName, JobName, RoundId, Timestamp};
use fieldfare_lm::adapter::Projection;
use fieldfare_lm::limits::MAX_RANK;
use fieldfare_lm::train::LoraSpec;
use fieldfare_lm::train::memory::{PhysicalBatch, training_bytes};
use fieldfare_privacy::{RingCodec, RingParameters};
use fieldfare_proto::v1::{
    DpSgd, FederatedJobSpec, FederatedWork, LocalTraining, LoraShape, PrivacyBudget, RingCodec as WireCodec,
    RoundConfiguration,
};
use fieldfare_release::{ReleaseNumber, Sha256Digest};
use fieldfare_tls::{Principal, Role};

use super::base::Base;
use super::bench::Bench;
use super::privacy::Privacy;
use crate::clock::unix_ms;
use crate::failure::WorkError;
use crate::limits::{
    ADAM_STEP_MAX, COMPUTE_WITHIN, PHYSICAL_BATCH, RING_BITS, RING_COHORT_MIN, RING_RANGE_MIN, ROUND_RETRY,
    SELECT_WITHIN,
};

/// A job, decided.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) spec: FederatedJobSpec,
    pub(super) job: JobName,
    pub(super) tenant: String,
    pub(super) release: ReleaseNumber,
    pub(super) base: Base,
    pub(super) privacy: Privacy,
    pub(super) lora: LoraSpec,
    /// Entries of the state and of a contribution.
    pub(super) entries: usize,
    pub(super) codec: RingCodec,
    pub(super) training_memory: u64,
}

fn impossible(problem: String) -> WorkError {
    WorkError::Impossible(problem)
}

/// The seed of the A factors of every job on a model: a later job can go on with the adapter of an earlier one.
fn a_seed(model: &str) -> u64 {
    let digest = Sha256Digest::of(format!("fieldfare lora factors {model}").as_bytes());
    let first = digest.as_bytes().first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(first)
}

fn lora(spec: &FederatedJobSpec, model: &str) -> Result<LoraSpec, String> {
    if spec.rank == 0 || spec.rank as usize > MAX_RANK {
        return Err(format!("field `rank` is {}, expected 1 to {MAX_RANK}", spec.rank));
    }
    if !(spec.alpha.is_finite() && spec.alpha > 0.0) {
        return Err(format!("field `alpha` is {}, expected a positive number", spec.alpha));
    }
    Ok(LoraSpec {
        rank: spec.rank as usize,
        alpha: spec.alpha,
        seed: a_seed(model),
    })
}

/// The ring of a job's contributions. Its range is the farthest that Adam can go in a round: a public constant.
fn ring(spec: &FederatedJobSpec, entries: usize) -> Result<RingCodec, String> {
    if !(spec.learning_rate.is_finite() && spec.learning_rate >= 0.0) {
        return Err(format!(
            "field `learning_rate` is {}, expected a number of at least 0",
            spec.learning_rate
        ));
    }
    let range = (ADAM_STEP_MAX * spec.learning_rate * f64::from(spec.steps_per_round)).max(RING_RANGE_MIN);
    let cohort_limit = spec.cohort.max(RING_COHORT_MIN);
    let parameters = RingParameters {
        length: entries,
        range: range as f32,
        ring_bits: RING_BITS,
        cohort_limit,
    };
    RingCodec::new(parameters).map_err(|error| error.to_string())
}

impl Plan {
    pub(super) fn new(
        own: &Principal,
        spec: FederatedJobSpec,
        work: &FederatedWork,
        base: Base,
        bench: &Bench,
    ) -> Result<Self, WorkError> {
        let Role::Trainer(tenant, _) = &own.role else {
            return Err(impossible(format!("{own} is no trainer")));
        };
        let number = u32::try_from(work.release_number).ok().and_then(ReleaseNumber::new);
        let release = number.ok_or_else(|| impossible(format!("field `release_number` is {}", work.release_number)))?;
        let model = base.manifest.model.as_str();
        let lora = lora(&spec, model).map_err(impossible)?;
        let entries = lora.trained_parameters(bench.config());
        let sequence = (spec.max_sequence_tokens as usize).clamp(2, bench.config().context);
        let memory = training_bytes(bench.config(), &lora, PhysicalBatch::new(PHYSICAL_BATCH), sequence);
        let plan = Self {
            job: JobName::new(spec.job.clone()).map_err(WorkError::impossible("field `job`"))?,
            tenant: tenant.to_string(),
            release,
            privacy: Privacy::of(&spec).map_err(impossible)?,
            lora,
            entries,
            codec: ring(&spec, entries).map_err(impossible)?,
            training_memory: memory,
            spec: FederatedJobSpec {
                max_sequence_tokens: sequence as u32,
                ..spec
            },
            base,
        };
        plan.rounds()?.validate().map_err(WorkError::impossible("the job"))?;
        Ok(plan)
    }

    /// The job as the decider of rounds knows it.
    ///
    /// A round is never thrown away for its loss: its devices have paid for it, and another attempt would charge them again.
    /// The gate at the end decides instead.
    pub(super) fn rounds(&self) -> Result<JobSpec, WorkError> {
        let spec = &self.spec;
        Ok(JobSpec {
            job: self.job.clone(),
            deployment: DeploymentName::new(spec.deployment.clone())
                .map_err(WorkError::impossible("field `deployment`"))?,
            rounds: spec.rounds,
            cohort: spec.cohort,
            enough: spec.cohort,
            quorum: spec.quorum,
            select_within: SELECT_WITHIN,
            collect_within: self.collect_within(),
            compute_within: COMPUTE_WITHIN,
            retry_after: ROUND_RETRY,
            max_attempts: self.spec.attempts_per_round,
            contribution: ByteSize::new(self.codec.byte_length() as u64),
            // Noise may raise the loss of a round whose mean is right. What the job as a whole must gain is judged at its end, on
            // every variant and by more than the loss.
            evaluation: EvaluationRule {
                max_round_increase: f64::MAX,
                min_job_gain: 0.0,
            },
            seed: spec.seed,
        })
    }

    fn collect_within(&self) -> Duration {
        Duration::from_millis(self.spec.round_deadline_ms)
    }

    /// The configuration of a round that begins now and starts from this state.
    pub(super) fn configuration(&self, round: &RoundId, state: Sha256Digest, now: Timestamp) -> RoundConfiguration {
        let (spec, dp) = (&self.spec, &self.privacy.round);
        let ring = self.codec.parameters();
        let deadline = now.saturating_add(SELECT_WITHIN).saturating_add(self.collect_within());
        RoundConfiguration {
            round: Some(round.into()),
            tenant: self.tenant.clone(),
            deployment: spec.deployment.clone(),
            model: self.base.manifest.model.to_string(),
            base_manifest_target: self.base.target.to_string(),
            base_manifest_sha256: self.base.sha256.as_bytes().to_vec(),
            lora: Some(LoraShape {
                rank: spec.rank,
                alpha: spec.alpha,
                a_seed: self.lora.seed,
                projections: Projection::ALL
                    .map(|projection| projection.hf_name().to_owned())
                    .to_vec(),
            }),
            state_sha256: state.as_bytes().to_vec(),
            state_entries: self.entries as u64,
            dp: Some(DpSgd {
                sampling_rate: dp.sampling_rate().get(),
                steps: spec.steps_per_round,
                clip_norm: dp.clip_norm().get(),
                noise_multiplier: dp.noise_multiplier().get(),
                divisor: dp.divisor(),
            }),
            budget: Some(PrivacyBudget {
                epsilon: spec.epsilon,
                delta: spec.delta,
            }),
            codec: Some(WireCodec {
                range: f64::from(ring.range),
                bits: ring.ring_bits,
                entries: ring.length as u64,
                cohort_limit: ring.cohort_limit,
            }),
            training: Some(LocalTraining {
                learning_rate: spec.learning_rate,
                max_sequence_tokens: spec.max_sequence_tokens,
                physical_batch: PHYSICAL_BATCH as u32,
            }),
            deadline_unix_ms: unix_ms(deadline),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_ring_holds_every_update_that_adam_can_make() {
        let spec = FederatedJobSpec {
            learning_rate: 0.01,
            steps_per_round: 8,
            cohort: 5,
            ..FederatedJobSpec::default()
        };
        let codec = ring(&spec, 10).unwrap();
        assert_eq!(codec.byte_length(), 30, "three bytes an entry");
        assert_eq!(codec.encode(&[0.01 * 8.0 * 3.17; 10]).unwrap().clamped, 0);
        let still = ring(
            &FederatedJobSpec {
                learning_rate: 0.0,
                ..spec.clone()
            },
            10,
        )
        .unwrap();
        assert_eq!(still.encode(&[0.0; 10]).unwrap().clamped, 0);
        assert!(
            ring(
                &FederatedJobSpec {
                    learning_rate: f64::NAN,
                    ..spec
                },
                10
            )
            .is_err()
        );
    }

    #[test]
    fn jobs_on_one_model_share_their_a_factors_and_jobs_on_others_do_not() {
        let spec = FederatedJobSpec {
            rank: 4,
            alpha: 8.0,
            ..FederatedJobSpec::default()
        };
        assert_eq!(
            lora(&spec, "farm").unwrap(),
            lora(
                &FederatedJobSpec {
                    seed: 9,
                    ..spec.clone()
                },
                "farm"
            )
            .unwrap()
        );
        assert_ne!(lora(&spec, "farm").unwrap().seed, lora(&spec, "barn").unwrap().seed);
        assert!(
            lora(
                &FederatedJobSpec {
                    rank: 0,
                    ..spec.clone()
                },
                "farm"
            )
            .unwrap_err()
            .contains("rank")
        );
        assert!(
            lora(&FederatedJobSpec { alpha: -1.0, ..spec }, "farm")
                .unwrap_err()
                .contains("alpha")
        );
    }
}
