//! What this machine is and can do, measured.

use std::collections::BTreeSet;
use std::path::Path;

use fieldfare_fleet::{
    Arch, ByteSize, BytesPerSecond, CapabilityProfile, ComputeRates, MeasuredSpeed, OpsPerSecond, Provenance, Runtime,
    TokensPerSecond, VariantName,
};
use fieldfare_lm::config::{Architecture, DecoderConfig, Rope, RopePairing};
use fieldfare_lm::gguf::TensorType;
use fieldfare_lm::speed::{self, MachineSpeed};

use crate::limits::MEASURE_TIME;

/// Why the machine could not be measured.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what}")]
pub struct MeasureError {
    /// What was to be read.
    what: &'static str,
    /// What the system says.
    #[source]
    source: std::io::Error,
}

/// Measures this machine; free disk is that of the folder.
///
/// Runs for about ten times [`MEASURE_TIME`]. Compute and bandwidth are those of one core, because a serving process of this
/// build computes on one thread: what it cannot use is not counted.
///
/// # Errors
/// The system hides its memory or disk.
pub fn profile(folder: &Path) -> Result<CapabilityProfile, MeasureError> {
    let measured = speed::measure(MEASURE_TIME);
    let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
    let memory = memory_bytes();
    let rate = |kernel: TensorType| {
        let flops = measured.kernels.iter().find(|speed| speed.tensor_type == kernel);
        OpsPerSecond::new(flops.map_or(1, |speed| speed.decode_flops_per_second as u64).max(1))
    };
    Ok(CapabilityProfile {
        device_model: device_model(),
        provenance: Provenance::Measured,
        arch: arch(),
        cpu_features: cpu_features(),
        cores,
        memory: ByteSize::new(memory),
        model_memory: ByteSize::new(memory / 2),
        disk_free: disk_free(folder)?,
        memory_bandwidth: BytesPerSecond::new((measured.read_bytes_per_second as u64).max(1)),
        compute: ComputeRates {
            f32: rate(TensorType::F32),
            int8: rate(TensorType::Q8_0),
        },
        accelerators: Vec::new(),
        runtimes: BTreeSet::from([Runtime::CandleGguf]),
        measured: kernel_speeds(&measured),
    })
}

/// A profile for people.
pub fn text(profile: &CapabilityProfile) -> String {
    let features: Vec<&str> = profile.cpu_features.iter().map(String::as_str).collect();
    let mut rows = vec![
        ("device", profile.device_model.clone()),
        ("arch", format!("{:?} {}", profile.arch, features.join(" "))),
        ("cores", profile.cores.to_string()),
        (
            "memory",
            format!("{}, of which models may use {}", profile.memory, profile.model_memory),
        ),
        ("disk", format!("{} free", profile.disk_free)),
        ("bandwidth", format!("{} read by one core", profile.memory_bandwidth)),
        (
            "compute",
            format!("{} f32, {} int8 on one core", profile.compute.f32, profile.compute.int8),
        ),
    ];
    rows.extend(profile.measured.iter().map(|speed| {
        (
            "kernel",
            format!("{}: {} of a 1.1B model", speed.variant, speed.tokens_per_second),
        )
    }));
    rows.iter()
        .map(|(name, value)| format!("{name:<12}{value}\n"))
        .collect()
}

/// Free bytes on the disk that holds a path, for those who are not root.
///
/// # Errors
/// The system refuses; also where the path does not exist.
pub fn disk_free(path: &Path) -> Result<ByteSize, MeasureError> {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stats = rustix::fs::statvfs(existing);
    let stats = stats.map_err(|error| MeasureError {
        what: "the free disk",
        source: error.into(),
    })?;
    Ok(ByteSize::new(stats.f_bavail.saturating_mul(stats.f_frsize)))
}

/// Load average of the last minute, per core.
pub fn load_per_core() -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // Fixed point with 16 fractional bits (linux/sysinfo.h, SI_LOAD_SHIFT).
    rustix::system::sysinfo().loads[0] as f64 / 65_536.0 / cores as f64
}

/// Bytes of memory that a new process could use now, as the kernel estimates them.
pub fn available_memory() -> ByteSize {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok());
    ByteSize::from_kib(kib.unwrap_or(0))
}

fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    u64::from(info.mem_unit) * info.totalram as u64
}

/// Tokens per second of the kernels, computing alone, on a decoder of the size of TinyLlama-1.1B
/// (huggingface.co/TinyLlama/TinyLlama-1.1B-Chat-v1.0, config.json).
fn kernel_speeds(measured: &MachineSpeed) -> Vec<MeasuredSpeed> {
    let tiny_llama = DecoderConfig {
        architecture: Architecture::Llama,
        width: 2048,
        layers: 22,
        heads: 32,
        kv_heads: 4,
        head_width: 64,
        feed_forward: 5632,
        vocabulary: 32_000,
        context: 2048,
        norm_epsilon: 1e-5,
        rope: Rope {
            theta: 10_000.0,
            dimensions: 64,
            position_divisor: 1.0,
            pairing: RopePairing::Interleaved,
        },
        tied_embeddings: false,
    };
    let speed = |kernel: &speed::KernelSpeed| {
        let name = format!("kernel-{}", kernel.tensor_type.name().to_lowercase().replace('_', "-"));
        Some(MeasuredSpeed {
            variant: VariantName::new(name).ok()?,
            tokens_per_second: TokensPerSecond::clamped(kernel.compute_bound_tokens_per_second(&tiny_llama, 0)),
        })
    };
    measured.kernels.iter().filter_map(speed).collect()
}

const fn arch() -> Arch {
    if cfg!(target_arch = "x86_64") {
        Arch::X86_64
    } else if cfg!(target_arch = "aarch64") {
        Arch::Aarch64
    } else if cfg!(target_arch = "arm") {
        Arch::Armv7
    } else if cfg!(target_arch = "riscv64") {
        Arch::Riscv64
    } else {
        Arch::Other
    }
}

/// What the board calls itself, or else its CPU, cut to printable text.
fn device_model() -> String {
    let board = std::fs::read_to_string("/proc/device-tree/model").ok();
    let cpu = || {
        let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
        text.lines().find_map(|line| {
            line.strip_prefix("model name")?
                .split_once(':')
                .map(|(_, name)| name.to_owned())
        })
    };
    let text = board.or_else(cpu).unwrap_or_default();
    let text: String = text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
    let text: String = text
        .trim()
        .chars()
        .take(fieldfare_fleet::limits::MAX_DEVICE_MODEL_BYTES)
        .collect();
    if text.is_empty() { "unknown".to_owned() } else { text }
}

/// The features that decide which kernels run.
fn cpu_features() -> BTreeSet<String> {
    let mut features = BTreeSet::new();
    let mut has = |present: bool, name: &str| {
        if present {
            features.insert(name.to_owned());
        }
    };
    #[cfg(target_arch = "x86_64")]
    {
        has(is_x86_feature_detected!("avx2"), "avx2");
        has(is_x86_feature_detected!("fma"), "fma");
        has(is_x86_feature_detected!("f16c"), "f16c");
        has(is_x86_feature_detected!("avx512f"), "avx512f");
        has(is_x86_feature_detected!("avx512vnni"), "avx512vnni");
    }
    #[cfg(target_arch = "aarch64")]
    {
        has(std::arch::is_aarch64_feature_detected!("neon"), "neon");
        has(std::arch::is_aarch64_feature_detected!("dotprod"), "dotprod");
        has(std::arch::is_aarch64_feature_detected!("i8mm"), "i8mm");
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    has(false, "");
    features
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_possible_profile() {
        let profile = profile(Path::new("/tmp/does/not/exist/yet")).unwrap();
        assert_eq!(profile.validate(), Ok(()));
        assert_eq!(profile.provenance, Provenance::Measured);
        assert_eq!(profile.measured.len(), speed::PROBED.len());
        assert!(available_memory() > ByteSize::ZERO && available_memory() <= profile.memory);
        assert!(load_per_core() >= 0.0);
    }
}
