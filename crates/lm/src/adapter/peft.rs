//! Adapters as PEFT writes and reads them: `adapter_model.safetensors` and `adapter_config.json`.

use std::collections::{BTreeMap, BTreeSet};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AdapterMismatch, LoraAdapter, LoraFactors, Projection, Site, permute_rows_from_hf, permute_rows_to_hf};
use crate::config::DecoderConfig;
use crate::limits;

/// The file name that PEFT gives the factors.
pub const MODEL_FILE: &str = "adapter_model.safetensors";

/// The file name that PEFT gives the configuration.
pub const CONFIG_FILE: &str = "adapter_config.json";

const PREFIX: &str = "base_model.model.model.layers.";

/// The metadata key under which the factors carry their own configuration, so that one file is a whole adapter.
const CONFIG_KEY: &str = "fieldfare.adapter_config";

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

fn no_bias() -> String {
    "none".to_owned()
}

/// An adapter as two files' content.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftFiles {
    /// Content of [`MODEL_FILE`].
    pub model: Vec<u8>,
    /// Content of [`CONFIG_FILE`].
    pub config: String,
}

/// Why files are no adapter for a decoder.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// A file is larger than any adapter.
    #[error("adapter: {file} has {found} bytes, and the limit is {limit}")]
    TooLarge {
        /// The file.
        file: &'static str,
        /// Its bytes.
        found: usize,
        /// The most accepted.
        limit: usize,
    },
    /// The configuration is no JSON of the expected form.
    #[error("adapter: adapter_config.json is not a LoRA configuration")]
    Config(#[source] serde_json::Error),
    /// One file was given alone, and carries no configuration.
    #[error("adapter: the safetensors metadata have no {CONFIG_KEY}, and no adapter_config.json was given")]
    NoConfig,
    /// The configuration asks for something that the engine does not compute.
    #[error("adapter: adapter_config.json: {field} is {found}, expected {expected}")]
    Unsupported {
        /// The field.
        field: String,
        /// Its value.
        found: String,
        /// What is supported.
        expected: &'static str,
    },
    /// The factors' file is damaged or hostile.
    #[error("adapter: adapter_model.safetensors cannot be read")]
    Safetensors(#[source] safetensors::SafeTensorError),
    /// A tensor has a name that is not understood. Dropping it would compute something else than was trained.
    #[error("adapter: tensor {name} is not understood")]
    UnknownTensor {
        /// The tensor's name.
        name: String,
    },
    /// A tensor has an unexpected type or shape.
    #[error("adapter: tensor {name} is {found}, expected {expected}")]
    Tensor {
        /// The tensor's name.
        name: String,
        /// Its type and shape.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// A projection has one factor only.
    #[error("adapter: layer {layer} {} has one factor only", projection.hf_name())]
    HalfPair {
        /// The layer.
        layer: usize,
        /// The projection.
        projection: Projection,
    },
    /// The factors do not fit the decoder.
    #[error(transparent)]
    Mismatch(#[from] AdapterMismatch),
    /// The factors could not be serialised.
    #[error("adapter: adapter_model.safetensors cannot be written")]
    Write(#[source] safetensors::SafeTensorError),
}

/// Serialises an adapter for PEFT. `base` is the base model's name, for people.
pub fn write(adapter: &LoraAdapter, config: &DecoderConfig, base: &str) -> Result<PeftFiles, AdapterError> {
    adapter.check(config)?;
    let peft_config = describe(adapter, base);
    let config_json = serde_json::to_string_pretty(&peft_config).map_err(AdapterError::Config)?;
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for (&(layer, projection), factors) in &adapter.factors {
        let b = permute_rows_to_hf(&factors.b, adapter.rank, projection, config);
        tensors.insert(
            tensor_name(layer, projection, "A"),
            (vec![adapter.rank, factors.d_in], to_bytes(&factors.a)),
        );
        tensors.insert(
            tensor_name(layer, projection, "B"),
            (vec![factors.d_out, adapter.rank], to_bytes(&b)),
        );
    }
    let mut views = Vec::with_capacity(tensors.len());
    for (name, (shape, bytes)) in &tensors {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(AdapterError::Write)?;
        views.push((name.clone(), view));
    }
    // One entry only: the library writes this map in the order of a hash map, and equal adapters must have equal digests.
    let metadata = [(CONFIG_KEY.to_owned(), config_json.clone())].into_iter().collect();
    let model = safetensors::serialize(views, Some(metadata)).map_err(AdapterError::Write)?;
    Ok(PeftFiles {
        model,
        config: config_json,
    })
}

/// Reads an adapter from its two files, or from the factors alone where they carry their configuration.
///
/// The files are treated as hostile: sizes are bounded, unknown tensors are refused, and the result fits `config`.
pub fn read(model: &[u8], config_json: Option<&str>, config: &DecoderConfig) -> Result<LoraAdapter, AdapterError> {
    check_size(MODEL_FILE, model.len(), limits::MAX_ADAPTER_BYTES)?;
    let peft_config = read_config(model, config_json)?;
    let tensors = SafeTensors::deserialize(model).map_err(AdapterError::Safetensors)?;
    let mut halves: BTreeMap<Site, Halves> = BTreeMap::new();
    // The library iterates a hash map; sorted, the same file always fails for the same reason.
    let views: BTreeMap<&str, TensorView<'_>> = tensors.iter().collect();
    for (name, view) in views {
        let (layer, projection, factor) =
            parse_name(name).ok_or_else(|| AdapterError::UnknownTensor { name: name.to_owned() })?;
        if layer >= config.layers {
            return Err(AdapterMismatch::Layer {
                layer,
                layers: config.layers,
            }
            .into());
        }
        let (d_in, d_out) = projection.shape(config);
        let entry = halves.entry((layer, projection)).or_default();
        match factor {
            Factor::A => entry.a = Some(read_tensor(name, &view, [peft_config.r, d_in])?),
            Factor::B => {
                let rows = read_tensor(name, &view, [d_out, peft_config.r])?;
                entry.b = Some(permute_rows_from_hf(&rows, peft_config.r, projection, config));
            }
        }
    }
    let adapter = LoraAdapter {
        rank: peft_config.r,
        alpha: peft_config.lora_alpha,
        factors: pair_up(halves, config)?,
    };
    adapter.check(config)?;
    Ok(adapter)
}

/// The factors of one site that the file has shown so far.
#[derive(Default)]
struct Halves {
    a: Option<Vec<f32>>,
    b: Option<Vec<f32>>,
}

fn pair_up(
    halves: BTreeMap<Site, Halves>,
    config: &DecoderConfig,
) -> Result<BTreeMap<Site, LoraFactors>, AdapterError> {
    let mut factors = BTreeMap::new();
    for ((layer, projection), pair) in halves {
        let Halves { a: Some(a), b: Some(b) } = pair else {
            return Err(AdapterError::HalfPair { layer, projection });
        };
        let (d_in, d_out) = projection.shape(config);
        factors.insert((layer, projection), LoraFactors { d_in, d_out, a, b });
    }
    Ok(factors)
}

fn describe(adapter: &LoraAdapter, base: &str) -> PeftConfig {
    let targets: BTreeSet<&str> = adapter
        .factors
        .keys()
        .map(|(_, projection)| projection.hf_name())
        .collect();
    PeftConfig {
        peft_type: "LORA".to_owned(),
        task_type: Some("CAUSAL_LM".to_owned()),
        r: adapter.rank,
        lora_alpha: adapter.alpha,
        target_modules: TargetModules::Names(targets.into_iter().map(str::to_owned).collect()),
        lora_dropout: 0.0,
        bias: no_bias(),
        use_rslora: false,
        use_dora: false,
        fan_in_fan_out: false,
        inference_mode: true,
        base_model_name_or_path: Some(base.to_owned()),
        others: BTreeMap::new(),
    }
}

fn check_size(file: &'static str, found: usize, limit: usize) -> Result<(), AdapterError> {
    if found > limit {
        Err(AdapterError::TooLarge { file, found, limit })
    } else {
        Ok(())
    }
}

fn read_config(model: &[u8], config_json: Option<&str>) -> Result<PeftConfig, AdapterError> {
    let embedded;
    let json = match config_json {
        Some(json) => json,
        None => {
            let (_, header) = SafeTensors::read_metadata(model).map_err(AdapterError::Safetensors)?;
            let metadata = header.metadata().as_ref();
            embedded = metadata
                .and_then(|metadata| metadata.get(CONFIG_KEY).cloned())
                .ok_or(AdapterError::NoConfig)?;
            &embedded
        }
    };
    check_size(CONFIG_FILE, json.len(), limits::MAX_ADAPTER_CONFIG_BYTES)?;
    let config: PeftConfig = serde_json::from_str(json).map_err(AdapterError::Config)?;
    check_supported(&config)?;
    Ok(config)
}

fn check_supported(config: &PeftConfig) -> Result<(), AdapterError> {
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

#[derive(Clone, Copy)]
enum Factor {
    A,
    B,
}

fn tensor_name(layer: usize, projection: Projection, factor: &str) -> String {
    format!(
        "{PREFIX}{layer}.{}.{}.lora_{factor}.weight",
        projection.hf_block(),
        projection.hf_name()
    )
}

fn parse_name(name: &str) -> Option<(usize, Projection, Factor)> {
    let mut parts = name.strip_prefix(PREFIX)?.split('.');
    let layer = parts.next()?.parse().ok()?;
    let (block, module) = (parts.next()?, parts.next()?);
    let projection = Projection::ALL
        .into_iter()
        .find(|projection| projection.hf_block() == block && projection.hf_name() == module)?;
    let factor = match parts.next()? {
        "lora_A" => Factor::A,
        "lora_B" => Factor::B,
        _ => return None,
    };
    (parts.next() == Some("weight") && parts.next().is_none()).then_some((layer, projection, factor))
}

fn to_bytes(elements: &[f32]) -> Vec<u8> {
    elements.iter().flat_map(|element| element.to_le_bytes()).collect()
}

fn read_tensor(name: &str, view: &TensorView<'_>, expected: [usize; 2]) -> Result<Vec<f32>, AdapterError> {
    let mismatch = || AdapterError::Tensor {
        name: name.to_owned(),
        found: format!("{:?} {:?}", view.dtype(), view.shape()),
        expected: format!("F32, F16 or BF16 {expected:?}"),
    };
    if view.shape() != expected {
        return Err(mismatch());
    }
    let bytes = view.data();
    match view.dtype() {
        Dtype::F32 => Ok(bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|e| f32::from_le_bytes(*e))
            .collect()),
        Dtype::F16 => Ok(bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|e| f16::from_le_bytes(*e).to_f32())
            .collect()),
        Dtype::BF16 => Ok(bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|e| bf16::from_le_bytes(*e).to_f32())
            .collect()),
        _ => Err(mismatch()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::tests::llama_2_7b;

    /// Two layers of width 8 with two heads, one key-value head.
    fn config() -> DecoderConfig {
        let mut config = DecoderConfig::from_gguf(&llama_2_7b()).unwrap();
        config.layers = 2;
        (config.width, config.heads, config.kv_heads, config.head_width) = (8, 2, 1, 4);
        config.feed_forward = 12;
        config
    }

    fn adapter() -> LoraAdapter {
        let rank = 2;
        let mut factors = BTreeMap::new();
        for (layer, projection) in [(0, Projection::Query), (0, Projection::Down), (1, Projection::Key)] {
            let (d_in, d_out) = projection.shape(&config());
            let a = (0..rank * d_in).map(|index| index as f32).collect();
            let b = (0..d_out * rank).map(|index| -(index as f32)).collect();
            factors.insert((layer, projection), LoraFactors { d_in, d_out, a, b });
        }
        LoraAdapter {
            rank,
            alpha: 4.0,
            factors,
        }
    }

    #[test]
    fn what_is_written_is_read_back_with_or_without_the_second_file() {
        let files = write(&adapter(), &config(), "farm").unwrap();
        assert_eq!(read(&files.model, Some(&files.config), &config()).unwrap(), adapter());
        assert_eq!(read(&files.model, None, &config()).unwrap(), adapter());
        assert_eq!(
            write(&adapter(), &config(), "farm").unwrap(),
            files,
            "equal adapters have equal bytes"
        );
    }

    #[test]
    fn names_and_rows_are_those_of_peft() {
        let files = write(&adapter(), &config(), "farm").unwrap();
        let tensors = SafeTensors::deserialize(&files.model).unwrap();
        let b = tensors
            .tensor("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight")
            .unwrap();
        assert_eq!((b.shape(), b.dtype()), ([8, 2].as_slice(), Dtype::F32));
        let first_of_each_row: Vec<f32> = b
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .step_by(2)
            .map(|element| -f32::from_le_bytes(*element) / 2.0)
            .collect();
        // Hugging Face's rows 0, 1, 2, 3 of a head of four are GGUF's rows 0, 2, 1, 3.
        assert_eq!(first_of_each_row, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        let down = tensors
            .tensor("base_model.model.model.layers.0.mlp.down_proj.lora_A.weight")
            .unwrap();
        assert_eq!(down.shape(), [2, 12]);
        let json: Value = serde_json::from_str(&files.config).unwrap();
        assert_eq!(
            json["target_modules"],
            serde_json::json!(["down_proj", "k_proj", "q_proj"])
        );
        assert_eq!((json["r"].as_u64(), json["lora_alpha"].as_f64()), (Some(2), Some(4.0)));
    }

    #[test]
    fn configurations_that_would_compute_something_else_are_refused() {
        let files = write(&adapter(), &config(), "farm").unwrap();
        let cases = [
            (r#""peft_type": "LORA""#, r#""peft_type": "IA3""#, "peft_type is IA3"),
            (r#""bias": "none""#, r#""bias": "all""#, "bias is all"),
            (r#""use_dora": false"#, r#""use_dora": true"#, "use_dora is true"),
            (r#""use_rslora": false"#, r#""use_rslora": true"#, "use_rslora is true"),
            (r#""r": 2"#, r#""r": 100000"#, "the rank is 100000"),
            (r#""r": 2"#, r#""r": 3"#, "expected F32, F16 or BF16 [3, 12]"),
            (r#""r": 2"#, r#""r": "two""#, "not a LoRA configuration"),
            (
                r#""r": 2"#,
                r#""r": 2, "alpha_pattern": {"q_proj": 16}"#,
                "alpha_pattern is {\"q_proj\":16}",
            ),
            (
                r#""r": 2"#,
                r#""r": 2, "layer_replication": [[0, 4], [2, 5]]"#,
                "layer_replication is",
            ),
            (r#""r": 2"#, r#""r": 2, "use_qalora": true"#, "use_qalora is true"),
            (
                r#""r": 2"#,
                r#""r": 2, "init_lora_weights": "pissa_niter_16""#,
                "init_lora_weights is \"pissa_niter_16\"",
            ),
            (
                r#""r": 2"#,
                r#""r": 2, "of_tomorrow": 1"#,
                "of_tomorrow is 1, expected nothing",
            ),
        ];
        for (from, to, expected) in cases {
            let changed = files.config.replace(from, to);
            assert_ne!(changed, files.config, "{from}");
            let error = read(&files.model, Some(&changed), &config()).unwrap_err().to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }

    /// The fields that PEFT 0.21.2 writes for `LoraConfig(r=2, lora_alpha=4, target_modules="all-linear")`.
    #[test]
    fn fields_that_change_nothing_are_passed_over() {
        let files = write(&adapter(), &config(), "farm").unwrap();
        let written = files.config.replace(
            r#""r": 2"#,
            r#""r": 2, "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "auto_mapping": null,
            "corda_config": null, "ensure_weight_tying": false, "eva_config": null, "exclude_modules": null,
            "init_lora_weights": true, "layer_replication": null, "layers_pattern": null, "layers_to_transform": null,
            "loftq_config": {}, "lora_bias": false, "megatron_config": null, "megatron_core": "megatron.core",
            "modules_to_save": null, "peft_version": "0.21.2", "qalora_group_size": 16, "rank_pattern": {},
            "revision": null, "target_parameters": null, "trainable_token_indices": null, "use_qalora": false"#,
        );
        assert_ne!(written, files.config);
        assert_eq!(read(&files.model, Some(&written), &config()).unwrap(), adapter());
        let mut by_expression: Value = serde_json::from_str(&written).unwrap();
        by_expression["target_modules"] = Value::from("all-linear");
        let by_expression = by_expression.to_string();
        assert_eq!(read(&files.model, Some(&by_expression), &config()).unwrap(), adapter());
    }

    fn serialise(tensors: &[(&str, Vec<usize>, Dtype)]) -> Vec<u8> {
        let zeros = vec![0; 1 << 12];
        let views = tensors.iter().map(|(name, shape, dtype)| {
            let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            (
                (*name).to_owned(),
                TensorView::new(*dtype, shape.clone(), &zeros[..bytes]).unwrap(),
            )
        });
        safetensors::serialize(views, None).unwrap()
    }

    #[test]
    fn tensors_that_are_not_this_decoders_are_refused_by_name() {
        let json = write(&adapter(), &config(), "farm").unwrap().config;
        let a = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
        let cases: [(&str, Vec<usize>, Dtype, &str); 7] = [
            (a, vec![2, 8], Dtype::F32, "layer 0 q_proj has one factor only"),
            (
                a,
                vec![8, 2],
                Dtype::F32,
                "q_proj.lora_A.weight is F32 [8, 2], expected",
            ),
            (
                a,
                vec![2, 8],
                Dtype::I32,
                "q_proj.lora_A.weight is I32 [2, 8], expected",
            ),
            (
                "base_model.model.lm_head.lora_A.weight",
                vec![1],
                Dtype::F32,
                "lm_head.lora_A.weight is not understood",
            ),
            (
                "base_model.model.model.layers.9.mlp.up_proj.lora_A.weight",
                vec![1],
                Dtype::F32,
                "layer 9, and the decoder has 2",
            ),
            (
                "base_model.model.model.layers.0.mlp.q_proj.lora_A.weight",
                vec![1],
                Dtype::F32,
                "is not understood",
            ),
            (
                "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight.x",
                vec![1],
                Dtype::F32,
                "is not understood",
            ),
        ];
        for (name, shape, dtype, expected) in cases {
            let error = read(&serialise(&[(name, shape, dtype)]), Some(&json), &config())
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
        assert!(matches!(
            read(&serialise(&[]), None, &config()),
            Err(AdapterError::NoConfig)
        ));
    }

    proptest! {
        #[test]
        fn no_damaged_file_panics(at in 0_usize..4_096, flip in 1_u8..=255, cut in 0_usize..4_096) {
            let files = write(&adapter(), &config(), "farm").unwrap();
            let mut damaged = files.model.clone();
            let at = at % damaged.len();
            damaged[at] ^= flip;
            let _ = read(&damaged, None, &config());
            let _ = read(&damaged, Some(&files.config), &config());
            prop_assert!(read(&files.model[..cut % files.model.len()], Some(&files.config), &config()).is_err());
        }
    }
}
