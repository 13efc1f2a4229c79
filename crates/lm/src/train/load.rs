//! Weights for training from a GGUF file of any format that the engine computes with.

use std::sync::Arc;

use super::weights::{DecoderWeights, WrongLength};
use crate::config::{Architecture, ConfigError, DecoderConfig};
use crate::engine::Mapping;
use crate::engine::matrix::dequantise;
use crate::gguf::{Gguf, GgufError};

/// Why a GGUF file cannot be trained on.
#[derive(Debug, thiserror::Error)]
pub enum LoadWeightsError {
    /// The file is no GGUF.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The metadata describe no decoder.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The metadata describe a decoder of which training has no definition.
    #[error("training does not compute {architecture} decoders, expected llama")]
    Architecture {
        /// The architecture in the file.
        architecture: Architecture,
    },
    /// A tensor is missing, or its data lie outside the file.
    #[error("tensor {name} is missing")]
    Missing {
        /// The tensor.
        name: String,
    },
    /// A tensor has a format that cannot be read.
    #[error("tensor {name} has the format {format}, which cannot be read")]
    Format {
        /// The tensor.
        name: String,
        /// The format.
        format: String,
    },
    /// A tensor has another size than the configuration says.
    #[error(transparent)]
    Length(#[from] WrongLength),
    /// A tensor that training does not know: leaving it out would train another model.
    #[error("tensor {name} is not part of a decoder that training computes")]
    Unexpected {
        /// The tensor.
        name: String,
    },
}

impl DecoderWeights {
    /// The weights of a mapped GGUF file, dequantised to F32: training on a quantised variant sees what that variant
    /// computes with.
    ///
    /// # Errors
    /// [`LoadWeightsError`] names the tensor or the key.
    pub fn from_mapping(mapping: &Arc<Mapping>) -> Result<Self, LoadWeightsError> {
        let gguf = Gguf::parse(mapping.as_bytes())?;
        let config = DecoderConfig::from_gguf(&gguf)?;
        if !config.architecture.is_runnable() {
            return Err(LoadWeightsError::Architecture {
                architecture: config.architecture,
            });
        }
        let weights = Self::load(config, |name| read(&gguf, mapping, name))?;
        let known = |name: &str| weights.places().iter().any(|place| place.name == name);
        match gguf.tensors.iter().find(|tensor| !known(&tensor.name)) {
            Some(tensor) => Err(LoadWeightsError::Unexpected {
                name: tensor.name.clone(),
            }),
            None => Ok(weights),
        }
    }
}

fn read(gguf: &Gguf, mapping: &Arc<Mapping>, name: &str) -> Result<Vec<f32>, LoadWeightsError> {
    let missing = || LoadWeightsError::Missing { name: name.to_owned() };
    let tensor = gguf.tensor(name).ok_or_else(missing)?;
    let start = gguf.data_offset.checked_add(tensor.offset).ok_or_else(missing)? as usize;
    let range = start..start.checked_add(tensor.bytes as usize).ok_or_else(missing)?;
    dequantise(mapping, range, tensor.tensor_type).ok_or_else(|| LoadWeightsError::Format {
        name: name.to_owned(),
        format: tensor.tensor_type.to_string(),
    })
}
