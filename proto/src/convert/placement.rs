//! Requirements, and reports of placement. Reports travel to people only, so they are converted in one direction.

use fieldfare_fleet::placement::{Loss, PlacementReport, Reason, Requirements, VariantReport, Verdict};
use fieldfare_fleet::{ByteSize, NatsPerToken, TokensPerSecond};

use super::{ConversionError, ResultExt};
use crate::v1;

impl From<&Requirements> for v1::Requirements {
    fn from(requirements: &Requirements) -> Self {
        Self {
            min_tokens_per_second: requirements.min_tokens_per_second.get(),
            max_memory_bytes: requirements.max_memory.map_or(0, ByteSize::get),
            context_tokens: requirements.context,
            max_loss_nats_per_token: requirements.max_loss.map(NatsPerToken::get),
        }
    }
}

impl TryFrom<v1::Requirements> for Requirements {
    type Error = ConversionError;

    fn try_from(requirements: v1::Requirements) -> Result<Self, ConversionError> {
        let max_loss = requirements.max_loss_nats_per_token.map(NatsPerToken::new).transpose();
        Ok(Self {
            min_tokens_per_second: TokensPerSecond::new(requirements.min_tokens_per_second)
                .field("min_tokens_per_second")?,
            context: requirements.context_tokens,
            max_memory: (requirements.max_memory_bytes > 0).then(|| ByteSize::new(requirements.max_memory_bytes)),
            max_loss: max_loss.field("max_loss_nats_per_token")?,
        })
    }
}

impl From<&PlacementReport> for v1::PlacementReport {
    fn from(report: &PlacementReport) -> Self {
        Self {
            chosen: report.chosen.as_ref().map(ToString::to_string).unwrap_or_default(),
            variants: report.variants.iter().map(v1::VariantPlacement::from).collect(),
            speed_correction: report.correction.get(),
            speed_correction_devices: 0,
        }
    }
}

impl From<&VariantReport> for v1::VariantPlacement {
    fn from(report: &VariantReport) -> Self {
        Self {
            variant: report.name.to_string(),
            predicted_tokens_per_second: report.prediction.tokens_per_second.get(),
            bottleneck: report.prediction.bottleneck.to_string(),
            memory_bytes: report.prediction.memory.get(),
            loss_nats_per_token: match report.loss {
                Loss::Known(loss) => Some(loss.get()),
                Loss::OrderedByPrecision(_) => None,
            },
            verdict: Some(match &report.verdict {
                Verdict::Chosen => v1::variant_placement::Verdict::Chosen(v1::VariantChosen {}),
                Verdict::Eligible { worse_than } => v1::variant_placement::Verdict::Eligible(v1::VariantEligible {
                    better: worse_than.to_string(),
                }),
                Verdict::Refused { reasons } => v1::variant_placement::Verdict::Refused(v1::VariantRefused {
                    reasons: reasons.iter().map(v1::PlacementRefusal::from).collect(),
                }),
            }),
        }
    }
}

impl From<&Reason> for v1::PlacementRefusal {
    fn from(reason: &Reason) -> Self {
        let code = match reason {
            Reason::RuntimeMissing { .. } => "runtime_missing",
            Reason::TrustTooLow { .. } => "trust_too_low",
            Reason::ContextTooShort { .. } => "context_too_short",
            Reason::MemoryTooSmall { .. } => "memory_too_small",
            Reason::MemoryNotAllowed { .. } => "memory_not_allowed",
            Reason::DiskTooSmall { .. } => "disk_too_small",
            Reason::TooSlow { .. } => "too_slow",
            Reason::LossTooHigh { .. } => "loss_too_high",
            Reason::LossNotMeasured { .. } => "loss_not_measured",
            Reason::Impossible { .. } => "impossible",
        };
        Self {
            code: code.to_owned(),
            detail: reason.to_string(),
        }
    }
}
