//! What devices observe of themselves: progress, obstacles, evidence.

use std::time::Duration;

use fieldfare_fleet::install::Stage;
use fieldfare_fleet::rollout::{Evidence, Observation, Progress};
use fieldfare_fleet::{ByteSize, Fraction, Generation, NatsPerToken, Obstacle, ReleaseId, TokensPerSecond};

use super::{ConversionError, OptionExt, ResultExt, error::enumerated};
use crate::v1;

impl From<Stage> for v1::InstallStage {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Fetch => Self::Fetch,
            Stage::Verify => Self::Verify,
            Stage::Stage => Self::Stage,
            Stage::WarmUp => Self::WarmUp,
            Stage::Probe => Self::Probe,
            Stage::Switch => Self::Switch,
            Stage::Confirm => Self::Confirm,
        }
    }
}

impl TryFrom<v1::InstallStage> for Stage {
    type Error = ConversionError;

    fn try_from(stage: v1::InstallStage) -> Result<Self, ConversionError> {
        match stage {
            v1::InstallStage::Unspecified => Err(ConversionError::new("working", "is unspecified")),
            v1::InstallStage::Fetch => Ok(Self::Fetch),
            v1::InstallStage::Verify => Ok(Self::Verify),
            v1::InstallStage::Stage => Ok(Self::Stage),
            v1::InstallStage::WarmUp => Ok(Self::WarmUp),
            v1::InstallStage::Probe => Ok(Self::Probe),
            v1::InstallStage::Switch => Ok(Self::Switch),
            v1::InstallStage::Confirm => Ok(Self::Confirm),
        }
    }
}

impl From<&Progress> for v1::Progress {
    fn from(progress: &Progress) -> Self {
        Self {
            kind: Some(match progress {
                Progress::Working(stage) => v1::progress::Kind::Working(v1::InstallStage::from(*stage).into()),
                Progress::Converged => v1::progress::Kind::Converged(v1::Converged {}),
                Progress::CannotConverge(obstacle) => v1::progress::Kind::CannotConverge(obstacle.into()),
            }),
        }
    }
}

impl TryFrom<v1::Progress> for Progress {
    type Error = ConversionError;

    fn try_from(progress: v1::Progress) -> Result<Self, ConversionError> {
        match progress.kind.required("kind")? {
            v1::progress::Kind::Working(stage) => Ok(Self::Working(
                enumerated::<v1::InstallStage>("working", stage)?.try_into()?,
            )),
            v1::progress::Kind::Converged(_) => Ok(Self::Converged),
            v1::progress::Kind::CannotConverge(obstacle) => {
                let obstacle = Obstacle::try_from(obstacle).map_err(|error| error.within("cannot_converge"))?;
                Ok(Self::CannotConverge(obstacle))
            }
        }
    }
}

impl From<&Obstacle> for v1::Obstacle {
    fn from(obstacle: &Obstacle) -> Self {
        use v1::obstacle::Kind;
        let kind = match obstacle {
            Obstacle::NoVariant => Kind::NoVariant(v1::NoVariant {}),
            Obstacle::DiskTooSmall { needed, available } => Kind::DiskTooSmall(v1::DiskTooSmall {
                needed_bytes: needed.get(),
                available_bytes: available.get(),
            }),
            Obstacle::Fetch { attempts, detail } => Kind::Fetch(v1::FetchFailed {
                attempts: *attempts,
                detail: detail.clone(),
            }),
            Obstacle::Verification { detail } => Kind::Verification(detail.clone()),
            Obstacle::Staging { detail } => Kind::Staging(detail.clone()),
            Obstacle::WarmUp { detail } => Kind::WarmUp(detail.clone()),
            Obstacle::Probes { matched, run, required } => Kind::Probes(v1::ProbesFailed {
                matched: *matched,
                run: *run,
                required: *required,
            }),
            Obstacle::CrashLoop { crashes, within } => Kind::CrashLoop(v1::CrashLoop {
                crashes: *crashes,
                within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
            }),
            Obstacle::FailedBefore { generation, because } => Kind::FailedBefore(Box::new(v1::FailedBefore {
                generation: Some((*generation).into()),
                because: Some(Box::new(v1::Obstacle::from(innermost(because)))),
            })),
        };
        Self { kind: Some(kind) }
    }
}

/// The first failure: the wire nests one level, and a device never says more.
fn innermost(obstacle: &Obstacle) -> &Obstacle {
    match obstacle {
        Obstacle::FailedBefore { because, .. } => innermost(because),
        other => other,
    }
}

impl TryFrom<v1::Obstacle> for Obstacle {
    type Error = ConversionError;

    fn try_from(obstacle: v1::Obstacle) -> Result<Self, ConversionError> {
        use v1::obstacle::Kind;
        Ok(match obstacle.kind.required("kind")? {
            Kind::NoVariant(_) => Self::NoVariant,
            Kind::DiskTooSmall(v1::DiskTooSmall {
                needed_bytes,
                available_bytes,
            }) => Self::DiskTooSmall {
                needed: ByteSize::new(needed_bytes),
                available: ByteSize::new(available_bytes),
            },
            Kind::Fetch(v1::FetchFailed { attempts, detail }) => Self::Fetch { attempts, detail },
            Kind::Verification(detail) => Self::Verification { detail },
            Kind::Staging(detail) => Self::Staging { detail },
            Kind::WarmUp(detail) => Self::WarmUp { detail },
            Kind::Probes(v1::ProbesFailed { matched, run, required }) => Self::Probes { matched, run, required },
            Kind::CrashLoop(v1::CrashLoop { crashes, within_ms }) => Self::CrashLoop {
                crashes,
                within: Duration::from_millis(within_ms),
            },
            Kind::FailedBefore(before) => {
                let because = *before.because.required("failed_before.because")?;
                if matches!(because.kind, Some(Kind::FailedBefore(_))) {
                    return Err(ConversionError::new(
                        "failed_before.because",
                        "is itself a failed_before",
                    ));
                }
                Self::FailedBefore {
                    generation: before.generation.required("failed_before.generation")?.into(),
                    because: Box::new(because.try_into()?),
                }
            }
        })
    }
}

impl From<&Evidence> for v1::GateEvidence {
    fn from(evidence: &Evidence) -> Self {
        Self {
            crashes: evidence.crashes,
            probes_run: evidence.probes_run,
            probes_matched: evidence.probes_matched,
            probe_loss_nats_per_token: evidence.probe_loss.map(NatsPerToken::get),
            requests: evidence.requests,
            errors: evidence.errors,
            latency_p95_ms: evidence.latency_p95_ms,
            tokens_per_second: evidence.tokens_per_second.map(TokensPerSecond::get),
            confidence: evidence.confidence.map(Fraction::get),
        }
    }
}

impl TryFrom<v1::GateEvidence> for Evidence {
    type Error = ConversionError;

    fn try_from(evidence: v1::GateEvidence) -> Result<Self, ConversionError> {
        let loss = evidence.probe_loss_nats_per_token.map(NatsPerToken::new).transpose();
        let speed = evidence.tokens_per_second.map(TokensPerSecond::new).transpose();
        let confidence = evidence.confidence.map(Fraction::new).transpose();
        Ok(Self {
            crashes: evidence.crashes,
            probes_run: evidence.probes_run,
            probes_matched: evidence.probes_matched,
            probe_loss: loss.field("probe_loss_nats_per_token")?,
            requests: evidence.requests,
            errors: evidence.errors,
            latency_p95_ms: evidence.latency_p95_ms,
            tokens_per_second: speed.field("tokens_per_second")?,
            confidence: confidence.field("confidence")?,
        })
    }
}

impl TryFrom<&v1::ObservedModel> for Observation {
    type Error = ConversionError;

    fn try_from(observed: &v1::ObservedModel) -> Result<Self, ConversionError> {
        let progress = observed.progress.clone().required("progress")?;
        let evidence = observed.evidence.unwrap_or_default();
        Ok(Self {
            generation: observed.generation.map_or(Generation::ZERO, Generation::from),
            target: release("target_release", &observed.target_release)?,
            running: release("running_release", &observed.running_release)?,
            progress: progress
                .try_into()
                .map_err(|error: ConversionError| error.within("progress"))?,
            evidence: evidence
                .try_into()
                .map_err(|error: ConversionError| error.within("evidence"))?,
        })
    }
}

fn release(field: &str, text: &str) -> Result<Option<ReleaseId>, ConversionError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).field(field)
}
