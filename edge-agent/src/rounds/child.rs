//! The training process: the private steps of one round, from the examples to the encoded contribution.
//!
//! It is told everything in one line and answers with one; nothing between the examples and the noised, encoded update
//! leaves it. The seed of sampling and noise is drawn here and dies here.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fieldfare_lm::config::DecoderConfig;
use fieldfare_lm::engine::Mapping;
use fieldfare_lm::example::{Example, Rendered};
use fieldfare_lm::gguf::Gguf;
use fieldfare_lm::quantize::{Precision, quantize};
use fieldfare_lm::tokenizer::{ChatTemplate, TokenizedExample, Tokenizer};
use fieldfare_lm::train::memory::PhysicalBatch;
use fieldfare_lm::train::{
    AdamConfig, DecoderWeights, FrozenDecoder, GradientMechanism, LocalRound, LocalRoundConfig, LoraDecoder,
    TrainingExample, WrongLength,
};
use fieldfare_privacy::{
    ClipError, ClippedSum, DpSgdParameters, GaussianNoise, PoissonSampler, RingCodec, StepError, TrainingSeed,
    noisy_gradient,
};
use serde::{Deserialize, Serialize};

use super::plan::Training;
use crate::limits::MAX_ORDER_BYTES;
use crate::private::StoredExample;
use crate::{clock, process};

/// What the training process is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The base weights.
    pub weights: PathBuf,
    /// The numbers.
    pub training: Training,
    /// The B factors to start from: f32 little endian, in base64.
    pub state: String,
    /// The device's examples.
    pub examples: Vec<StoredExample>,
    /// Most bytes of address space that the process may take.
    pub address_space: u64,
}

/// What the training process says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case", deny_unknown_fields)]
pub enum Said {
    /// So many steps are done.
    Step {
        /// How many.
        done: u64,
    },
    /// The contribution.
    Contribution {
        /// Encoded ring integers, in base64.
        bytes: String,
    },
    /// It cannot be done.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Trains by the order on `input`.
///
/// # Errors
/// The pipes fail; what else goes wrong is said on `output`.
pub fn train(input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut line = String::new();
    input.take(MAX_ORDER_BYTES as u64).read_line(&mut line)?;
    let said = match contribution(&line, &mut output) {
        Ok(bytes) => Said::Contribution {
            bytes: STANDARD.encode(bytes),
        },
        Err(reason) => Said::Failed { reason },
    };
    say(&mut output, &said)
}

fn say(output: &mut impl Write, said: &Said) -> io::Result<()> {
    let mut line = serde_json::to_vec(said).map_err(io::Error::other)?;
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()
}

fn text(error: impl std::error::Error) -> String {
    process::chain(&error)
}

fn contribution(line: &str, output: &mut impl Write) -> Result<Vec<u8>, String> {
    let order: Order = serde_json::from_str(line).map_err(text)?;
    process::limit_address_space(order.address_space).map_err(text)?;
    let training = &order.training;
    let codec = RingCodec::new(training.ring).map_err(text)?;
    let start = state(&order.state, training.ring.length)?;
    let base = Base::open(&order.weights)?;
    training.fits(&base.config)?;
    let examples = base.examples(&order.examples, training.max_sequence_tokens);
    let decoder = LoraDecoder::new(FrozenDecoder::new(&base.weights), training.lora());
    let seed = TrainingSeed::new(clock::random_bytes().map_err(text)?);
    let mut mechanism = Private::new(seed, training.dp, training.ring.length)?;
    let config = LocalRoundConfig {
        steps: training.dp.steps(),
        learning_rate: training.learning_rate,
        adam: AdamConfig::default(),
        physical_batch: PhysicalBatch::new(training.physical_batch),
    };
    let cancelled = AtomicBool::new(false);
    let round = LocalRound {
        decoder: &decoder,
        examples: &examples,
        config,
        cancelled: &cancelled,
    };
    let end = round
        .run(&start, &mut mechanism, |done| drop(say(output, &Said::Step { done })))
        .map_err(text)?;
    let update: Vec<f32> = end.iter().zip(&start).map(|(end, start)| end - start).collect();
    Ok(codec.encode(&update).map_err(text)?.bytes)
}

fn state(encoded: &str, entries: usize) -> Result<Vec<f32>, String> {
    let bytes = STANDARD.decode(encoded).map_err(text)?;
    let (values, rest) = bytes.as_chunks::<4>();
    if values.len() != entries || !rest.is_empty() {
        return Err(format!(
            "the state has {} bytes, expected {entries} values of 4",
            bytes.len()
        ));
    }
    let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if values.iter().all(|value| value.is_finite()) {
        Ok(values)
    } else {
        Err("the state has values that are no numbers".to_owned())
    }
}

/// The base model as training sees it.
struct Base {
    config: DecoderConfig,
    weights: DecoderWeights,
    tokenizer: Tokenizer,
    template: ChatTemplate,
}

/// Why the weights of a file are not those of a decoder.
#[derive(Debug, thiserror::Error)]
enum WeightsError {
    #[error(transparent)]
    Length(#[from] WrongLength),
    #[error("the base has no tensor {0}")]
    Missing(String),
}

impl Base {
    /// Reads the base in whatever precision it is installed; training computes with its values in F32.
    fn open(path: &Path) -> Result<Self, String> {
        let mapping = Arc::new(Mapping::open(path).map_err(text)?);
        let mut plain = Vec::new();
        quantize(&mapping, Precision::F32, &mut plain).map_err(text)?;
        let gguf = Gguf::parse(&plain).map_err(text)?;
        let config = DecoderConfig::from_gguf(&gguf).map_err(text)?;
        let tokenizer = Tokenizer::from_metadata(&gguf.metadata).map_err(text)?;
        let template = ChatTemplate::from_metadata(&gguf.metadata, tokenizer.vocabulary()).map_err(text)?;
        let read = |name: &str| {
            let bytes = gguf.tensor(name).and_then(|tensor| gguf.tensor_bytes(&plain, tensor));
            let bytes = bytes.ok_or_else(|| WeightsError::Missing(name.to_owned()))?;
            Ok(bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect())
        };
        let weights = DecoderWeights::load::<WeightsError>(config.clone(), read).map_err(text)?;
        Ok(Self {
            config,
            weights,
            tokenizer,
            template,
        })
    }

    /// The examples as the model reads them. One that its template or its tokeniser refuses is left out: it adds nothing to any
    /// sum, as an example whose gradient is zero, and the divisor is public. Why it was refused may quote it, and is not said.
    fn examples(&self, examples: &[StoredExample], limit: usize) -> Vec<TrainingExample> {
        let limit = limit.min(self.config.context);
        let mut tokenized = Vec::with_capacity(examples.len());
        for StoredExample { id, example } in examples {
            match self.tokenize(example) {
                Ok(example) => tokenized.extend(TrainingExample::from_tokenized(example, limit)),
                Err(_) => tracing::warn!(id, "the model cannot read an example: it is left out of training"),
            }
        }
        tokenized
    }

    fn tokenize(&self, example: &Example) -> Result<TokenizedExample, String> {
        let tokenized = match example.rendered(&self.template).map_err(text)? {
            Rendered::Text(plain) => self.tokenizer.plain_text(plain),
            Rendered::Completion { prompt, completion } => self.tokenizer.example(&prompt, completion),
        };
        tokenized.map_err(text)
    }
}

/// Why a private step failed.
#[derive(Debug, thiserror::Error)]
enum PrivateError {
    #[error(transparent)]
    Clip(#[from] ClipError),
    #[error(transparent)]
    Step(#[from] StepError),
}

/// DP-SGD between the gradients and the parameters: Poisson batches, joint clipping, Gaussian noise, a public divisor.
struct Private {
    sampler: PoissonSampler,
    seed: TrainingSeed,
    parameters: DpSgdParameters,
    sum: ClippedSum,
    length: usize,
}

impl Private {
    fn new(seed: TrainingSeed, parameters: DpSgdParameters, length: usize) -> Result<Self, String> {
        let sampler = PoissonSampler::new(&seed, parameters.sampling_rate());
        let sum = ClippedSum::new(parameters.clip_norm(), length).map_err(text)?;
        Ok(Self {
            sampler,
            seed,
            parameters,
            sum,
            length,
        })
    }
}

impl GradientMechanism for Private {
    type Error = PrivateError;

    fn batch(&mut self, step: u64, examples: usize) -> Vec<usize> {
        self.sampler.batch(step, examples)
    }

    fn add(&mut self, gradient: &[f32]) -> Result<(), PrivateError> {
        Ok(self.sum.add_example(&[gradient])?)
    }

    fn finish(&mut self, step: u64) -> Result<Vec<f32>, PrivateError> {
        let empty = ClippedSum::new(self.parameters.clip_norm(), self.length)?;
        let sum = std::mem::replace(&mut self.sum, empty);
        Ok(noisy_gradient(
            sum,
            GaussianNoise::for_step(&self.seed, step),
            &self.parameters,
        )?)
    }
}
