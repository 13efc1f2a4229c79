//! `adapter_config.json`, and what of it the engine can honour.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::AdapterError;
use crate::adapter::AdapterMismatch;
use crate::limits;

/// Fields that say how an adapter was trained or found, and nothing of what is computed with it (PEFT 0.21).
const INERT_FIELDS: [&str; 13] = [
    "auto_mapping",
    "corda_config",
    "eva_config",
    "exclude_modules",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
];

/// Ways to begin training that leave the base as it is. The others (PiSSA, OLoRA, LoftQ, CorDA, LoRA-GA) take something out of
/// the base's weights, and their factors are right only beside what is left of it.
const INITIALISATIONS_OF_FACTORS_ALONE: [&str; 3] = ["eva", "gaussian", "orthogonal"];

/// What `adapter_config.json` says. A field that is not known, and that could change what is computed, is refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeftConfig {
    /// `LORA`.
    pub peft_type: String,
    /// `CAUSAL_LM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_type: Option<String>,
    /// The rank.
    pub r: usize,
    /// The product is scaled by `lora_alpha / r`.
    pub lora_alpha: f32,
    /// Projections that have factors, such as `q_proj`, or an expression for their names. The factors themselves decide.
    #[serde(default)]
    pub target_modules: TargetModules,
    /// Dropout in training; has no effect on what is computed when serving.
    #[serde(default)]
    pub lora_dropout: f32,
    /// `none`: trained biases are refused.
    #[serde(default = "no_bias")]
    pub bias: String,
    /// Scaling by the square root of the rank: refused where true.
    #[serde(default)]
    pub use_rslora: bool,
    /// Weight decomposition: refused where true.
    #[serde(default)]
    pub use_dora: bool,
    /// Whether weights are stored transposed, as in GPT-2: refused where true.
    #[serde(default)]
    pub fan_in_fan_out: bool,
    /// Whether the adapter is for inference only.
    #[serde(default)]
    pub inference_mode: bool,
    /// The base model's name, for people.
    #[serde(default)]
    pub base_model_name_or_path: Option<String>,
    /// Every other field.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

/// Which modules have factors, in the forms that PEFT writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetModules {
    /// By name.
    Names(Vec<String>),
    /// By a regular expression.
    Expression(String),
}

impl Default for TargetModules {
    fn default() -> Self {
        Self::Names(Vec::new())
    }
}

pub(super) fn no_bias() -> String {
    "none".to_owned()
}

/// Refuses what would compute something else than was trained.
pub(super) fn check_supported(config: &PeftConfig) -> Result<(), AdapterError> {
    let unsupported = |field: &str, found: String, expected| {
        let field = field.to_owned();
        Err(AdapterError::Unsupported { field, found, expected })
    };
    if config.peft_type != "LORA" {
        return unsupported("peft_type", config.peft_type.clone(), "LORA");
    }
    if config.bias != "none" {
        return unsupported("bias", config.bias.clone(), "none");
    }
    if config.r == 0 || config.r > limits::MAX_RANK {
        return Err(AdapterMismatch::Rank { found: config.r }.into());
    }
    let flags = [
        ("use_rslora", config.use_rslora),
        ("use_dora", config.use_dora),
        ("fan_in_fan_out", config.fan_in_fan_out),
    ];
    if let Some((field, _)) = flags.into_iter().find(|(_, set)| *set) {
        return unsupported(field, "true".to_owned(), "false");
    }
    for (field, value) in &config.others {
        if field == "init_lora_weights" {
            let leaves_the_base = match value {
                Value::String(name) => INITIALISATIONS_OF_FACTORS_ALONE.contains(&name.as_str()),
                other => other.is_boolean() || other.is_null(),
            };
            if !leaves_the_base {
                return unsupported(
                    field,
                    value.to_string(),
                    "an initialisation that leaves the base's weights alone",
                );
            }
        } else if !INERT_FIELDS.contains(&field.as_str()) && !says_nothing(value) {
            return unsupported(field, value.to_string(), "nothing: the engine does not know it");
        }
    }
    Ok(())
}

/// Whether a field has the value that it has where it is not used.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}
