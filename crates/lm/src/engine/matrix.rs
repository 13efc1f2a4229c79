//! Weight matrices in GGUF's formats, multiplied in place: quantised ones with candle's kernels, others with our own.
//!
//! candle's quantised dot products choose AVX2, AVX-512 or NEON at run time. They are called directly and not through its tensors: weights stay in
//! the mapped file instead of being copied, and the work stays on the calling thread, while candle's own loop fans out to a pool that
//! `RAYON_NUM_THREADS` sizes. One compute thread per process is Fieldfare's design.

use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::GgmlType;
use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
};
use half::{bf16, f16};

use super::float::{self, Float};
use super::mapping::{Blocks, Mapping, Plain};
use crate::gguf::TensorType;

/// Elements of a row of which a format's kernels need a multiple: some of candle's work on two blocks at once.
pub(crate) fn row_multiple(tensor_type: TensorType) -> u64 {
    match tensor_type {
        TensorType::Q4_1 | TensorType::Q5_0 | TensorType::Q5_1 => 64,
        other => other.block_elements(),
    }
}

/// Runs `$body` with `$block` as the block type of a format; `$otherwise` for formats without kernels.
macro_rules! with_block_type {
    ($tensor_type:expr, $block:ident => $body:expr, $otherwise:expr) => {
        match $tensor_type {
            TensorType::F32 => {
                type $block = f32;
                $body
            }
            TensorType::F16 => {
                type $block = f16;
                $body
            }
            TensorType::BF16 => {
                type $block = bf16;
                $body
            }
            TensorType::Q4_0 => {
                type $block = BlockQ4_0;
                $body
            }
            TensorType::Q4_1 => {
                type $block = BlockQ4_1;
                $body
            }
            TensorType::Q5_0 => {
                type $block = BlockQ5_0;
                $body
            }
            TensorType::Q5_1 => {
                type $block = BlockQ5_1;
                $body
            }
            TensorType::Q8_0 => {
                type $block = BlockQ8_0;
                $body
            }
            TensorType::Q2_K => {
                type $block = BlockQ2K;
                $body
            }
            TensorType::Q3_K => {
                type $block = BlockQ3K;
                $body
            }
            TensorType::Q4_K => {
                type $block = BlockQ4K;
                $body
            }
            TensorType::Q5_K => {
                type $block = BlockQ5K;
                $body
            }
            TensorType::Q6_K => {
                type $block = BlockQ6K;
                $body
            }
            _ => $otherwise,
        }
    };
}

/// A matrix `[d_out, d_in]`, row-major, in one of GGUF's formats.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub(crate) d_in: usize,
    pub(crate) d_out: usize,
    rows: Box<dyn Rows>,
}

impl Matrix {
    /// The matrix at `range` of `mapping`. `None` where the format has no kernels or the bytes do not fit the shape.
    pub(crate) fn new(
        mapping: &Arc<Mapping>,
        range: Range<usize>,
        tensor_type: TensorType,
        d_in: usize,
        d_out: usize,
    ) -> Option<Self> {
        let bytes = tensor_type.bytes(d_in as u64)?.checked_mul(d_out as u64)?;
        if range.len() as u64 != bytes || !(d_in as u64).is_multiple_of(row_multiple(tensor_type)) {
            return None;
        }
        let rows = match tensor_type {
            TensorType::F32 => Box::new(Numbers(Blocks::<f32>::new(mapping, range)?)) as Box<dyn Rows>,
            TensorType::F16 => Box::new(Numbers(Blocks::<f16>::new(mapping, range)?)),
            TensorType::BF16 => Box::new(Numbers(Blocks::<bf16>::new(mapping, range)?)),
            quantised => with_block_type!(
                quantised,
                Block => Box::new(Blocks::<Block>::new(mapping, range)?) as Box<dyn Rows>,
                return None
            ),
        };
        Some(Self { d_in, d_out, rows })
    }

    /// `out[t] = W x[t]` for every row `t` of `inputs` (`[tokens, d_in]`); `out` is `[tokens, d_out]`.
    pub(crate) fn multiply(&self, inputs: &[f32], out: &mut [f32]) {
        assert_eq!(
            inputs.len() / self.d_in,
            out.len() / self.d_out,
            "as many inputs as outputs"
        );
        self.rows.multiply(self.d_in, inputs, out);
    }

    /// Row `row` as F32.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        self.rows.dequantise(self.d_in, row, out);
    }
}

trait Rows: std::fmt::Debug + Send + Sync {
    fn multiply(&self, d_in: usize, inputs: &[f32], out: &mut [f32]);
    fn dequantise(&self, d_in: usize, row: usize, out: &mut [f32]);
}

impl<T: Plain + GgmlType + std::fmt::Debug> Rows for Blocks<T> {
    fn multiply(&self, d_in: usize, inputs: &[f32], out: &mut [f32]) {
        multiply_rows(self.as_slice(), d_in, inputs, out);
    }

    fn dequantise(&self, d_in: usize, row: usize, out: &mut [f32]) {
        let per_row = d_in / T::BLCK_SIZE;
        T::to_float(&self.as_slice()[row * per_row..(row + 1) * per_row], out);
    }
}

/// Rows of numbers that are not quantised in blocks.
#[derive(Debug)]
struct Numbers<T>(Blocks<T>);

impl<T: Plain + Float + std::fmt::Debug + Send + Sync> Rows for Numbers<T> {
    fn multiply(&self, d_in: usize, inputs: &[f32], out: &mut [f32]) {
        float::multiply(self.0.as_slice(), d_in, inputs, out);
    }

    fn dequantise(&self, d_in: usize, row: usize, out: &mut [f32]) {
        let elements = &self.0.as_slice()[row * d_in..(row + 1) * d_in];
        out.copy_from_slice(T::as_f32(elements, &mut vec![0.0; d_in]));
    }
}

/// Multiplies; each weight is read once for all tokens, four rows at a time.
fn multiply_rows<T: GgmlType>(weights: &[T], d_in: usize, inputs: &[f32], out: &mut [f32]) {
    let per_row = d_in / T::BLCK_SIZE;
    let d_out = weights.len() / per_row;
    let activations: Vec<Vec<T::VecDotType>> = inputs.chunks_exact(d_in).map(|input| quantise::<T>(input)).collect();
    let row = |index: usize| &weights[index * per_row..(index + 1) * per_row];
    let quads = d_out / 4 * 4;
    for first in (0..quads).step_by(4) {
        let rows = [row(first), row(first + 1), row(first + 2), row(first + 3)];
        for (token, activation) in activations.iter().enumerate() {
            let (d0, d1, d2, d3) = T::vec_dot_4(d_in, rows[0], rows[1], rows[2], rows[3], activation);
            out[token * d_out + first..token * d_out + first + 4].copy_from_slice(&[d0, d1, d2, d3]);
        }
    }
    for last in quads..d_out {
        for (token, activation) in activations.iter().enumerate() {
            out[token * d_out + last] = T::vec_dot(d_in, row(last), activation);
        }
    }
}

/// An input in the format that the kernel of `T` multiplies with.
fn quantise<T: GgmlType>(input: &[f32]) -> Vec<T::VecDotType> {
    let mut blocks = vec![T::VecDotType::zeros(); input.len() / T::VecDotType::BLCK_SIZE];
    T::VecDotType::from_float(input, &mut blocks);
    blocks
}

/// All elements of a tensor as F32, from any format that has kernels.
pub(crate) fn dequantise(mapping: &Arc<Mapping>, range: Range<usize>, tensor_type: TensorType) -> Option<Vec<f32>> {
    with_block_type!(tensor_type, Block => {
        let blocks = Blocks::<Block>::new(mapping, range)?;
        let mut elements = vec![0.0; blocks.as_slice().len() * Block::BLCK_SIZE];
        Block::to_float(blocks.as_slice(), &mut elements);
        Some(elements)
    }, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formats_that_are_said_to_be_computable_have_kernels() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zeroes");
        std::fs::write(&path, [0; 4096]).unwrap();
        let mapping = Arc::new(Mapping::open(&path).unwrap());
        for kind in (0..64).filter_map(TensorType::from_id) {
            let bytes = usize::try_from(kind.bytes(512).unwrap()).unwrap();
            let made = Matrix::new(&mapping, 0..bytes, kind, 512, 1).is_some();
            assert_eq!(made, kind.is_computable(), "{kind}");
        }
    }
}
