//! Capability profiles.

use std::collections::BTreeSet;

use fieldfare_fleet::{
    Accelerator, Arch, ByteSize, BytesPerSecond, CapabilityProfile, ComputeRates, MeasuredSpeed, OpsPerSecond,
    Provenance, Runtime, TokensPerSecond, VariantName,
};

use super::{ConversionError, ResultExt, error::enumerated};
use crate::v1;

impl From<Arch> for v1::Arch {
    fn from(arch: Arch) -> Self {
        match arch {
            Arch::X86_64 => Self::X8664,
            Arch::Aarch64 => Self::Aarch64,
            Arch::Armv7 => Self::Armv7,
            Arch::Riscv64 => Self::Riscv64,
            Arch::Other => Self::Other,
        }
    }
}

impl TryFrom<v1::Arch> for Arch {
    type Error = ConversionError;

    fn try_from(arch: v1::Arch) -> Result<Self, ConversionError> {
        match arch {
            v1::Arch::Unspecified => Err(ConversionError::new("arch", "is unspecified")),
            v1::Arch::X8664 => Ok(Self::X86_64),
            v1::Arch::Aarch64 => Ok(Self::Aarch64),
            v1::Arch::Armv7 => Ok(Self::Armv7),
            v1::Arch::Riscv64 => Ok(Self::Riscv64),
            v1::Arch::Other => Ok(Self::Other),
        }
    }
}

impl From<&CapabilityProfile> for v1::CapabilityProfile {
    fn from(profile: &CapabilityProfile) -> Self {
        Self {
            device_model: profile.device_model.clone(),
            emulated: match &profile.provenance {
                Provenance::Measured => String::new(),
                Provenance::Emulated { of } => of.clone(),
            },
            arch: v1::Arch::from(profile.arch).into(),
            cpu_features: profile.cpu_features.iter().cloned().collect(),
            cores: profile.cores,
            memory_bytes: profile.memory.get(),
            model_memory_bytes: profile.model_memory.get(),
            disk_free_bytes: profile.disk_free.get(),
            memory_bandwidth_bytes_per_second: profile.memory_bandwidth.get(),
            compute_f32_ops_per_second: profile.compute.f32.get(),
            compute_int8_ops_per_second: profile.compute.int8.get(),
            runtimes: profile
                .runtimes
                .iter()
                .filter_map(known_runtime)
                .map(i32::from)
                .collect(),
            measured: profile
                .measured
                .iter()
                .map(|speed| v1::MeasuredSpeed {
                    variant: speed.variant.to_string(),
                    tokens_per_second: speed.tokens_per_second.get(),
                })
                .collect(),
            accelerators: profile
                .accelerators
                .iter()
                .map(|accelerator| v1::Accelerator {
                    name: accelerator.name.clone(),
                    peak_ops_per_second: accelerator.peak.get(),
                    precision: accelerator.precision.clone(),
                })
                .collect(),
        }
    }
}

/// The wire's number for a runtime. `Runtime` is open for more, which an older wire cannot name: those are left out.
fn known_runtime(runtime: &Runtime) -> Option<v1::Runtime> {
    match runtime {
        Runtime::CandleGguf => Some(v1::Runtime::CandleGguf),
        _ => None,
    }
}

impl TryFrom<v1::CapabilityProfile> for CapabilityProfile {
    type Error = ConversionError;

    /// The profile, validated: an impossible one is refused with the field named. Runtimes that this version does not know
    /// are left out, since nothing could be placed on them.
    fn try_from(profile: v1::CapabilityProfile) -> Result<Self, ConversionError> {
        let measured = profile.measured.into_iter().enumerate().map(measured_speed);
        let converted = Self {
            arch: enumerated::<v1::Arch>("arch", profile.arch)?.try_into()?,
            device_model: profile.device_model,
            provenance: match profile.emulated {
                name if name.is_empty() => Provenance::Measured,
                of => Provenance::Emulated { of },
            },
            cpu_features: profile.cpu_features.into_iter().collect(),
            cores: profile.cores,
            memory: ByteSize::new(profile.memory_bytes),
            model_memory: ByteSize::new(profile.model_memory_bytes),
            disk_free: ByteSize::new(profile.disk_free_bytes),
            memory_bandwidth: BytesPerSecond::new(profile.memory_bandwidth_bytes_per_second),
            compute: ComputeRates {
                f32: OpsPerSecond::new(profile.compute_f32_ops_per_second),
                int8: OpsPerSecond::new(profile.compute_int8_ops_per_second),
            },
            accelerators: profile
                .accelerators
                .into_iter()
                .map(|accelerator| Accelerator {
                    name: accelerator.name,
                    peak: OpsPerSecond::new(accelerator.peak_ops_per_second),
                    precision: accelerator.precision,
                })
                .collect(),
            runtimes: runtimes(&profile.runtimes),
            measured: measured.collect::<Result<_, _>>()?,
        };
        converted.validate().field("profile")?;
        Ok(converted)
    }
}

fn runtimes(values: &[i32]) -> BTreeSet<Runtime> {
    let known = values.iter().filter_map(|&value| v1::Runtime::try_from(value).ok());
    known
        .filter(|runtime| *runtime == v1::Runtime::CandleGguf)
        .map(|_| Runtime::CandleGguf)
        .collect()
}

fn measured_speed((index, speed): (usize, v1::MeasuredSpeed)) -> Result<MeasuredSpeed, ConversionError> {
    let within = |error: ConversionError| error.within(format!("measured[{index}]"));
    Ok(MeasuredSpeed {
        variant: VariantName::new(speed.variant).field("variant").map_err(within)?,
        tokens_per_second: TokensPerSecond::new(speed.tokens_per_second)
            .field("tokens_per_second")
            .map_err(within)?,
    })
}
