//! Building the variants of a release: one GGUF file in, another of the same model in another format out.

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::GgmlType;
use candle_core::quantized::k_quants::{BlockQ4_0, BlockQ8_0};
use half::f16;

use crate::engine::Mapping;
use crate::engine::matrix::dequantise;
use crate::gguf::{Gguf, GgufError, GgufWriter, TensorInfo, TensorSpec, TensorType, Value, WriteError};

/// The format that most weights of a variant have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Precision {
    /// 32-bit floating point: what a variant's own weights are compared with.
    F32,
    /// 16-bit floating point.
    F16,
    /// Blocks of 32 with 8 bits each and a scale.
    Q8_0,
    /// Blocks of 32 with 4 bits each and a scale. The output head stays in Q8_0: it decides each token alone, and is small.
    Q4_0,
}

impl Precision {
    /// Every precision, the most exact first.
    pub const ALL: [Precision; 4] = [Precision::F32, Precision::F16, Precision::Q8_0, Precision::Q4_0];

    /// GGML's name, such as `Q4_0`.
    pub fn name(self) -> &'static str {
        self.tensor_type().name()
    }

    /// The precision with this name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|precision| precision.name().eq_ignore_ascii_case(name))
    }

    fn tensor_type(self) -> TensorType {
        match self {
            Precision::F32 => TensorType::F32,
            Precision::F16 => TensorType::F16,
            Precision::Q8_0 => TensorType::Q8_0,
            Precision::Q4_0 => TensorType::Q4_0,
        }
    }

    /// `general.file_type` (`llama_ftype` in llama.h).
    fn file_type(self) -> u32 {
        match self {
            Precision::F32 => 0,
            Precision::F16 => 1,
            Precision::Q4_0 => 2,
            Precision::Q8_0 => 7,
        }
    }
}

/// Why a variant could not be built.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// The source is no GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A tensor of the source has a format that cannot be read.
    #[error("tensor {name} has the format {format}, which cannot be converted")]
    Format {
        /// The tensor.
        name: String,
        /// Its format.
        format: TensorType,
    },
    /// A tensor holds an infinity or a NaN.
    #[error("tensor {name} has an element that is no finite number")]
    NotFinite {
        /// The tensor.
        name: String,
    },
    /// The variant could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// What was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantized {
    /// Tensors in the precision that was asked for.
    pub converted: usize,
    /// Tensors that stay in another format: norms in F32, matrices whose rows are no whole number of blocks in F16.
    pub kept: usize,
    /// Bytes of all tensors.
    pub weight_bytes: u64,
}

/// Writes the model in `source` to `out` in another precision. Metadata are kept, but for the file type. Memory holds one tensor at a time.
pub fn quantize(source: &Arc<Mapping>, precision: Precision, out: &mut impl Write) -> Result<Quantized, QuantizeError> {
    let gguf = Gguf::parse(source.as_bytes())?;
    let mut metadata = gguf.metadata.clone();
    metadata.set("general.file_type", Value::U32(precision.file_type()));
    metadata.set("general.quantization_version", Value::U32(2));
    let specs: Vec<TensorSpec> = gguf
        .tensors
        .iter()
        .map(|tensor| specify(&gguf, tensor, precision))
        .collect();
    let mut writer = GgufWriter::new(out, &metadata, &specs)?;
    for (tensor, spec) in gguf.tensors.iter().zip(&specs) {
        let range = place(&gguf, tensor);
        if tensor.tensor_type == spec.tensor_type {
            writer.tensor(&source.as_bytes()[range])?;
        } else {
            writer.tensor(&convert(source, tensor, range, spec.tensor_type)?)?;
        }
    }
    writer.finish()?;
    let converted = specs
        .iter()
        .filter(|spec| spec.tensor_type == precision.tensor_type())
        .count();
    let weight_bytes = specs.iter().filter_map(TensorSpec::bytes).sum();
    Ok(Quantized {
        converted,
        kept: specs.len() - converted,
        weight_bytes,
    })
}

/// Where a tensor lies; the reader has checked that it lies within the file.
fn place(gguf: &Gguf, tensor: &TensorInfo) -> Range<usize> {
    let start = (gguf.data_offset + tensor.offset) as usize;
    start..start + tensor.bytes as usize
}

fn specify(gguf: &Gguf, tensor: &TensorInfo, precision: Precision) -> TensorSpec {
    let is_head = tensor.name == "output.weight"
        || (tensor.name == "token_embd.weight" && gguf.tensor("output.weight").is_none());
    let wanted = match precision {
        Precision::Q4_0 if is_head => TensorType::Q8_0,
        precision => precision.tensor_type(),
    };
    let tensor_type = if tensor.dimensions.len() < 2 {
        TensorType::F32
    } else if tensor.row_elements().is_multiple_of(wanted.block_elements()) {
        wanted
    } else {
        TensorType::F16
    };
    TensorSpec {
        name: tensor.name.clone(),
        dimensions: tensor.dimensions.clone(),
        tensor_type,
    }
}

fn convert(
    source: &Arc<Mapping>,
    tensor: &TensorInfo,
    range: Range<usize>,
    wanted: TensorType,
) -> Result<Vec<u8>, QuantizeError> {
    let format_error = || QuantizeError::Format {
        name: tensor.name.clone(),
        format: tensor.tensor_type,
    };
    let elements = dequantise(source, range, tensor.tensor_type).ok_or_else(format_error)?;
    if elements.iter().any(|element| !element.is_finite()) {
        return Err(QuantizeError::NotFinite {
            name: tensor.name.clone(),
        });
    }
    match wanted {
        TensorType::F32 => Ok(elements.iter().flat_map(|element| element.to_le_bytes()).collect()),
        TensorType::F16 => Ok(elements
            .iter()
            .flat_map(|element| f16::from_f32(*element).to_le_bytes())
            .collect()),
        TensorType::Q8_0 => Ok(crate::engine::blocks_as_bytes(&blocks::<BlockQ8_0>(&elements))),
        TensorType::Q4_0 => Ok(crate::engine::blocks_as_bytes(&blocks::<BlockQ4_0>(&elements))),
        _ => Err(format_error()),
    }
}

fn blocks<T: GgmlType>(elements: &[f32]) -> Vec<T> {
    let mut blocks = vec![T::zeros(); elements.len() / T::BLCK_SIZE];
    T::from_float(elements, &mut blocks);
    blocks
}
