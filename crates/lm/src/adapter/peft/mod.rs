//! Adapters as PEFT writes and reads them: `adapter_model.safetensors` and `adapter_config.json`.

use std::collections::{BTreeMap, BTreeSet};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::{AdapterMismatch, LoraAdapter, LoraFactors, Projection, Site, permute_rows_from_hf, permute_rows_to_hf};
use crate::config::DecoderConfig;
use crate::limits;

mod config;

pub use config::{PeftConfig, TargetModules};
use config::{check_supported, no_bias};

/// The file name that PEFT gives the factors.
pub const MODEL_FILE: &str = "adapter_model.safetensors";

/// The file name that PEFT gives the configuration.
pub const CONFIG_FILE: &str = "adapter_config.json";

const PREFIX: &str = "base_model.model.model.layers.";

/// The metadata key under which the factors carry their own configuration, so that one file is a whole adapter.
const CONFIG_KEY: &str = "fieldfare.adapter_config";

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
mod tests;
