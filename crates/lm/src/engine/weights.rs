//! The weights of a decoder, checked against its configuration.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::mapping::Mapping;
use super::matrix::{Matrix, dequantise};
use crate::adapter::Projection;
use crate::config::DecoderConfig;
use crate::gguf::{Gguf, TensorInfo};

/// Why a file's tensors are not the weights of the decoder that its metadata describe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WeightsError {
    /// A tensor is missing.
    #[error("tensor {name} is missing")]
    Missing {
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape.
    #[error("tensor {name} is {found:?}, expected {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape in the file, contiguous dimension first.
        found: Vec<u64>,
        /// The shape that the metadata call for.
        expected: Vec<u64>,
    },
    /// A tensor has a format without kernels, or rows that its kernels cannot compute.
    #[error("tensor {name} has the format {format} in rows of {row}, which the engine does not compute")]
    Format {
        /// The tensor.
        name: String,
        /// The format.
        format: String,
        /// Elements of a row.
        row: u64,
    },
    /// A tensor that this decoder does not have. Leaving it out would compute something else.
    #[error("tensor {name} is not part of a {architecture} decoder that the engine computes")]
    Unexpected {
        /// The tensor.
        name: String,
        /// The architecture in the metadata.
        architecture: String,
    },
}

#[derive(Debug)]
pub(crate) struct LayerWeights {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) query: Matrix,
    pub(crate) key: Matrix,
    pub(crate) value: Matrix,
    pub(crate) output: Matrix,
    pub(crate) feed_forward_norm: Vec<f32>,
    pub(crate) gate: Matrix,
    pub(crate) up: Matrix,
    pub(crate) down: Matrix,
}

#[derive(Debug)]
pub(crate) struct Weights {
    pub(crate) embedding: Matrix,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) output_norm: Vec<f32>,
    /// `None` where the embedding is also the output head.
    pub(crate) output: Option<Matrix>,
    /// Radians by which each rotating pair turns from one position to the next: `rope.dimensions / 2` of them.
    pub(crate) frequencies: Vec<f32>,
}

impl Weights {
    pub(crate) fn load(gguf: &Gguf, mapping: &Arc<Mapping>, config: &DecoderConfig) -> Result<Self, WeightsError> {
        let mut loader = Loader {
            gguf,
            mapping,
            used: BTreeSet::new(),
        };
        let weights = Self {
            embedding: loader.matrix("token_embd.weight", config.width, config.vocabulary)?,
            layers: (0..config.layers)
                .map(|layer| loader.layer(layer, config))
                .collect::<Result<_, _>>()?,
            output_norm: loader.vector("output_norm.weight", config.width)?,
            output: match config.tied_embeddings {
                true => None,
                false => Some(loader.matrix("output.weight", config.width, config.vocabulary)?),
            },
            frequencies: loader.frequencies(config)?,
        };
        loader.check_all_used(config)?;
        Ok(weights)
    }

    /// The matrix that turns the last hidden state into logits.
    pub(crate) fn head(&self) -> &Matrix {
        self.output.as_ref().unwrap_or(&self.embedding)
    }
}

impl LayerWeights {
    /// The matrix of a projection.
    pub(crate) fn projection(&self, projection: Projection) -> &Matrix {
        match projection {
            Projection::Query => &self.query,
            Projection::Key => &self.key,
            Projection::Value => &self.value,
            Projection::Output => &self.output,
            Projection::Gate => &self.gate,
            Projection::Up => &self.up,
            Projection::Down => &self.down,
        }
    }
}

struct Loader<'a> {
    gguf: &'a Gguf,
    mapping: &'a Arc<Mapping>,
    used: BTreeSet<String>,
}

impl Loader<'_> {
    fn layer(&mut self, layer: usize, config: &DecoderConfig) -> Result<LayerWeights, WeightsError> {
        let mut matrix = |projection: Projection| {
            let (d_in, d_out) = projection.shape(config);
            self.matrix(&format!("blk.{layer}.{}.weight", projection.gguf_name()), d_in, d_out)
        };
        let (query, key) = (matrix(Projection::Query)?, matrix(Projection::Key)?);
        let (value, output) = (matrix(Projection::Value)?, matrix(Projection::Output)?);
        let (gate, up, down) = (
            matrix(Projection::Gate)?,
            matrix(Projection::Up)?,
            matrix(Projection::Down)?,
        );
        let attention_norm = self.vector(&format!("blk.{layer}.attn_norm.weight"), config.width)?;
        let feed_forward_norm = self.vector(&format!("blk.{layer}.ffn_norm.weight"), config.width)?;
        Ok(LayerWeights {
            attention_norm,
            query,
            key,
            value,
            output,
            feed_forward_norm,
            gate,
            up,
            down,
        })
    }

    fn find(&mut self, name: &str, expected: &[u64]) -> Result<(TensorInfo, std::ops::Range<usize>), WeightsError> {
        let missing = || WeightsError::Missing { name: name.to_owned() };
        let info = self.gguf.tensor(name).ok_or_else(missing)?;
        if info.dimensions != expected {
            let (found, expected) = (info.dimensions.clone(), expected.to_vec());
            return Err(WeightsError::Shape {
                name: name.to_owned(),
                found,
                expected,
            });
        }
        self.used.insert(name.to_owned());
        let start = (self.gguf.data_offset + info.offset) as usize;
        Ok((info.clone(), start..start + info.bytes as usize))
    }

    fn matrix(&mut self, name: &str, d_in: usize, d_out: usize) -> Result<Matrix, WeightsError> {
        let (info, range) = self.find(name, &[d_in as u64, d_out as u64])?;
        Matrix::new(self.mapping, range, info.tensor_type, d_in, d_out).ok_or_else(|| format_error(&info))
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, WeightsError> {
        let (info, range) = self.find(name, &[length as u64])?;
        dequantise(self.mapping, range, info.tensor_type).ok_or_else(|| format_error(&info))
    }

    /// `theta^(-2i/n)`, divided by the scaling and by the factors that Llama 3.1 files carry as a tensor.
    fn frequencies(&mut self, config: &DecoderConfig) -> Result<Vec<f32>, WeightsError> {
        let pairs = config.rope.dimensions / 2;
        let factors = match self.gguf.tensor("rope_freqs.weight") {
            Some(_) => self.vector("rope_freqs.weight", pairs)?,
            None => vec![1.0; pairs],
        };
        let frequency = |(pair, factor): (usize, &f32)| {
            let exponent = -2.0 * pair as f64 / config.rope.dimensions as f64;
            let turn = f64::from(config.rope.theta).powf(exponent);
            (turn / f64::from(config.rope.position_divisor) / f64::from(*factor)) as f32
        };
        Ok(factors.iter().enumerate().map(frequency).collect())
    }

    fn check_all_used(&self, config: &DecoderConfig) -> Result<(), WeightsError> {
        match self
            .gguf
            .tensors
            .iter()
            .find(|tensor| !self.used.contains(&tensor.name))
        {
            Some(tensor) => Err(WeightsError::Unexpected {
                name: tensor.name.clone(),
                architecture: config.architecture.to_string(),
            }),
            None => Ok(()),
        }
    }
}

fn format_error(info: &TensorInfo) -> WeightsError {
    WeightsError::Format {
        name: info.name.clone(),
        format: info.tensor_type.to_string(),
        row: info.row_elements(),
    }
}
