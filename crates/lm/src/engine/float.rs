//! Products of floating-point numbers, with the vector instructions of the machine that runs them.
//!
//! candle chooses its kernels for these formats when it is compiled, and for any x86-64 that is none; here the same loops are
//! compiled for several instruction sets, and pulp chooses among them at run time.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use pulp::{Arch, NullaryFnOnce};

/// Sums that are kept side by side: two vectors of AVX-512, four of AVX2.
const LANES: usize = 32;

/// `sum(left * right)`.
pub(super) fn dot(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len(), "a dot product has two sides of one length");
    Arch::new().dispatch(Dot { left, right })
}

/// Formats whose elements are numbers of their own.
pub(super) trait Float: Copy {
    /// The elements as F32: converted into `buffer` where need be, which has their number.
    fn as_f32<'a>(elements: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32];
}

impl Float for f32 {
    fn as_f32<'a>(elements: &'a [f32], _: &'a mut [f32]) -> &'a [f32] {
        elements
    }
}

impl Float for f16 {
    fn as_f32<'a>(elements: &'a [f16], buffer: &'a mut [f32]) -> &'a [f32] {
        elements.convert_to_f32_slice(buffer);
        buffer
    }
}

impl Float for bf16 {
    fn as_f32<'a>(elements: &'a [bf16], buffer: &'a mut [f32]) -> &'a [f32] {
        elements.convert_to_f32_slice(buffer);
        buffer
    }
}

/// `out[t] = W x[t]` for every row `t` of `inputs` (`[tokens, d_in]`), with `weights` `[d_out, d_in]` and `out` `[tokens, d_out]`.
/// Each weight is read and converted once for all tokens; inputs and sums are F32.
pub(super) fn multiply<T: Float>(weights: &[T], d_in: usize, inputs: &[f32], out: &mut [f32]) {
    let d_out = weights.len() / d_in;
    let mut buffer = vec![0.0; d_in];
    for (index, row) in weights.chunks_exact(d_in).enumerate() {
        let row = T::as_f32(row, &mut buffer);
        Arch::new().dispatch(RowTimesInputs {
            row,
            inputs,
            out: &mut out[index..],
            d_out,
        });
    }
}

struct Dot<'a> {
    left: &'a [f32],
    right: &'a [f32],
}

impl NullaryFnOnce for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn call(self) -> f32 {
        lanes(self.left, self.right)
    }
}

/// One row of a matrix times every input; results lie `d_out` apart.
struct RowTimesInputs<'a> {
    row: &'a [f32],
    inputs: &'a [f32],
    out: &'a mut [f32],
    d_out: usize,
}

impl NullaryFnOnce for RowTimesInputs<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let outputs = self.out.iter_mut().step_by(self.d_out);
        for (input, out) in self.inputs.chunks_exact(self.row.len()).zip(outputs) {
            *out = lanes(self.row, input);
        }
    }
}

/// The loop itself, compiled into each caller for its instruction set.
#[inline(always)]
fn lanes(left: &[f32], right: &[f32]) -> f32 {
    let ((left, left_rest), (right, right_rest)) = (left.as_chunks::<LANES>(), right.as_chunks::<LANES>());
    let mut sums = [0.0_f32; LANES];
    for (left, right) in left.iter().zip(right) {
        for (sum, (left, right)) in sums.iter_mut().zip(left.iter().zip(right)) {
            *sum += left * right;
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    sums[0] + rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exact(left: &[f32], right: &[f32]) -> (f64, f64) {
        let products = left.iter().zip(right).map(|(l, r)| f64::from(*l) * f64::from(*r));
        products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product.abs()))
    }

    proptest! {
        /// The bound is that of any summation order in F32: one rounding for each product and each sum on the way.
        #[test]
        fn a_dot_product_is_exact_up_to_rounding(
            pairs in prop::collection::vec((-10.0_f32..10.0, -10.0_f32..10.0), 0..200),
        ) {
            let (left, right): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let (sum, size) = exact(&left, &right);
            let bound = size * f64::from(f32::EPSILON) * (left.len() as f64 / LANES as f64 + 8.0 + LANES as f64);
            prop_assert!((f64::from(dot(&left, &right)) - sum).abs() <= bound);
        }

        #[test]
        fn halves_are_multiplied_as_the_numbers_that_they_are(
            d_in in 1_usize..70,
            d_out in 1_usize..5,
            tokens in 1_usize..4,
            seed in any::<u32>(),
        ) {
            let number = |index: usize| ((index as u32 ^ seed).wrapping_mul(2_654_435_761) >> 20) as f32 / 4096.0 - 0.5;
            let weights: Vec<f16> = (0..d_in * d_out).map(|index| f16::from_f32(number(index))).collect();
            let rounded: Vec<bf16> = weights.iter().map(|weight| bf16::from_f32(weight.to_f32())).collect();
            let inputs: Vec<f32> = (0..d_in * tokens).map(|index| number(index + 7_919)).collect();
            let plain = |values: Vec<f32>| {
                let mut out = vec![0.0; tokens * d_out];
                multiply(&values, d_in, &inputs, &mut out);
                out
            };
            let mut out = vec![0.0; tokens * d_out];
            multiply(&weights, d_in, &inputs, &mut out);
            prop_assert_eq!(&out, &plain(weights.iter().map(|weight| weight.to_f32()).collect()));
            for (token, input) in inputs.chunks(d_in).enumerate() {
                for (row, weights) in weights.chunks(d_in).enumerate() {
                    let weights: Vec<f32> = weights.iter().map(|weight| weight.to_f32()).collect();
                    prop_assert_eq!(out[token * d_out + row], dot(&weights, input));
                }
            }
            multiply(&rounded, d_in, &inputs, &mut out);
            prop_assert_eq!(&out, &plain(rounded.iter().map(|weight| weight.to_f32()).collect()));
        }
    }
}
