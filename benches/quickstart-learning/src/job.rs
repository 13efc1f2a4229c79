//! The quickstart's federated job, run in one process by the functions that agent and trainer use.

use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use fieldfare_lm::train::memory::PhysicalBatch;
use fieldfare_lm::train::{AdamConfig, GradientMechanism, LocalRound, LocalRoundConfig, LoraDecoder, TrainingExample};
use fieldfare_privacy::{
    Accountant, ClipError, ClippedSum, Delta, DpSgdParameters, Epsilon, ExactSum, GaussianNoise, NoiseMultiplier,
    PoissonSampler, RingCodec, RingParameters, SamplingRate, StepError, TrainingSeed, calibrate_sigma, noisy_gradient,
};

/// How much noise a job adds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Noise {
    /// As much as all rounds together need for this epsilon.
    Epsilon(f64),
    /// This multiple of the clip norm, whatever the epsilon.
    Multiplier(f64),
}

/// The public numbers of the job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct JobSettings {
    pub(crate) rounds: u64,
    pub(crate) steps: u64,
    pub(crate) sampling_rate: f64,
    pub(crate) clip_norm: f64,
    pub(crate) delta: f64,
    pub(crate) noise: Noise,
    pub(crate) learning_rate: f32,
    pub(crate) public_examples: u64,
}

impl Default for JobSettings {
    fn default() -> Self {
        Self {
            rounds: 5,
            steps: 8,
            sampling_rate: 0.16,
            clip_norm: 0.5,
            delta: 1e-5,
            noise: Noise::Epsilon(8.0),
            learning_rate: 3e-2,
            public_examples: 200,
        }
    }
}

impl JobSettings {
    /// The noise multiplier: given, or the least that keeps all rounds within epsilon.
    pub(crate) fn noise_multiplier(&self) -> Result<NoiseMultiplier> {
        match self.noise {
            Noise::Multiplier(multiplier) => Ok(NoiseMultiplier::new(multiplier)?),
            Noise::Epsilon(epsilon) => Ok(calibrate_sigma(
                Accountant::Rdp,
                Epsilon::new(epsilon)?,
                Delta::new(self.delta)?,
                SamplingRate::new(self.sampling_rate)?,
                self.rounds * self.steps,
            )?),
        }
    }

    fn parameters(&self) -> Result<DpSgdParameters> {
        let multiplier = self.noise_multiplier()?.get();
        let Self {
            sampling_rate,
            steps,
            clip_norm,
            public_examples,
            ..
        } = *self;
        Ok(DpSgdParameters::from_numbers(
            sampling_rate,
            steps,
            clip_norm,
            multiplier,
            public_examples,
        )?)
    }

    /// Adam moves no parameter by more than about the learning rate in a step, so this is as far as a round goes.
    fn update_range(&self) -> f32 {
        (self.learning_rate * self.steps as f32).max(1e-3)
    }
}

/// DP-SGD between a device's examples and its parameters.
struct PrivateGradients {
    parameters: DpSgdParameters,
    seed: TrainingSeed,
    sampler: PoissonSampler,
    sum: ClippedSum,
}

/// A step without a private gradient.
#[derive(Debug, thiserror::Error)]
enum PrivateGradientError {
    #[error(transparent)]
    Clip(#[from] ClipError),
    #[error(transparent)]
    Step(#[from] StepError),
}

impl PrivateGradients {
    fn new(parameters: DpSgdParameters, seed: TrainingSeed, length: usize) -> Result<Self, ClipError> {
        let sampler = PoissonSampler::new(&seed, parameters.sampling_rate());
        Ok(Self {
            parameters,
            seed,
            sampler,
            sum: ClippedSum::new(parameters.clip_norm(), length)?,
        })
    }
}

impl GradientMechanism for PrivateGradients {
    type Error = PrivateGradientError;

    fn batch(&mut self, step: u64, examples: usize) -> Vec<usize> {
        self.sampler.batch(step, examples)
    }

    fn add(&mut self, gradient: &[f32]) -> Result<(), Self::Error> {
        Ok(self.sum.add_example(&[gradient])?)
    }

    fn finish(&mut self, step: u64) -> Result<Vec<f32>, Self::Error> {
        let fresh = ClippedSum::new(self.parameters.clip_norm(), self.sum.length())?;
        let sum = std::mem::replace(&mut self.sum, fresh);
        Ok(noisy_gradient(
            sum,
            GaussianNoise::for_step(&self.seed, step),
            &self.parameters,
        )?)
    }
}

/// Runs all rounds of a job among `devices`, each a list of examples, and returns the final B factors.
///
/// Devices differ in `first_device` and their place, so that the same job of one device alone draws other noise than
/// the device drew in company.
pub(crate) fn run(
    decoder: &LoraDecoder,
    devices: &[&[TrainingExample]],
    settings: &JobSettings,
    seed: u64,
    first_device: u64,
) -> Result<Vec<f32>> {
    let length = decoder.trained_parameters();
    let codec = RingCodec::new(RingParameters {
        length,
        range: settings.update_range(),
        ring_bits: 32,
        cohort_limit: devices.len() as u32,
    })?;
    let mut state = vec![0.0; length];
    for round in 0..settings.rounds {
        let mut sum = ExactSum::new(codec);
        for (device, examples) in (first_device..).zip(devices) {
            sum.add(&contribution(
                decoder,
                examples,
                settings,
                &state,
                &codec,
                training_seed(seed, round, device),
            )?)?;
        }
        state
            .iter_mut()
            .zip(sum.mean()?)
            .for_each(|(value, update)| *value += update);
    }
    Ok(state)
}

/// One device's part of one round, as the bytes that it would upload.
fn contribution(
    decoder: &LoraDecoder,
    examples: &[TrainingExample],
    settings: &JobSettings,
    start: &[f32],
    codec: &RingCodec,
    seed: TrainingSeed,
) -> Result<Vec<u8>> {
    let config = LocalRoundConfig {
        steps: settings.steps,
        learning_rate: settings.learning_rate,
        adam: AdamConfig::default(),
        physical_batch: PhysicalBatch::MAX,
    };
    let round = LocalRound {
        decoder,
        examples,
        config,
        cancelled: &AtomicBool::new(false),
    };
    let mut mechanism = PrivateGradients::new(settings.parameters()?, seed, start.len())?;
    let end = round
        .run(start, &mut mechanism, |_| ())
        .context("local training failed")?;
    let update: Vec<f32> = end.iter().zip(start).map(|(end, start)| end - start).collect();
    let encoded = codec.encode(&update)?;
    if encoded.clamped * 1_000 > update.len() {
        bail!(
            "{} of {} entries left the range of a contribution",
            encoded.clamped,
            update.len()
        );
    }
    Ok(encoded.bytes)
}

/// A fixed seed, so that the table can be made again. A device draws its seed from the operating system instead.
fn training_seed(seed: u64, round: u64, device: u64) -> TrainingSeed {
    let mut bytes = [0; 32];
    for (part, number) in bytes.chunks_exact_mut(8).zip([seed, round, device]) {
        part.copy_from_slice(&number.to_le_bytes());
    }
    TrainingSeed::new(bytes)
}
