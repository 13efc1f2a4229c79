//! Building and evaluating one variant.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use fieldfare_files::{self as files, FileError};
use fieldfare_lm::engine::Mapping;
use fieldfare_lm::quantize::{Precision, QuantizeError, quantize};
use fieldfare_proto::v1::BuiltVariant;
use fieldfare_release::VariantName;

use super::{Source, VariantPlan, digest, load};
use crate::compute::Stop;
use crate::download::{Downloaded, digest_of};
use crate::evaluation::measure;
use crate::examples::ExampleSet;
use crate::failure::WorkError;
use crate::work::Workshop;

/// A variant whose bytes are with the controller, and here.
#[derive(Clone, Debug)]
pub(super) struct BuiltFile {
    pub(super) name: VariantName,
    pub(super) file: Downloaded,
    /// Nats per token on the held-out text.
    pub(super) loss: f64,
}

/// Builds a variant into the job's folder.
pub(super) async fn build(
    workshop: &Workshop,
    source: &Source,
    plan: &VariantPlan,
    folder: &Path,
) -> Result<Downloaded, WorkError> {
    let path = folder.join(format!("{}.gguf", plan.name));
    let (mapping, precision) = (Arc::clone(&source.mapping), plan.precision);
    let built = workshop
        .compute
        .run(move |stop| write(&mapping, precision, &path, stop))
        .await;
    built.map_err(WorkError::computing("building a variant"))?
}

fn write(mapping: &Arc<Mapping>, precision: Precision, path: &Path, stop: &Stop) -> Result<Downloaded, WorkError> {
    let system = |error| WorkError::interrupted("writing a variant")(error);
    let staged = path.with_extension("part");
    let file = File::create(&staged)
        .map_err(FileError::of("create", &staged))
        .map_err(system)?;
    let mut out = stop.guard(BufWriter::new(file));
    match quantize(mapping, precision, &mut out) {
        Ok(_) => {}
        Err(error @ QuantizeError::Write(_)) => return Err(WorkError::interrupted("writing a variant")(error)),
        Err(error) => return Err(WorkError::impossible("a variant cannot be built")(error)),
    }
    out.flush().map_err(FileError::of("write", &staged)).map_err(system)?;
    drop(out);
    files::rename(&staged, path).map_err(system)?;
    let (sha256, length) = digest_of(path).map_err(system)?;
    Ok(Downloaded {
        path: path.to_owned(),
        sha256,
        length,
    })
}

/// The loss of a variant on the held-out text, in nats per token.
pub(super) async fn evaluate(
    workshop: &Workshop,
    file: &Downloaded,
    evaluation: &ExampleSet,
) -> Result<f64, WorkError> {
    let (file, evaluation) = (file.clone(), evaluation.clone());
    let measured = workshop.compute.run(move |stop| {
        let engine = load(&file)?;
        measure(&engine, &evaluation, stop).map_err(WorkError::impossible("the held-out text cannot be evaluated"))
    });
    Ok(measured
        .await
        .map_err(WorkError::computing("evaluating a variant"))??
        .loss_per_token())
}

/// A variant that was built before: its bytes come from the controller, if they are not here.
pub(super) async fn fetch(
    workshop: &Workshop,
    known: &BuiltVariant,
    plan: &VariantPlan,
    folder: &Path,
) -> Result<BuiltFile, WorkError> {
    let path = folder.join(format!("{}.gguf", plan.name));
    let sha256 = digest("built", &known.sha256)?;
    // Files of this folder are only trusted for what their digests say.
    if path.exists() && digest_of(&path).map_err(WorkError::interrupted("reading a variant"))?.0 != sha256 {
        std::fs::remove_file(&path).map_err(WorkError::interrupted("removing a stale variant"))?;
    }
    let file = workshop
        .artifacts
        .fetch(sha256, known.length_bytes, &path, |_, _| {})
        .await?;
    Ok(BuiltFile {
        name: plan.name.clone(),
        file,
        loss: known.loss_nats_per_token,
    })
}
