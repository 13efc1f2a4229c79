//! A round's configuration, checked: what the device will do with its examples, and what it pays.

use fieldfare_fleet::limits::{MAX_ROUND_STEPS, MAX_TRAINING_SEQUENCE};
use fieldfare_fleet::{Digest, RoundId, Timestamp};
use fieldfare_lm::adapter::Projection;
use fieldfare_lm::config::DecoderConfig;
use fieldfare_lm::limits::MAX_RANK;
use fieldfare_lm::train::LoraSpec;
use fieldfare_member::ticket::Ticket;
use fieldfare_privacy::{Budget, DpSgdParameters, RingCodec, RingParameters};
use fieldfare_proto::v1::{DpSgd, LoraShape, RoundConfiguration};
use fieldfare_proto::{ConversionError, OptionExt, ResultExt};
use fieldfare_release::Sha256Digest;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::install::digest;
use crate::limits::{MAX_ROUND_CONFIGURATION_BYTES, MAX_TRAINED_PARAMETERS};

/// What a round asks of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundPlan {
    /// The round.
    pub round: RoundId,
    /// Digest of the manifest that the round trains on top of.
    pub base_manifest: Digest,
    /// Digest of the state that training starts from.
    pub state: Sha256Digest,
    /// What the job may take in all from a device's examples.
    pub job_budget: Budget,
    /// When the round ends.
    pub deadline: Timestamp,
    /// What the training process is told.
    pub training: Training,
}

/// The numbers of local training, as the training process is told them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Rank of the factors.
    pub rank: usize,
    /// The product is scaled by alpha / rank.
    pub alpha: f32,
    /// Seed of the fixed factors A.
    pub a_seed: u64,
    /// Sampling, clipping, noise.
    pub dp: DpSgdParameters,
    /// How the update is encoded.
    pub ring: RingParameters,
    /// Learning rate of Adam.
    pub learning_rate: f32,
    /// Longest sequence.
    pub max_sequence_tokens: usize,
    /// Examples in one backward pass.
    pub physical_batch: usize,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// It is longer than any.
    #[error("the configuration has {found} bytes, and the limit is {MAX_ROUND_CONFIGURATION_BYTES}")]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// It is not the one that the ticket names.
    #[error("the configuration is not the one that the controller's ticket names")]
    OtherDigest,
    /// It is for another round than the ticket.
    #[error("the configuration is for {found}, and the ticket for {expected}")]
    OtherRound {
        /// The configuration's round.
        found: RoundId,
        /// The ticket's.
        expected: RoundId,
    },
    /// A field cannot be.
    #[error("the configuration")]
    Field(#[from] ConversionError),
}

fn bad(field: &str, reason: impl std::fmt::Display) -> PlanError {
    PlanError::Field(ConversionError::new(field, reason))
}

/// An integer no larger than a limit and at least 1.
fn positive(field: &str, value: u32, most: u32) -> Result<usize, PlanError> {
    if (1..=most).contains(&value) {
        return Ok(value as usize);
    }
    Err(bad(field, format!("is {value}, expected 1 to {most}")))
}

/// Sampling, clipping and noise. The divisor names the public number of examples, which must be a whole one.
fn private_steps(dp: DpSgd) -> Result<DpSgdParameters, PlanError> {
    if dp.steps > MAX_ROUND_STEPS {
        return Err(bad(
            "dp.steps",
            format!("is {}, and the limit is {MAX_ROUND_STEPS}", dp.steps),
        ));
    }
    let examples = dp.divisor / dp.sampling_rate;
    let whole = examples.round();
    if !(1.0..1e9).contains(&whole) || (examples - whole).abs() > 1e-6 * whole {
        return Err(bad(
            "dp.divisor",
            format!(
                "is {}, expected the sampling rate times a whole number of examples",
                dp.divisor
            ),
        ));
    }
    let steps = u64::from(dp.steps);
    Ok(
        DpSgdParameters::from_numbers(dp.sampling_rate, steps, dp.clip_norm, dp.noise_multiplier, whole as u64)
            .field("dp")?,
    )
}

fn check_projections(lora: &LoraShape) -> Result<(), PlanError> {
    let expected: Vec<&str> = Projection::ALL.iter().map(|projection| projection.hf_name()).collect();
    if lora.projections == expected {
        return Ok(());
    }
    Err(bad(
        "lora.projections",
        format!("is {:?}, expected {expected:?}", lora.projections),
    ))
}

impl RoundPlan {
    /// Reads and checks the configuration that a ticket names.
    ///
    /// # Errors
    /// [`PlanError`] names the field.
    pub fn read(bytes: &[u8], ticket: &Ticket) -> Result<Self, PlanError> {
        if bytes.len() > MAX_ROUND_CONFIGURATION_BYTES {
            return Err(PlanError::TooLong { found: bytes.len() });
        }
        if digest(&Sha256Digest::of(bytes)) != ticket.configuration {
            return Err(PlanError::OtherDigest);
        }
        let configuration = RoundConfiguration::decode(bytes).field("configuration")?;
        let round: RoundId = configuration.round.clone().required("round")?.try_into()?;
        if round != ticket.round {
            return Err(PlanError::OtherRound {
                found: round,
                expected: ticket.round.clone(),
            });
        }
        let sha256 = |field: &str, bytes: &[u8]| Digest::try_from(bytes).field(field);
        let budget = configuration.budget.required("budget")?;
        Ok(Self {
            round,
            base_manifest: sha256("base_manifest_sha256", &configuration.base_manifest_sha256)?,
            state: Sha256Digest::from_bytes(*sha256("state_sha256", &configuration.state_sha256)?.as_bytes()),
            job_budget: Budget::from_numbers(budget.epsilon, budget.delta).field("budget")?,
            deadline: Timestamp::from_unix_ms(u64::try_from(configuration.deadline_unix_ms).unwrap_or(0)),
            training: Training::read(configuration)?,
        })
    }
}

impl Training {
    fn read(configuration: RoundConfiguration) -> Result<Self, PlanError> {
        let lora = configuration.lora.required("lora")?;
        check_projections(&lora)?;
        if !(lora.alpha.is_finite() && lora.alpha > 0.0) {
            return Err(bad(
                "lora.alpha",
                format!("is {}, expected a positive number", lora.alpha),
            ));
        }
        let codec = configuration.codec.required("codec")?;
        let entries = configuration.state_entries;
        if entries == 0 || entries > MAX_TRAINED_PARAMETERS || codec.entries != entries {
            let reason = format!(
                "is {entries} and `codec.entries` {}, expected one number from 1 to {MAX_TRAINED_PARAMETERS}",
                codec.entries
            );
            return Err(bad("state_entries", reason));
        }
        let ring = RingParameters {
            length: entries as usize,
            range: codec.range as f32,
            ring_bits: codec.bits,
            cohort_limit: codec.cohort_limit,
        };
        RingCodec::new(ring).field("codec")?;
        let training = configuration.training.required("training")?;
        let rate = training.learning_rate as f32;
        if !(rate.is_finite() && rate >= 0.0) {
            return Err(bad(
                "training.learning_rate",
                format!("is {}, expected a number from 0 on", training.learning_rate),
            ));
        }
        Ok(Self {
            rank: positive("lora.rank", lora.rank, u32::try_from(MAX_RANK).unwrap_or(u32::MAX))?,
            alpha: lora.alpha,
            a_seed: lora.a_seed,
            dp: private_steps(configuration.dp.required("dp")?)?,
            ring,
            learning_rate: rate,
            max_sequence_tokens: positive(
                "training.max_sequence_tokens",
                training.max_sequence_tokens,
                MAX_TRAINING_SEQUENCE,
            )?
            .max(2),
            physical_batch: positive("training.physical_batch", training.physical_batch, 1024)?,
        })
    }

    /// The factors that are trained.
    pub const fn lora(&self) -> LoraSpec {
        LoraSpec {
            rank: self.rank,
            alpha: self.alpha,
            seed: self.a_seed,
        }
    }

    /// Whether the state has the length that this base model asks for.
    ///
    /// # Errors
    /// The sentence has both lengths.
    pub fn fits(&self, config: &DecoderConfig) -> Result<(), String> {
        let expected = self.lora().trained_parameters(config);
        if expected == self.ring.length {
            return Ok(());
        }
        Err(format!(
            "the state has {} entries, and rank {} on this base has {expected}",
            self.ring.length, self.rank
        ))
    }
}

#[cfg(test)]
mod tests {
    use fieldfare_fleet::DeviceId;
    use fieldfare_proto::v1::{LocalTraining, PrivacyBudget, RingCodec as WireCodec, RoundRef};
    use fieldfare_tls::Principal;

    use super::*;

    fn configuration() -> RoundConfiguration {
        RoundConfiguration {
            round: Some(RoundRef {
                job: "gain".into(),
                round: 2,
                attempt: 1,
            }),
            base_manifest_sha256: vec![1; 32],
            lora: Some(LoraShape {
                rank: 4,
                alpha: 8.0,
                a_seed: 3,
                projections: Projection::ALL
                    .map(|projection| projection.hf_name().to_owned())
                    .to_vec(),
            }),
            state_sha256: vec![2; 32],
            state_entries: 100,
            dp: Some(DpSgd {
                sampling_rate: 0.16,
                steps: 8,
                clip_norm: 0.5,
                noise_multiplier: 1.0,
                divisor: 32.0,
            }),
            budget: Some(PrivacyBudget {
                epsilon: 8.0,
                delta: 1e-5,
            }),
            codec: Some(WireCodec {
                range: 0.5,
                bits: 32,
                entries: 100,
                cohort_limit: 64,
            }),
            training: Some(LocalTraining {
                learning_rate: 0.01,
                max_sequence_tokens: 64,
                physical_batch: 4,
            }),
            ..RoundConfiguration::default()
        }
    }

    fn ticket(bytes: &[u8]) -> Ticket {
        let trainer: Principal = "spiffe://farm.example/tenant/north/trainer/t0".parse().unwrap();
        let round = RoundRef {
            job: "gain".into(),
            round: 2,
            attempt: 1,
        }
        .try_into()
        .unwrap();
        Ticket {
            round,
            device: DeviceId::from_bytes([1; 16]),
            configuration: digest(&Sha256Digest::of(bytes)),
            trainer,
            not_after: Timestamp::NEVER,
        }
    }

    #[test]
    fn a_configuration_becomes_a_plan() {
        let bytes = configuration().encode_to_vec();
        let plan = RoundPlan::read(&bytes, &ticket(&bytes)).unwrap();
        assert_eq!(plan.training.dp.public_examples(), 200);
        assert_eq!((plan.training.ring.length, plan.training.lora().rank), (100, 4));
    }

    #[test]
    fn another_configuration_than_the_tickets_is_refused() {
        let (bytes, other) = (
            configuration().encode_to_vec(),
            RoundConfiguration::default().encode_to_vec(),
        );
        assert!(matches!(
            RoundPlan::read(&bytes, &ticket(&other)),
            Err(PlanError::OtherDigest)
        ));
        let other = RoundConfiguration {
            round: Some(RoundRef {
                job: "gain".into(),
                round: 3,
                attempt: 1,
            }),
            ..configuration()
        };
        let other = other.encode_to_vec();
        assert!(matches!(
            RoundPlan::read(&other, &ticket(&other)),
            Err(PlanError::OtherRound { .. })
        ));
    }

    #[test]
    fn an_impossible_field_is_named() {
        type Change = fn(&mut RoundConfiguration);
        let cases: [(Change, &str); 14] = [
            (|c| c.lora = None, "`lora`"),
            (|c| c.lora.as_mut().unwrap().rank = 0, "`lora.rank`"),
            (|c| c.lora.as_mut().unwrap().alpha = f32::NAN, "`lora.alpha`"),
            (
                |c| c.lora.as_mut().unwrap().projections.truncate(1),
                "`lora.projections`",
            ),
            (|c| c.dp.as_mut().unwrap().noise_multiplier = 0.0, "`dp`"),
            (|c| c.dp.as_mut().unwrap().sampling_rate = 2.0, "dp"),
            (|c| c.dp.as_mut().unwrap().divisor = 31.99, "`dp.divisor`"),
            (|c| c.dp.as_mut().unwrap().steps = u32::MAX, "`dp.steps`"),
            (|c| c.budget = None, "`budget`"),
            (|c| c.budget.as_mut().unwrap().epsilon = f64::INFINITY, "`budget`"),
            (|c| c.codec.as_mut().unwrap().entries = 99, "`state_entries`"),
            (|c| c.codec.as_mut().unwrap().cohort_limit = 0, "`codec`"),
            (
                |c| c.training.as_mut().unwrap().learning_rate = -1.0,
                "`training.learning_rate`",
            ),
            (|c| c.state_sha256.truncate(3), "`state_sha256`"),
        ];
        for (change, expected) in cases {
            let mut changed = configuration();
            change(&mut changed);
            let bytes = changed.encode_to_vec();
            let error = RoundPlan::read(&bytes, &ticket(&bytes)).unwrap_err();
            let text = crate::process::chain(&error);
            assert!(text.contains(expected), "{text}: no {expected}");
        }
    }
}
