//! What the quickstart's federated job gains: a table of arms over several seeds.
//!
//! Every number is a mean over the five devices' held-out examples, whose combinations of sensor, crop and condition no
//! training text holds. An answer is exact when greedy decoding gives it to the last character.

mod baselines;
mod job;
mod study;
mod table;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use fieldfare_lm::engine::Mapping;
use fieldfare_lm::gguf::Gguf;
use fieldfare_lm::tokenizer::Tokenizer;
use fieldfare_lm::train::{DecoderWeights, FrozenDecoder};

use study::{Arm, Federated, Study};

/// Prints how the quickstart's federated job does against baselines.
#[derive(Debug, Parser)]
struct Arguments {
    /// The base model.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/farm-alert/farm-alert-f16.gguf"))]
    model: PathBuf,
    /// How many seeds; each draws its own data, A factors, batches and noise.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mapping = Arc::new(Mapping::open(&arguments.model).context("the base model cannot be read")?);
    let base = FrozenDecoder::new(&DecoderWeights::from_mapping(&mapping)?);
    let mut arms: Vec<Vec<Arm>> = Vec::new();
    let mut judged = Vec::new();
    for seed in 1..=arguments.seeds {
        let tokenizer = Tokenizer::from_metadata(&Gguf::parse(mapping.as_bytes())?.metadata)?;
        let study = Study::new(base.clone(), tokenizer, seed)?;
        let mut row = study.untrained_arms();
        row.push(study.local_arm()?);
        for kind in [Federated::WithoutNoise, Federated::Epsilon8, Federated::Epsilon4] {
            row.push(study.federated_arm(kind)?);
        }
        arms.push(row);
        if seed == 1 {
            judged = study.judged_jobs()?;
        }
        writeln!(std::io::stderr(), "seed {seed} of {} is done", arguments.seeds)?;
    }
    let mut out = std::io::stdout();
    writeln!(out, "{}\n{}", table::arms(&arms), table::judged(&judged))?;
    Ok(())
}
