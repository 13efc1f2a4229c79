//! How fast this machine is at what serving does: multiplying weights, and reading memory.
//!
//! The one place of this crate that reads a clock: a measurement of one's own kernels is made of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::DecoderConfig;
use crate::engine::Mapping;
use crate::engine::matrix::Matrix;
use crate::gguf::TensorType;

/// Bytes that the bandwidth probe reads in a row: several times the last-level cache of the machines in question.
const STREAM_BYTES: usize = 128 << 20;

/// Rows and columns of the probed matrix: the width of a decoder with 1.1 billion parameters.
const PROBE_WIDTH: usize = 2_048;

/// Tokens computed at once by the prefill probe.
const PROBE_TOKENS: usize = 16;

/// The formats that are probed.
pub const PROBED: [TensorType; 4] = [TensorType::F32, TensorType::F16, TensorType::Q8_0, TensorType::Q4_0];

/// Speed of one format's kernel on one thread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KernelSpeed {
    /// The format.
    pub tensor_type: TensorType,
    /// Floating-point operations per second for one token at a time: two for each weight.
    pub decode_flops_per_second: f64,
    /// The same for a chunk of tokens at once, as in prefill.
    pub prefill_flops_per_second: f64,
}

impl KernelSpeed {
    /// Tokens per second that a decoder with all weights in this format would reach if computing alone limited it.
    pub fn compute_bound_tokens_per_second(&self, config: &DecoderConfig, position: u64) -> f64 {
        self.decode_flops_per_second / config.flops_per_token(position) as f64
    }
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct MachineSpeed {
    /// Sequential read bandwidth of one thread, in bytes per second.
    pub read_bytes_per_second: f64,
    /// The kernels, in the order of [`PROBED`].
    pub kernels: Vec<KernelSpeed>,
}

/// Measures this machine on the calling thread. Takes about ten times `budget`: each probe is repeated until `budget` is spent.
///
/// The fastest repetition counts: whatever else runs on the machine only ever makes one slower.
pub fn measure(budget: Duration) -> MachineSpeed {
    let kernels = PROBED
        .into_iter()
        .filter_map(|tensor_type| kernel_speed(tensor_type, budget))
        .collect();
    MachineSpeed {
        read_bytes_per_second: read_bandwidth(STREAM_BYTES, budget),
        kernels,
    }
}

/// Bytes per second of summing `bytes` of memory.
fn read_bandwidth(bytes: usize, budget: Duration) -> f64 {
    let words: Vec<u64> = (0..bytes as u64 / 8).collect();
    let seconds = fastest(budget, || {
        // Eight sums, so that the additions do not wait for each other.
        let (groups, _) = words.as_chunks::<8>();
        let sums = groups.iter().fold([0_u64; 8], |mut sums, group| {
            sums.iter_mut()
                .zip(group)
                .for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
            sums
        });
        std::hint::black_box(sums);
    });
    size_of_val(words.as_slice()) as f64 / seconds
}

fn kernel_speed(tensor_type: TensorType, budget: Duration) -> Option<KernelSpeed> {
    // Zero bytes are valid weights in every format, and no kernel's speed depends on the values.
    let bytes = usize::try_from(tensor_type.bytes((PROBE_WIDTH * PROBE_WIDTH) as u64)?).ok()?;
    let mapping = Arc::new(Mapping::from_bytes(&vec![0; bytes]));
    let matrix = Matrix::new(&mapping, 0..bytes, tensor_type, PROBE_WIDTH, PROBE_WIDTH)?;
    let flops_per_second = |tokens: usize| {
        let inputs: Vec<f32> = (0..tokens * PROBE_WIDTH)
            .map(|index| (index % 7) as f32 - 3.0)
            .collect();
        let mut out = vec![0.0; tokens * PROBE_WIDTH];
        let seconds = fastest(budget, || {
            matrix.multiply(std::hint::black_box(&inputs), std::hint::black_box(&mut out))
        });
        2.0 * (PROBE_WIDTH * PROBE_WIDTH * tokens) as f64 / seconds
    };
    Some(KernelSpeed {
        tensor_type,
        decode_flops_per_second: flops_per_second(1),
        prefill_flops_per_second: flops_per_second(PROBE_TOKENS),
    })
}

/// Seconds of the fastest of the repetitions that fit into `budget`; one at least.
fn fastest(budget: Duration, mut probe: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut fastest = f64::INFINITY;
    loop {
        let start = Instant::now();
        probe();
        fastest = fastest.min(start.elapsed().as_secs_f64());
        if begin.elapsed() >= budget {
            return fastest.max(1e-9);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_probed_format_is_measured_and_plausible() {
        let budget = Duration::from_millis(5);
        for tensor_type in PROBED {
            let speed = kernel_speed(tensor_type, budget).unwrap();
            // 10 MFLOP/s is a microcontroller, 10 TFLOP/s no single core.
            for flops in [speed.decode_flops_per_second, speed.prefill_flops_per_second] {
                assert!((1e7..1e13).contains(&flops), "{tensor_type}: {flops}");
            }
        }
        let bandwidth = read_bandwidth(1 << 20, budget);
        assert!((1e7..1e13).contains(&bandwidth), "{bandwidth}");
    }
}
