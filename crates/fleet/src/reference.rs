//! Profiles of five devices that Fieldfare is meant for, from their data sheets.
//!
//! Memory bandwidth is the data sheet's peak. Compute is what the CPU runtime of this build can use: cores times clock
//! times operations per cycle of their vector units, with 8-bit products through widening multiply-adds, because no
//! kernel of this build needs the dot-product instructions. Accelerators are recorded and not counted. Peaks are upper
//! bounds; what such devices really reach enters as a [`crate::placement::Correction`].

use std::collections::BTreeSet;

use crate::{
    Accelerator, Arch, ByteSize, BytesPerSecond, CapabilityProfile, ComputeRates, OpsPerSecond, Provenance, Runtime,
};

/// Figures of one device.
struct Sheet {
    name: &'static str,
    arch: Arch,
    features: &'static [&'static str],
    cores: u32,
    memory_gib: u64,
    model_memory_gib: u64,
    disk_free_gib: u64,
    bandwidth_mb: u64,
    f32_gflops: u64,
    int8_gops: u64,
    accelerator: (&'static str, u64, &'static str),
}

const NEON: &[&str] = &["neon", "fp", "asimd", "dotprod"];

const SHEETS: [Sheet; 5] = [
    // Raspberry Pi 5 product brief (Raspberry Pi Ltd, 2023): BCM2712, 4 Cortex-A76 at 2.4 GHz, LPDDR4X-4267 on 32 bits:
    // 4267e6 * 4 B = 17.1 GB/s. Cortex-A76: two 128-bit pipes, 16 flop a cycle: 4 * 2.4e9 * 16 = 153.6 Gflop/s.
    Sheet {
        name: "raspberry-pi-5",
        arch: Arch::Aarch64,
        features: NEON,
        cores: 4,
        memory_gib: 8,
        model_memory_gib: 4,
        disk_free_gib: 16,
        bandwidth_mb: 17_068,
        f32_gflops: 153,
        int8_gops: 153,
        accelerator: ("VideoCore VII", 76, "fp32"),
    },
    // NVIDIA Jetson Orin NX Series Modules Data Sheet DS-10712-001 (16 GB module): 8 Cortex-A78AE at 2.0 GHz, 128-bit
    // LPDDR5 at 3200 MHz, 102.4 GB/s. Cortex-A78: 16 flop a cycle: 8 * 2.0e9 * 16 = 256 Gflop/s. The accelerator's rate
    // is the 6 Tflop/s at fp16 that the fleet's owner states.
    Sheet {
        name: "jetson-orin-nx",
        arch: Arch::Aarch64,
        features: NEON,
        cores: 8,
        memory_gib: 16,
        model_memory_gib: 8,
        disk_free_gib: 64,
        bandwidth_mb: 102_400,
        f32_gflops: 256,
        int8_gops: 256,
        accelerator: ("Ampere GPU, 1024 CUDA cores", 6_000, "fp16"),
    },
    // Apple, "MacBook Pro (14-inch, 2023) - Technical Specifications": M2 Pro, 12 CPU cores (8 + 4), 19 GPU cores,
    // 200 GB/s. Only the eight performance cores are counted: 3.49 GHz (measured by the community, Apple states none),
    // four 128-bit pipes, 32 flop a cycle: 8 * 3.49e9 * 32 = 893 Gflop/s.
    Sheet {
        name: "m2-pro-laptop",
        arch: Arch::Aarch64,
        features: NEON,
        cores: 12,
        memory_gib: 32,
        model_memory_gib: 16,
        disk_free_gib: 256,
        bandwidth_mb: 200_000,
        f32_gflops: 893,
        int8_gops: 893,
        accelerator: ("M2 Pro GPU, 19 cores", 6_800, "fp32"),
    },
    // Qualcomm Snapdragon 8 Gen 2 (SM8550) product brief: LPDDR5X at 4200 MHz on 4 x 16 bits: 8400e6 * 8 B = 67.2 GB/s.
    // One Cortex-X3 at 3.2 GHz (32 flop a cycle) and four Cortex-A715/A710 at 2.8 GHz (16 each): 281 Gflop/s; the three
    // Cortex-A510 are not counted. The accelerator's rate is the 2.5 Tflop/s that the fleet's owner states.
    Sheet {
        name: "snapdragon-phone",
        arch: Arch::Aarch64,
        features: NEON,
        cores: 8,
        memory_gib: 8,
        model_memory_gib: 3,
        disk_free_gib: 32,
        bandwidth_mb: 67_200,
        f32_gflops: 281,
        int8_gops: 281,
        accelerator: ("Hexagon DSP", 2_500, "fp16"),
    },
    // AAEON UP Squared with 4 GB and the AI Core X module (Intel Movidius Myriad X, 4 Top/s in total after Intel's
    // announcement of 2017): Intel Pentium N4200, 4 Goldmont cores at 1.1 GHz (base clock), LPDDR4-2400 on 128 bits:
    // 2400e6 * 16 B = 38.4 GB/s, the processor's greatest. Goldmont has SSE4.2 and no AVX: one 128-bit multiply and one
    // add a cycle, 4 * 1.1e9 * 8 = 35 Gflop/s; 8-bit products at twice that.
    Sheet {
        name: "intel-npu",
        arch: Arch::X86_64,
        features: &["sse4_1", "sse4_2", "ssse3"],
        cores: 4,
        memory_gib: 4,
        model_memory_gib: 2,
        disk_free_gib: 16,
        bandwidth_mb: 38_400,
        f32_gflops: 35,
        int8_gops: 70,
        accelerator: ("Movidius Myriad X", 4_000, "int8"),
    },
];

impl Sheet {
    fn profile(&self) -> CapabilityProfile {
        let giga = |value: u64| OpsPerSecond::new(value * 1_000_000_000);
        let (name, peak, precision) = self.accelerator;
        CapabilityProfile {
            device_model: self.name.to_owned(),
            provenance: Provenance::Emulated {
                of: self.name.to_owned(),
            },
            arch: self.arch,
            cpu_features: self.features.iter().map(|feature| (*feature).to_owned()).collect(),
            cores: self.cores,
            memory: ByteSize::from_gib(self.memory_gib),
            model_memory: ByteSize::from_gib(self.model_memory_gib),
            disk_free: ByteSize::from_gib(self.disk_free_gib),
            memory_bandwidth: BytesPerSecond::new(self.bandwidth_mb * 1_000_000),
            compute: ComputeRates {
                f32: giga(self.f32_gflops),
                int8: giga(self.int8_gops),
            },
            accelerators: vec![Accelerator {
                name: name.to_owned(),
                peak: giga(peak),
                precision: precision.to_owned(),
            }],
            runtimes: BTreeSet::from([Runtime::CandleGguf]),
            measured: Vec::new(),
        }
    }
}

/// The five devices: Raspberry Pi 5, Jetson Orin NX, M2 Pro laptop, Snapdragon-class phone, Intel NPU module. Memory for
/// the model and free disk are assumptions about their owners; everything else is from data sheets, so that whoever
/// shows such a profile shows it as emulated.
pub fn reference_profiles() -> Vec<CapabilityProfile> {
    SHEETS.iter().map(Sheet::profile).collect()
}

/// The profile of one of the five devices by its name, for example `raspberry-pi-5`.
pub fn reference_profile(name: &str) -> Option<CapabilityProfile> {
    SHEETS.iter().find(|sheet| sheet.name == name).map(Sheet::profile)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ProfileClass, TrustTier};

    #[test]
    fn the_reference_profiles_are_possible_and_distinct() {
        let profiles = reference_profiles();
        let classes: BTreeSet<ProfileClass> = profiles
            .iter()
            .map(|profile| ProfileClass::of(profile, TrustTier::Unattested))
            .collect();
        assert_eq!(classes.len(), 5);
        for profile in &profiles {
            assert_eq!(profile.validate(), Ok(()), "{}", profile.device_model);
            assert_eq!(reference_profile(&profile.device_model).as_ref(), Some(profile));
            assert!(matches!(profile.provenance, Provenance::Emulated { .. }));
        }
        assert_eq!(profiles[0].memory_bandwidth.to_string(), "17.1 GB/s");
    }
}
