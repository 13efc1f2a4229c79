//! `fieldfare-agent profile` on this machine.

use std::process::Command;

use fieldfare_fleet::{CapabilityProfile, Provenance};

fn profile(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_fieldfare-agent"))
        .arg("profile")
        .args(arguments)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_machine_measures_itself_plausibly() {
    let profile: CapabilityProfile = serde_json::from_str(&profile(&["--output", "json"])).unwrap();
    assert_eq!(profile.validate(), Ok(()));
    assert_eq!(profile.provenance, Provenance::Measured);
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(profile.cores as usize, cores);
    let arch = format!("{:?}", profile.arch).to_lowercase();
    assert_eq!(arch, std::env::consts::ARCH.to_lowercase());

    // MemTotal leaves out what the kernel keeps for itself, and sysinfo does too.
    let info = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    let kib: u64 = total.trim().trim_end_matches("kB").trim().parse().unwrap();
    assert_eq!(profile.memory.get(), kib * 1024);
    assert!(profile.model_memory > fieldfare_fleet::ByteSize::ZERO && profile.model_memory < profile.memory);
    assert!(profile.disk_free > fieldfare_fleet::ByteSize::ZERO);

    // One core of anything from a single-board computer to a server, busy or not: 0.5 to 2000 GB/s, 0.1 GFLOP/s to 10 TFLOP/s.
    let within = |value: u64, least: f64, most: f64| (least..most).contains(&(value as f64));
    assert!(
        within(profile.memory_bandwidth.get(), 0.5e9, 2e12),
        "{}",
        profile.memory_bandwidth
    );
    for rate in [profile.compute.f32, profile.compute.int8] {
        assert!(within(rate.get(), 1e8, 1e13), "{rate}");
    }
    let names: Vec<&str> = profile.measured.iter().map(|speed| speed.variant.as_str()).collect();
    for kernel in ["kernel-f32", "kernel-f16", "kernel-q8-0", "kernel-q4-0"] {
        assert!(names.contains(&kernel), "{names:?}");
    }
    for speed in &profile.measured {
        let tokens = speed.tokens_per_second.get();
        assert!(
            (0.01..10_000.0).contains(&tokens),
            "{}: {tokens} tokens/s of a 1.1B model",
            speed.variant
        );
    }
    #[cfg(target_arch = "x86_64")]
    {
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        for feature in ["avx2", "fma", "f16c"] {
            let has = flags
                .lines()
                .any(|line| line.starts_with("flags") && line.split(' ').any(|flag| flag == feature));
            assert_eq!(profile.cpu_features.contains(feature), has, "{feature}");
        }
    }
}

#[test]
fn a_profile_for_people_names_what_was_measured() {
    let text = profile(&[]);
    for name in [
        "device",
        "arch",
        "cores",
        "memory",
        "disk",
        "bandwidth",
        "compute",
        "kernel",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "no {name} in\n{text}");
    }
}
