//! The manifest of an imported release.

use std::collections::BTreeMap;

use fieldfare_lm::config::DecoderConfig;
use fieldfare_lm::engine::Mapping;
use fieldfare_lm::gguf::Gguf;
use fieldfare_lm::memory::{Footprint, ServingMemory};
use fieldfare_release::manifest::{
    Architecture, Artifact, ArtifactRole, Figures, Probe, Provenance, ReleaseManifest, Requirements, Runtime,
    SCHEMA_VERSION, Variant,
};
use fieldfare_release::{TargetKind, TargetName};

use super::{BuiltFile, Import, Source};
use crate::clock::unix_seconds;
use crate::failure::WorkError;
use crate::limits::FIGURE_CONTEXT_TOKENS;

/// Puts the manifest together.
pub(super) fn assemble(
    import: &Import<'_>,
    source: &Source,
    files: &[BuiltFile],
    probes: Vec<Probe>,
) -> Result<ReleaseManifest, WorkError> {
    let config = &source.config;
    let number = |field: &str, value: usize| {
        u32::try_from(value).map_err(|_| WorkError::Impossible(format!("{field} is {value}, more than any model has")))
    };
    let variants = files
        .iter()
        .map(|file| variant(import, config, file))
        .collect::<Result<_, _>>()?;
    Ok(ReleaseManifest {
        schema: SCHEMA_VERSION,
        model: import.model.clone(),
        release: import.release,
        title: title(import, source),
        created: unix_seconds(import.workshop.time.now()),
        base: None,
        architecture: Architecture {
            family: config.architecture.to_string(),
            parameters: Footprint::of(&source.gguf).parameters,
            context_tokens: number("the context", config.context)?,
            vocabulary: number("the vocabulary", config.vocabulary)?,
            layers: number("the number of layers", config.layers)?,
            hidden: number("the width", config.width)?,
        },
        variants,
        probes,
        chat_template: None,
        provenance: Provenance::Import {
            source: one_line(&source.name),
            sha256: source.file.sha256,
        },
    })
}

/// The model's own name where its file has one.
fn title(import: &Import<'_>, source: &Source) -> String {
    let named = source.gguf.metadata.optional_str("general.name").ok().flatten();
    let name = named.map(one_line).filter(|name| !name.trim().is_empty());
    let name = name.unwrap_or_else(|| import.model.to_string());
    format!("{name}, imported")
}

/// Foreign text as one bounded line.
fn one_line(text: &str) -> String {
    let text: String = text
        .chars()
        .filter(|character| !character.is_control())
        .take(120)
        .collect();
    if text.is_empty() { "unnamed".to_owned() } else { text }
}

fn variant(import: &Import<'_>, config: &DecoderConfig, built: &BuiltFile) -> Result<Variant, WorkError> {
    let mapping = Mapping::open(&built.file.path).map_err(WorkError::interrupted("reading a variant"))?;
    let gguf = Gguf::parse(mapping.as_bytes()).map_err(WorkError::interrupted("reading a variant"))?;
    let footprint = Footprint::of(&gguf);
    let context = config.context.min(FIGURE_CONTEXT_TOKENS) as u64;
    let target = TargetName::new(
        import.model.clone(),
        import.release,
        TargetKind::Weights(built.name.clone()),
    );
    let weights = Artifact {
        target,
        sha256: built.file.sha256,
        length: built.file.length,
    };
    Ok(Variant {
        name: built.name.clone(),
        runtime: Runtime::CandleGguf,
        artifacts: BTreeMap::from([(ArtifactRole::Weights, weights)]),
        figures: Figures {
            weight_bytes: footprint.bytes_per_token,
            parameters: footprint.parameters,
            // In the middle of the context, which is the mean over it.
            flops_per_token: config.flops_per_token(context / 2),
            kv_bytes_per_token: config.kv_bytes_per_token(),
            context_tokens: context as u32,
            held_out_loss: built.loss,
        },
        requirements: Requirements {
            memory_bytes: ServingMemory::predict(config, footprint.weight_bytes, context).total(),
        },
    })
}
