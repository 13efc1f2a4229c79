//! One seed of the study: its data, its arms and how each does on the devices' held-out examples.

use anyhow::Result;
use fieldfare_lm::tokenizer::Tokenizer;
use fieldfare_lm::train::{FrozenDecoder, LoraDecoder, LoraSpec, TrainingExample};
use fieldfare_trainer::farm::Example;
use fieldfare_trainer::farm::datasets::{DatasetSizes, DeviceDataset, FarmDatasets};
use fieldfare_trainer::pretrain::{Score, tokenise};

use crate::baselines::{majority_answer, nearest_neighbour};
use crate::job::{self, JobSettings, Noise};

const RANK: usize = 4;
const ALPHA: f32 = 8.0;
const AT_ONCE: usize = 25;

/// The least noise that the privacy crate accepts: one part in a hundred of the clip norm, so no privacy to speak of.
const NO_NOISE: Noise = Noise::Multiplier(0.01);

/// How one arm does on each device's held-out examples.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Arm {
    pub(crate) name: &'static str,
    /// Exact matches, from 0 to 1, by device.
    pub(crate) exact: Vec<f64>,
    /// Mean loss by device; empty for answers without a model.
    pub(crate) loss: Vec<f64>,
}

/// What a job that should be refused does to the consented evaluation set.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Judged {
    pub(crate) name: &'static str,
    pub(crate) before: Score,
    pub(crate) after: Score,
    /// Exact matches of the evaluation set's own most frequent completion.
    pub(crate) majority: f64,
}

/// One device's examples as text and as tokens.
struct Device {
    text: DeviceDataset,
    training: Vec<TrainingExample>,
    held_out: Vec<TrainingExample>,
}

/// The data of one seed and the model that learns from them.
pub(crate) struct Study {
    seed: u64,
    decoder: LoraDecoder,
    tokenizer: Tokenizer,
    devices: Vec<Device>,
    evaluation_text: Vec<Example>,
    evaluation: Vec<TrainingExample>,
}

impl Study {
    pub(crate) fn new(base: FrozenDecoder, tokenizer: Tokenizer, seed: u64) -> Result<Self> {
        let data = FarmDatasets::generate(seed, DatasetSizes::default());
        let device = |text: DeviceDataset| -> Result<Device> {
            let (training, held_out) = (
                tokenise(&tokenizer, &text.training)?,
                tokenise(&tokenizer, &text.held_out)?,
            );
            Ok(Device {
                text,
                training,
                held_out,
            })
        };
        let devices = data.devices.into_iter().map(device).collect::<Result<_>>()?;
        let evaluation = tokenise(&tokenizer, &data.evaluation)?;
        let decoder = LoraDecoder::new(
            base,
            LoraSpec {
                rank: RANK,
                alpha: ALPHA,
                seed,
            },
        );
        Ok(Self {
            seed,
            decoder,
            tokenizer,
            devices,
            evaluation_text: data.evaluation,
            evaluation,
        })
    }

    /// Arms that train nothing.
    pub(crate) fn untrained_arms(&self) -> Vec<Arm> {
        let answers = |name, answer: fn(&[Example], &[Example]) -> f64| Arm {
            name,
            exact: self
                .devices
                .iter()
                .map(|device| answer(&device.text.training, &device.text.held_out))
                .collect(),
            loss: Vec::new(),
        };
        vec![
            self.arm("base", |_| vec![0.0; self.decoder.trained_parameters()]),
            answers("majority answer", majority_answer),
            answers("nearest neighbour", nearest_neighbour),
        ]
    }

    /// Each device alone, with the whole budget of the federated job.
    pub(crate) fn local_arm(&self) -> Result<Arm> {
        let states: Vec<Vec<f32>> = (0..)
            .zip(&self.devices)
            .map(|(index, device)| {
                job::run(
                    &self.decoder,
                    &[&device.training],
                    &JobSettings::default(),
                    self.seed,
                    index,
                )
            })
            .collect::<Result<_>>()?;
        Ok(self.arm("local only, epsilon 8", |device| states[device].clone()))
    }

    /// A federated job with the given noise.
    pub(crate) fn federated_arm(&self, kind: Federated) -> Result<Arm> {
        let (name, noise) = match kind {
            Federated::WithoutNoise => ("federated, without noise", NO_NOISE),
            Federated::Epsilon8 => ("federated, epsilon 8", Noise::Epsilon(8.0)),
            Federated::Epsilon4 => ("federated, epsilon 4", Noise::Epsilon(4.0)),
        };
        let state = self.federate(
            &JobSettings {
                noise,
                ..JobSettings::default()
            },
            &self.training(),
        )?;
        Ok(self.arm(name, |_| state.clone()))
    }

    /// The three jobs that an evaluation gate must refuse, and the one that it must let pass.
    pub(crate) fn judged_jobs(&self) -> Result<Vec<Judged>> {
        let usual = JobSettings::default();
        let still = JobSettings {
            learning_rate: 0.0,
            ..usual
        };
        let drowned = JobSettings {
            noise: Noise::Multiplier(50.0),
            ..usual
        };
        let judged = |name, settings: &JobSettings, training: &[Vec<TrainingExample>]| -> Result<Judged> {
            let state = self.federate(settings, training)?;
            let score = |state: &[f32]| Score::of(&self.decoder.score(state, &self.evaluation, AT_ONCE));
            let before = score(&vec![0.0; self.decoder.trained_parameters()]);
            let majority = majority_answer(&self.evaluation_text, &self.evaluation_text);
            Ok(Judged {
                name,
                before,
                after: score(&state),
                majority,
            })
        };
        Ok(vec![
            judged("epsilon 8", &usual, &self.training())?,
            judged("learning rate 0", &still, &self.training())?,
            judged("noise multiplier 50", &drowned, &self.training())?,
            judged("completions permuted", &usual, &self.permuted()?)?,
        ])
    }

    fn training(&self) -> Vec<Vec<TrainingExample>> {
        self.devices.iter().map(|device| device.training.clone()).collect()
    }

    /// Each prompt with the completion of another one of the same device: the completions are all there, what they
    /// answer is not.
    fn permuted(&self) -> Result<Vec<Vec<TrainingExample>>> {
        let permute = |device: &Device| {
            let examples = &device.text.training;
            let shift = examples.len() / 2 + 1;
            let shifted = examples.iter().cycle().skip(shift);
            let permuted: Vec<Example> = examples
                .iter()
                .zip(shifted)
                .map(|(own, other)| Example {
                    prompt: own.prompt.clone(),
                    completion: other.completion.clone(),
                })
                .collect();
            Ok(tokenise(&self.tokenizer, &permuted)?)
        };
        self.devices.iter().map(permute).collect()
    }

    fn federate(&self, settings: &JobSettings, training: &[Vec<TrainingExample>]) -> Result<Vec<f32>> {
        let devices: Vec<&[TrainingExample]> = training.iter().map(Vec::as_slice).collect();
        job::run(&self.decoder, &devices, settings, self.seed, 0)
    }

    fn arm(&self, name: &'static str, state: impl Fn(usize) -> Vec<f32>) -> Arm {
        let scores: Vec<Score> = (0..)
            .zip(&self.devices)
            .map(|(index, device)| Score::of(&self.decoder.score(&state(index), &device.held_out, AT_ONCE)))
            .collect();
        Arm {
            name,
            exact: scores.iter().map(|score| score.exact_match).collect(),
            loss: scores.iter().map(|score| score.loss).collect(),
        }
    }
}

/// The federated arms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Federated {
    WithoutNoise,
    Epsilon8,
    Epsilon4,
}
