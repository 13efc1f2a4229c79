//! What a device is and can do.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::{Arithmetic, ByteSize, BytesPerSecond, OpsPerSecond, Runtime, TokensPerSecond, VariantName};

/// Where the figures of a profile come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provenance {
    /// The device measured itself.
    Measured,
    /// The figures are those of another machine, which this device pretends to be.
    Emulated {
        /// The machine, for example `raspberry-pi-5`.
        of: String,
    },
}

/// Instruction set of a device's CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
    /// 32-bit Arm, version 7.
    Armv7,
    /// 64-bit RISC-V.
    Riscv64,
    /// Any other.
    Other,
}

/// Compute that the runtimes of this build can use, all cores together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct ComputeRates {
    /// 32-bit floating-point operations per second.
    pub f32: OpsPerSecond,
    /// 8-bit integer operations per second.
    pub int8: OpsPerSecond,
}

impl ComputeRates {
    /// The rate in this arithmetic.
    pub const fn rate(&self, arithmetic: Arithmetic) -> OpsPerSecond {
        match arithmetic {
            Arithmetic::F32 => self.f32,
            Arithmetic::Int8 => self.int8,
        }
    }
}

/// An accelerator that the device has and that no runtime of this build uses: recorded, shown, never counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Accelerator {
    /// What it is, for example `Ampere GPU, 1024 CUDA cores`.
    pub name: String,
    /// Its peak rate as its vendor states it.
    pub peak: OpsPerSecond,
    /// The number format of that rate, for example `fp16`.
    pub precision: String,
}

/// Speed that a device measured with the kernels it would use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct MeasuredSpeed {
    /// The variant, or the kernel's benchmark, that ran.
    pub variant: VariantName,
    /// Tokens generated per second at batch 1.
    pub tokens_per_second: TokensPerSecond,
}

/// What a device is and can do, declared and measured. Labels are kept apart from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct CapabilityProfile {
    /// Name of the device's model or class, for example `raspberry-pi-5`; at most 63 bytes, not empty.
    pub device_model: String,
    /// Where the figures come from.
    pub provenance: Provenance,
    /// Instruction set.
    pub arch: Arch,
    /// Features of the CPU that matter to kernels, for example `avx2`, `neon`, `dotprod`.
    pub cpu_features: BTreeSet<String>,
    /// Cores that are online, 1 to 1024.
    pub cores: u32,
    /// Memory of the machine, at most 4 TiB.
    pub memory: ByteSize,
    /// Memory that the owner lets the model use, at most `memory`.
    pub model_memory: ByteSize,
    /// Free bytes on the disk that holds releases.
    pub disk_free: ByteSize,
    /// Sequential read bandwidth of memory, at most 10 TB/s.
    pub memory_bandwidth: BytesPerSecond,
    /// Compute that this build's runtimes can use.
    pub compute: ComputeRates,
    /// Accelerators that no runtime of this build uses.
    pub accelerators: Vec<Accelerator>,
    /// Runtimes that this device can start.
    pub runtimes: BTreeSet<Runtime>,
    /// Measured speeds, if any.
    pub measured: Vec<MeasuredSpeed>,
}

/// An impossible profile: the field, what it says, and what is possible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// A number lies outside the possible range.
    #[error("profile field `{field}` is {value}; possible is {least} to {most}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// What the profile says.
        value: u64,
        /// Least possible value.
        least: u64,
        /// Greatest possible value.
        most: u64,
    },
    /// The model may use more memory than there is.
    #[error("profile field `model_memory` is {model_memory}, more than `memory`, which is {memory}")]
    ModelMemory {
        /// What the model may use.
        model_memory: ByteSize,
        /// What the machine has.
        memory: ByteSize,
    },
    /// A text is empty, too long or holds control characters.
    #[error("profile field `{field}` is {text:?}; expected 1 to {most} bytes of printable text")]
    Text {
        /// The field.
        field: &'static str,
        /// What the profile says, cut to its first 80 characters.
        text: String,
        /// Longest possible text.
        most: usize,
    },
    /// A list has too many entries.
    #[error("profile field `{field}` has {count} entries; at most {most} are accepted")]
    TooMany {
        /// The field.
        field: &'static str,
        /// Entries of the profile.
        count: usize,
        /// Most entries accepted.
        most: usize,
    },
}

fn in_range(field: &'static str, value: u64, least: u64, most: u64) -> Result<(), ProfileError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(ProfileError::OutOfRange {
        field,
        value,
        least,
        most,
    })
}

fn printable(field: &'static str, text: &str, most: usize) -> Result<(), ProfileError> {
    if !text.is_empty() && text.len() <= most && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(ProfileError::Text {
        field,
        text: text.chars().take(80).collect(),
        most,
    })
}

fn few(field: &'static str, count: usize, most: usize) -> Result<(), ProfileError> {
    if count <= most {
        Ok(())
    } else {
        Err(ProfileError::TooMany { field, count, most })
    }
}

impl CapabilityProfile {
    /// Refuses an impossible profile. Whoever receives a profile calls this before anything else.
    ///
    /// # Errors
    /// [`ProfileError`] names the first field that cannot be.
    pub fn validate(&self) -> Result<(), ProfileError> {
        printable("device_model", &self.device_model, limits::MAX_DEVICE_MODEL_BYTES)?;
        if let Provenance::Emulated { of } = &self.provenance {
            printable("provenance.of", of, limits::MAX_DEVICE_MODEL_BYTES)?;
        }
        in_range("cores", u64::from(self.cores), 1, u64::from(limits::MAX_CORES))?;
        in_range("memory", self.memory.get(), 1, limits::MAX_MEMORY_BYTES)?;
        if self.model_memory > self.memory {
            return Err(ProfileError::ModelMemory {
                model_memory: self.model_memory,
                memory: self.memory,
            });
        }
        in_range("disk_free", self.disk_free.get(), 0, limits::MAX_DISK_BYTES)?;
        let bandwidth = self.memory_bandwidth.get();
        in_range("memory_bandwidth", bandwidth, 1, limits::MAX_BANDWIDTH_BYTES_PER_SECOND)?;
        in_range("compute.f32", self.compute.f32.get(), 1, limits::MAX_OPS_PER_SECOND)?;
        in_range("compute.int8", self.compute.int8.get(), 1, limits::MAX_OPS_PER_SECOND)?;
        self.validate_lists()
    }

    fn validate_lists(&self) -> Result<(), ProfileError> {
        few("cpu_features", self.cpu_features.len(), limits::MAX_CPU_FEATURES)?;
        for feature in &self.cpu_features {
            printable("cpu_features", feature, limits::MAX_CPU_FEATURE_BYTES)?;
        }
        few("accelerators", self.accelerators.len(), limits::MAX_ACCELERATORS)?;
        for accelerator in &self.accelerators {
            printable("accelerators.name", &accelerator.name, limits::MAX_DEVICE_MODEL_BYTES)?;
            printable(
                "accelerators.precision",
                &accelerator.precision,
                limits::MAX_CPU_FEATURE_BYTES,
            )?;
            in_range(
                "accelerators.peak",
                accelerator.peak.get(),
                0,
                limits::MAX_OPS_PER_SECOND,
            )?;
        }
        few("measured", self.measured.len(), limits::MAX_VARIANTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference_profile;

    #[test]
    fn an_impossible_profile_is_refused_and_the_field_named() {
        type Change = fn(&mut CapabilityProfile);
        let cases: [(Change, &str); 14] = [
            (|p| p.cores = 0, "`cores` is 0"),
            (|p| p.cores = 100_000, "`cores` is 100000"),
            (|p| p.memory = ByteSize::from_gib(5000), "`memory` is 5368709120000"),
            (|p| p.memory = ByteSize::ZERO, "`memory` is 0"),
            (
                |p| p.model_memory = ByteSize::from_gib(9),
                "`model_memory` is 9.00 GiB, more than `memory`",
            ),
            (|p| p.disk_free = ByteSize::new(u64::MAX), "`disk_free`"),
            (
                |p| p.memory_bandwidth = BytesPerSecond::new(10_000_000_000_001),
                "`memory_bandwidth`",
            ),
            (|p| p.memory_bandwidth = BytesPerSecond::ZERO, "`memory_bandwidth` is 0"),
            (|p| p.compute.f32 = OpsPerSecond::ZERO, "`compute.f32`"),
            (|p| p.compute.int8 = OpsPerSecond::new(u64::MAX), "`compute.int8`"),
            (|p| p.device_model = String::new(), "`device_model`"),
            (|p| p.device_model = "pi\u{1b}[31m".into(), "`device_model`"),
            (
                |p| p.provenance = Provenance::Emulated { of: "x".repeat(64) },
                "`provenance.of`",
            ),
            (
                |p| p.cpu_features = (0..300).map(|i| i.to_string()).collect(),
                "`cpu_features` has 300",
            ),
        ];
        for (change, expected) in cases {
            let mut profile = reference_profile("raspberry-pi-5").unwrap();
            assert_eq!(profile.validate(), Ok(()));
            change(&mut profile);
            let error = profile.validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} has no {expected:?}");
        }
    }
}
