//! The variants in use, ready to be measured with any state of the adapter.

use fieldfare_fleet::limits::MAX_NATS_PER_TOKEN;
use fieldfare_lm::adapter::{LoraAdapter, LoraFactors, peft};
use fieldfare_lm::config::DecoderConfig;
use fieldfare_lm::engine::{Engine, RunError};
use fieldfare_lm::train::{LoraSpec, Place};

use super::base::WeightsFile;
use crate::compute::Stop;
use crate::evaluation::{EvaluationError, Measured, greedy, measure};
use crate::examples::ExampleSet;
use crate::failure::{WorkError, chain};
use crate::import::load;
use crate::work::Workshop;

/// The largest difference that two computations of the same A factor may have: its sines and logarithms are not exactly
/// specified, and the rounding to F32 hides the rest.
const A_TOLERANCE: f32 = 1e-5;

/// Models that share one shape; they differ in how precise their weights are.
#[derive(Debug)]
pub(super) struct Bench {
    /// At least one, the most precise first.
    engines: Vec<(String, Engine)>,
    /// Set by [`Bench::with_lora`].
    lora: LoraSpec,
    /// The adapter that the base release brings.
    adapter: Option<LoraAdapter>,
}

/// A state as it travels and is kept: F32, little endian.
pub(super) fn encode(state: &[f32]) -> Vec<u8> {
    state.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A state from its bytes.
pub(super) fn decode(bytes: &[u8], entries: usize) -> Result<Vec<f32>, String> {
    if bytes.len() != 4 * entries {
        return Err(format!("{} bytes, expected {}", bytes.len(), 4 * entries));
    }
    let state: Vec<f32> = bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    match state.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(format!("entry {index} is no finite number")),
        None => Ok(state),
    }
}

impl Bench {
    /// Opens the weights; refuses those that do not share one shape.
    pub(super) async fn open(
        workshop: &Workshop,
        files: Vec<WeightsFile>,
        adapter: Option<Vec<u8>>,
    ) -> Result<Self, WorkError> {
        let opened = workshop.compute.run(move |_| {
            let open = |weights: &WeightsFile| Ok::<_, WorkError>((weights.variant.clone(), load(&weights.file)?));
            let engines = files.iter().map(open).collect::<Result<Vec<_>, _>>()?;
            let (first, others) = engines
                .split_first()
                .ok_or_else(|| WorkError::Impossible("the base release has no variant".to_owned()))?;
            let config = first.1.config();
            if let Some((other, _)) = others.iter().find(|(_, engine)| engine.config() != config) {
                let problem = format!(
                    "variants {} and {other} of the base release have different shapes",
                    first.0
                );
                return Err(WorkError::Impossible(problem));
            }
            let read = |bytes: Vec<u8>| {
                peft::read(&bytes, None, config).map_err(WorkError::impossible("the adapter of the base release"))
            };
            let adapter = adapter.map(read).transpose()?;
            let lora = LoraSpec {
                rank: 1,
                alpha: 1.0,
                seed: 0,
            };
            Ok(Self { engines, lora, adapter })
        });
        opened.await.map_err(WorkError::computing("loading the base release"))?
    }

    /// The same models for adapters of this form.
    pub(super) fn with_lora(self, lora: LoraSpec) -> Self {
        Self { lora, ..self }
    }

    /// The shape of all of them.
    pub(super) fn config(&self) -> &DecoderConfig {
        self.engines[0].1.config()
    }

    /// How many there are.
    pub(super) fn variants(&self) -> usize {
        self.engines.len()
    }

    /// The name of one of them.
    pub(super) fn name(&self, index: usize) -> String {
        self.engines[index].0.clone()
    }

    fn places(&self) -> Vec<Place> {
        self.lora.places(self.config())
    }

    /// The state before the first round: the base release's own adapter, or zeros. An adapter of another form cannot be gone
    /// on with: its B factors mean nothing beside other A factors.
    pub(super) fn start(&self) -> Result<Vec<f32>, String> {
        let Some(adapter) = &self.adapter else {
            return Ok(vec![0.0; self.lora.trained_parameters(self.config())]);
        };
        if adapter.rank != self.lora.rank || adapter.alpha != self.lora.alpha {
            return Err(format!(
                "the base release has an adapter of rank {} and alpha {}; a job that goes on with it needs the same, not {} and {}",
                adapter.rank, adapter.alpha, self.lora.rank, self.lora.alpha
            ));
        }
        let mut state = Vec::with_capacity(self.lora.trained_parameters(self.config()));
        for place in self.places() {
            let (layer, projection) = (place.layer, place.projection);
            let factors = adapter.factors.get(&(layer, projection));
            let factors = factors.ok_or_else(|| {
                format!(
                    "the base release's adapter has no factors for layer {layer} {}",
                    projection.hf_name()
                )
            })?;
            let ours = self.lora.factor_a(layer, projection, self.config());
            if ours.iter().zip(&factors.a).any(|(a, b)| (a - b).abs() > A_TOLERANCE) {
                return Err(
                    "the base release's adapter has other A factors than jobs on this model: it was not made here"
                        .to_owned(),
                );
            }
            state.extend_from_slice(&factors.b);
        }
        Ok(state)
    }

    /// The adapter that a state is.
    pub(super) fn adapter(&self, state: &[f32]) -> LoraAdapter {
        let factors = self.places().into_iter().map(|place| {
            let (layer, projection) = (place.layer, place.projection);
            let factors = LoraFactors {
                d_in: place.d_in,
                d_out: place.d_out,
                a: self.lora.factor_a(layer, projection, self.config()),
                b: state[place.offset..place.offset + place.length].to_vec(),
            };
            ((layer, projection), factors)
        });
        LoraAdapter {
            rank: self.lora.rank,
            alpha: self.lora.alpha,
            factors: factors.collect(),
        }
    }

    fn engine(&self, index: usize, state: &[f32]) -> Option<Engine> {
        let mut engine = self.engines[index].1.clone();
        // An adapter with an entry that is no number fits no model.
        engine.set_adapter(Some(&self.adapter(state))).ok()?;
        Some(engine)
    }

    /// Measures a variant with a state. A state with which the model computes no numbers any more has the worst loss there is.
    pub(super) fn measure(
        &self,
        index: usize,
        state: &[f32],
        set: &ExampleSet,
        stop: &Stop,
    ) -> Result<Measured, EvaluationError> {
        let worst = || {
            let loss = fieldfare_lm::engine::Loss {
                nats: MAX_NATS_PER_TOKEN,
                tokens: 1,
            };
            Measured {
                loss,
                questions: set.questions() as u32,
                exact: 0,
            }
        };
        let Some(engine) = self.engine(index, state) else {
            return Ok(worst());
        };
        match measure(&engine, set, stop) {
            Err(EvaluationError::Run {
                source: RunError::NotFinite,
                ..
            }) => Ok(worst()),
            measured => measured,
        }
    }

    /// What the most precise variant with a state answers to a prompt.
    pub(super) fn answer(&self, state: &[f32], prompt: &str, max_tokens: u32) -> Result<String, String> {
        let engine = self.engine(0, state).ok_or("the adapter does not fit the model")?;
        greedy(&engine, prompt, max_tokens).map_err(|error| chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_reads_back_and_a_damaged_one_is_refused() {
        let state = [0.5, -1.25, 0.0];
        let bytes = encode(&state);
        assert_eq!(decode(&bytes, 3).unwrap(), state);
        assert!(decode(&bytes, 2).unwrap_err().contains("expected 8"));
        assert!(decode(&encode(&[f32::NAN]), 1).unwrap_err().contains("entry 0"));
    }
}
