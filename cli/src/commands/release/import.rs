//! `fieldfare release import`: what a trainer needs to make a release of a model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use fieldfare_proto::v1;
use fieldfare_release::VariantName;

use super::super::{Session, plan};
use crate::clock;
use crate::limits::MAX_TEXT_BYTES;
use crate::lines;
use crate::output::Progress;

/// Arguments of `release import`.
#[derive(Clone, Debug, Args)]
pub struct Import {
    /// A GGUF file, or hf://OWNER/REPOSITORY/FILE.gguf, which the trainer fetches.
    pub source: String,
    /// The model it becomes a release of.
    #[arg(long)]
    pub model: String,
    /// Held-out text to evaluate each variant on: JSONL of {"text"}, {"prompt","completion"} or {"messages"}.
    #[arg(long)]
    pub evaluation: PathBuf,
    /// Probe prompts that go into the release: JSONL of {"prompt"}, with "completion" where the answer is known.
    #[arg(long)]
    pub probes: Option<PathBuf>,
    /// Variants to build, for example f16,q8-0,q4-0; GGUF's own names (Q8_0) are understood, too. All that fit the source when
    /// not given.
    #[arg(long, value_delimiter = ',', value_parser = variant_name)]
    pub variants: Vec<String>,
    /// Name of the job; made from the model's when not given.
    #[arg(long)]
    pub job: Option<String>,
    /// Print the job and go, rather than follow it.
    #[arg(long)]
    pub detach: bool,
}

/// The name of the variant of a GGUF format, by either name.
fn variant_name(text: &str) -> Result<String> {
    Ok(text
        .to_lowercase()
        .replace('_', "-")
        .parse::<VariantName>()?
        .to_string())
}

/// Uploads what an import needs and starts the job.
///
/// # Errors
/// A file is missing, too large, or not what it should be, or the controller refuses.
pub async fn import(session: &Session, import: &Import) -> Result<v1::Job> {
    let is_on_hub = import.source.starts_with("hf://");
    if !is_on_hub {
        plan::header(Path::new(&import.source))?;
    }
    lines::check(&import.evaluation, lines::example)?;
    if let Some(path) = &import.probes {
        lines::check(path, lines::probe)?;
    }
    let source = if is_on_hub {
        v1::import_spec::Source::HubUri(import.source.clone())
    } else {
        v1::import_spec::Source::Uploaded(upload(session, import.source.as_ref(), u64::MAX).await?)
    };
    let probes = match &import.probes {
        Some(path) => Some(upload(session, path, MAX_TEXT_BYTES).await?),
        None => None,
    };
    let spec = v1::ImportSpec {
        job: import
            .job
            .clone()
            .unwrap_or_else(|| format!("import-{}-{}", import.model, clock::now().unix_ms() / 1000)),
        model: import.model.clone(),
        source: Some(source),
        variants: import.variants.clone(),
        evaluation: Some(upload(session, &import.evaluation, MAX_TEXT_BYTES).await?),
        probes,
    };
    let request = v1::ImportModelRequest { spec: Some(spec) };
    session
        .client
        .call(
            request,
            |mut api, request| async move { api.import_model(request).await },
        )
        .await
}

/// Uploads one file, showing how far it is.
///
/// # Errors
/// It is missing, larger than `limit` bytes, or not taken.
pub async fn upload(session: &Session, path: &Path, limit: u64) -> Result<v1::UploadedArtifact> {
    let length = std::fs::metadata(path)
        .with_context(|| format!("reading {}", path.display()))?
        .len();
    if length > limit {
        bail!("{} has {length} bytes, more than the limit of {limit}", path.display());
    }
    let progress = Arc::new(Progress::begin(format!("uploading {}", path.display())));
    let telling = Arc::clone(&progress);
    session
        .client
        .upload(path, move |sent, total| telling.bytes(sent, total))
        .await
}
