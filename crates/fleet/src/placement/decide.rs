//! The choice among variants.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::correction::Correction;
use super::reason::Reason;
use super::roofline::{Prediction, predict};
use super::variant::{Loss, LossRank, Requirements, VariantSpec};
use crate::{ByteSize, Capacity, VariantName};

/// Why one eligible variant is preferred to another, the least being the best; compared field by field in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    loss: LossRank,
    weight_bytes: ByteSize,
    name: VariantName,
}

impl Score {
    /// The score of a variant.
    pub fn of(variant: &VariantSpec) -> Self {
        Self {
            loss: variant.loss.rank(),
            weight_bytes: variant.weight_bytes,
            name: variant.name.clone(),
        }
    }
}

/// What placement says about one variant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// The device runs it.
    Chosen,
    /// The device could run it, and another one is better.
    Eligible {
        /// The better one.
        worse_than: VariantName,
    },
    /// The device cannot run it.
    Refused {
        /// All reasons, at least one.
        reasons: Vec<Reason>,
    },
}

/// One variant in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct VariantReport {
    /// The variant.
    pub name: VariantName,
    /// What it would take and give.
    pub prediction: Prediction,
    /// How good its answers are.
    pub loss: Loss,
    /// What was decided about it.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// The answer of placement: a choice and, for each variant, why or why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct PlacementReport {
    /// The variant that the device runs, if any can.
    pub chosen: Option<VariantName>,
    /// Every variant, in the order in which it was given.
    pub variants: Vec<VariantReport>,
    /// What the predicted speeds were multiplied with: what devices like this one really reach.
    pub correction: Correction,
}

impl PlacementReport {
    /// The report on the chosen variant.
    pub fn choice(&self) -> Option<&VariantReport> {
        self.variants.iter().find(|report| report.verdict == Verdict::Chosen)
    }
}

/// Chooses the variant with the lowest held-out loss among those that meet every requirement; ties go to the fewer
/// bytes, then to the name.
pub fn place(
    capacity: &Capacity,
    variants: &[VariantSpec],
    requirements: &Requirements,
    correction: Correction,
) -> PlacementReport {
    let examined: Vec<(&VariantSpec, Prediction, Vec<Reason>)> = variants
        .iter()
        .map(|variant| {
            let prediction = predict(capacity, variant, requirements.context, correction);
            (
                variant,
                prediction,
                reasons(capacity, variant, requirements, &prediction),
            )
        })
        .collect();
    let eligible = examined
        .iter()
        .enumerate()
        .filter(|(_, (_, _, reasons))| reasons.is_empty());
    let best = eligible
        .min_by_key(|(index, (variant, _, _))| (Score::of(variant), *index))
        .map(|(index, _)| index);
    let chosen = best.map(|index| variants[index].name.clone());
    let report = |(index, (variant, prediction, reasons)): (usize, (&VariantSpec, Prediction, Vec<Reason>))| {
        let verdict = match &chosen {
            _ if Some(index) == best => Verdict::Chosen,
            Some(better) if reasons.is_empty() => Verdict::Eligible {
                worse_than: better.clone(),
            },
            _ => Verdict::Refused { reasons },
        };
        VariantReport {
            name: variant.name.clone(),
            prediction,
            loss: variant.loss,
            verdict,
        }
    };
    let variants = examined.into_iter().enumerate().map(report).collect();
    PlacementReport {
        chosen,
        variants,
        correction,
    }
}

/// Everything that speaks against a variant; empty where it is eligible.
fn reasons(
    capacity: &Capacity,
    variant: &VariantSpec,
    requirements: &Requirements,
    prediction: &Prediction,
) -> Vec<Reason> {
    if let Err(error) = variant.validate() {
        return vec![Reason::Impossible {
            field: error.field.to_owned(),
            value: error.value,
        }];
    }
    let mut reasons = Vec::new();
    if !capacity.runtimes.contains(&variant.runtime) {
        reasons.push(Reason::RuntimeMissing {
            needed: variant.runtime,
            available: capacity.runtimes.clone(),
        });
    }
    if capacity.trust < variant.min_trust {
        reasons.push(Reason::TrustTooLow {
            needed: variant.min_trust,
            available: capacity.trust,
        });
    }
    if variant.context < requirements.context {
        reasons.push(Reason::ContextTooShort {
            needed: requirements.context,
            available: variant.context,
        });
    }
    size_reasons(capacity, variant, requirements, prediction, &mut reasons);
    if prediction.tokens_per_second < requirements.min_tokens_per_second {
        reasons.push(Reason::TooSlow {
            needed: requirements.min_tokens_per_second,
            predicted: prediction.tokens_per_second,
            bottleneck: prediction.bottleneck,
        });
    }
    match (requirements.max_loss, variant.loss) {
        (Some(allowed), Loss::Known(measured)) if measured > allowed => {
            reasons.push(Reason::LossTooHigh { allowed, measured });
        }
        (Some(allowed), Loss::OrderedByPrecision(_)) => reasons.push(Reason::LossNotMeasured { allowed }),
        _ => {}
    }
    reasons
}

fn size_reasons(
    capacity: &Capacity,
    variant: &VariantSpec,
    requirements: &Requirements,
    prediction: &Prediction,
    reasons: &mut Vec<Reason>,
) {
    let needed = prediction.memory;
    if needed > capacity.model_memory {
        reasons.push(Reason::MemoryTooSmall {
            needed,
            available: capacity.model_memory,
        });
    }
    if let Some(allowed) = requirements.max_memory.filter(|allowed| needed > *allowed) {
        reasons.push(Reason::MemoryNotAllowed { needed, allowed });
    }
    if variant.weight_bytes > capacity.disk_free {
        reasons.push(Reason::DiskTooSmall {
            needed: variant.weight_bytes,
            available: capacity.disk_free,
        });
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chosen => write!(f, "chosen"),
            Self::Eligible { worse_than } => write!(f, "eligible, {worse_than} is better"),
            Self::Refused { reasons } => {
                let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
                write!(f, "refused: {}", reasons.join("; "))
            }
        }
    }
}
