//! `fieldfare-trainer pretrain`: makes the shipped model and writes it beside its evaluation.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{Progress, Recipe, Storage, pretrain};

/// Steps between two lines of progress.
const REPORT_EVERY: usize = 50;

/// What `fieldfare-trainer pretrain` is asked to do.
#[derive(Debug, Clone, clap::Args)]
pub struct PretrainOptions {
    /// Folder for the model and its evaluation; made where it is missing.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Seed of weights, text and vocabulary.
    #[arg(long, default_value_t = Recipe::default().seed)]
    pub seed: u64,
    /// Training steps of 32 examples.
    #[arg(long, default_value_t = Recipe::default().steps)]
    pub steps: usize,
}

impl PretrainOptions {
    /// Pretrains, evaluates and writes `farm-alert-f16.gguf` and `evaluation.json`; progress goes to `report`, a line
    /// at a time.
    ///
    /// # Errors
    /// When training fails or a file cannot be written.
    pub fn execute(&self, report: &mut dyn Write) -> Result<()> {
        let recipe = Recipe {
            seed: self.seed,
            steps: self.steps,
            ..Recipe::default()
        };
        fs::create_dir_all(&self.out).with_context(|| format!("{} cannot be made", self.out.display()))?;
        let model = pretrain(&recipe, |progress| {
            if progress.step % REPORT_EVERY == 0 || progress.step == progress.steps {
                let Progress {
                    step,
                    steps,
                    loss,
                    tokens,
                } = progress;
                // Training goes on when nobody reads the report.
                let _ = writeln!(report, "step {step} of {steps}, {tokens} tokens, loss {loss:.4}");
            }
        })?;
        let path = self.out.join("farm-alert-f16.gguf");
        let file = File::create(&path).with_context(|| format!("{} cannot be written", path.display()))?;
        model.write_gguf(BufWriter::new(file), Storage::F16)?;
        let evaluation = serde_json::to_string_pretty(&model.evaluate(&recipe)?)? + "\n";
        fs::write(self.out.join("evaluation.json"), &evaluation).context("the evaluation cannot be written")?;
        write!(report, "{evaluation}")?;
        Ok(())
    }
}
