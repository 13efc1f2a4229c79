//! The size of a model: known, or read from the header of a GGUF file.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use fieldfare_fleet::{Architecture, FeedForward, KnownModel, known_models};
use fieldfare_lm::config::{Architecture as DecoderFamily, DecoderConfig};
use fieldfare_lm::gguf::{Gguf, TensorInfo};

use crate::exit::Advice;

/// A model whose size is known.
#[derive(Debug)]
pub(super) struct SizedModel {
    pub(super) name: String,
    pub(super) source: String,
    pub(super) architecture: Architecture,
    /// What stands in the way of running it, whatever the device.
    pub(super) obstacle: Option<String>,
}

impl SizedModel {
    pub(super) fn known(known: KnownModel) -> Self {
        Self {
            name: known.name.to_owned(),
            source: known.source.to_owned(),
            obstacle: obstacle(known.family),
            architecture: known.architecture,
        }
    }
}

/// Why this build cannot run a family of models, if so.
fn obstacle(family: &str) -> Option<String> {
    let runs = DecoderFamily::from_name(family).is_some_and(DecoderFamily::is_runnable);
    let why = format!(
        "no runtime of this build computes the architecture {family} yet; these are the sizes and speeds that its variants would have"
    );
    (!runs).then_some(why)
}

/// Why an import could not build variants from a file, if so.
fn unread(gguf: &Gguf) -> Option<String> {
    let tensor = gguf.tensors.iter().find(|tensor| !tensor.tensor_type.is_computable())?;
    let (name, kind) = (&tensor.name, tensor.tensor_type);
    Some(format!(
        "its tensor {name} has the format {kind}, which this build does not read: import the model from F16, Q8_0 or a K-quant; these are the sizes and speeds that its variants would have"
    ))
}

/// The header of a GGUF file, and the decoder that it describes.
///
/// # Errors
/// There is no such file, or it is none that this version reads.
pub fn header(path: &Path) -> Result<(Gguf, DecoderConfig)> {
    read_header(path, Weights::Must)
}

/// Whether a file's weights follow its header.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weights {
    Must,
    May,
}

fn read_header(path: &Path, weights: Weights) -> Result<(Gguf, DecoderConfig)> {
    let shown = path.display();
    let mut file = File::open(path).with_context(|| format!("opening {shown}"))?;
    let facts = file.metadata().with_context(|| format!("reading {shown}"))?;
    if !facts.is_file() {
        bail!("{shown} is no file");
    }
    let length = match weights {
        Weights::Must => facts.len(),
        Weights::May => fieldfare_lm::limits::MAX_FILE_BYTES,
    };
    let gguf = Gguf::read_header(&mut file, length).with_context(|| format!("{shown} is no usable GGUF file"))?;
    let config = DecoderConfig::from_gguf(&gguf).with_context(|| format!("{shown} holds no usable model"))?;
    Ok((gguf, config))
}

/// The size of a model, from the header of a GGUF file alone.
pub(super) fn of_file(path: &Path) -> Result<SizedModel> {
    if !path.exists() {
        let names: Vec<&str> = known_models().iter().map(|model| model.name).collect();
        return Err(Advice::new(
            format!("{:?} is no known model and no file", path.display().to_string()),
            format!("name a GGUF file, or one of {}", names.join(", ")),
        )
        .into());
    }
    // A plan needs no weights: they may be missing from the file.
    let (gguf, config) = read_header(path, Weights::May)?;
    let name = path
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    let source = path.display().to_string();
    Ok(SizedModel {
        architecture: architecture(&config, &gguf).with_context(|| format!("{source} holds no usable model"))?,
        obstacle: obstacle(config.architecture.name()).or_else(|| unread(&gguf)),
        name,
        source,
    })
}

fn architecture(config: &DecoderConfig, gguf: &Gguf) -> Result<Architecture> {
    let number =
        |name: &str, value: usize| u32::try_from(value).with_context(|| format!("`{name}` of the model is {value}"));
    let vectors = gguf.tensors.iter().filter(|tensor| tensor.dimensions.len() == 1);
    let architecture = Architecture {
        layers: number("layers", config.layers)?,
        hidden: number("width", config.width)?,
        feed_forward: number("feed_forward", config.feed_forward)?,
        feed_forward_kind: match is_gated(config, gguf) {
            true => FeedForward::Gated,
            false => FeedForward::Plain,
        },
        heads: number("heads", config.heads)?,
        kv_heads: number("kv_heads", config.kv_heads)?,
        vocabulary: number("vocabulary", config.vocabulary)?,
        context: number("context", config.context)?,
        vector_params: vectors.map(TensorInfo::elements).fold(0, u64::saturating_add),
    };
    architecture.validate()?;
    let told = architecture.params();
    let held = gguf
        .tensors
        .iter()
        .map(TensorInfo::elements)
        .fold(0, u64::saturating_add);
    // An output head may be the embedding, which is then held once.
    let tied = u64::from(architecture.vocabulary) * u64::from(architecture.hidden);
    if held.abs_diff(told) > told / 10 && held.abs_diff(told - tied) > told / 10 {
        bail!("its metadata describe {told} parameters, and its tensors have {held}");
    }
    Ok(architecture)
}

/// Whether the feed-forward blocks have a gate: a matrix of its own, or the other half of a doubled one.
fn is_gated(config: &DecoderConfig, gguf: &Gguf) -> bool {
    let doubled = |up: &TensorInfo| up.dimensions.get(1) == Some(&(2 * config.feed_forward as u64));
    gguf.tensor("blk.0.ffn_gate.weight").is_some() || gguf.tensor("blk.0.ffn_up.weight").is_some_and(doubled)
}
