//! The units of `packaging/systemd`, judged by systemd itself and by the binaries that they start.

use std::path::{Path, PathBuf};
use std::process::Command;

use fieldfare_tests::binaries::fieldfare;

/// The highest exposure that `systemd-analyze security` may find, in tenths: it calls up to 2.0 well protected.
const EXPOSURE: &str = "15";

fn units() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
    let mut units: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    units.sort();
    assert_eq!(units.len(), 3, "{units:?}");
    units
}

/// The values of a setting, which may be in comments as an example.
fn values<'a>(unit: &'a str, setting: &str) -> Vec<&'a str> {
    unit.lines()
        .filter_map(|line| line.split_once(setting))
        .map(|(_, value)| value)
        .collect()
}

fn analyse(arguments: &[&str], unit: &Path) {
    let output = Command::new("systemd-analyze").args(arguments).arg(unit).output();
    let output = output.expect("systemd-analyze is installed: ./test sees to it");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.is_empty(),
        "{arguments:?} {}: {said}",
        unit.display()
    );
}

#[test]
fn systemd_takes_every_unit_and_finds_it_well_protected() {
    let folder = tempfile::tempdir().unwrap();
    for unit in units() {
        let name = unit.file_stem().unwrap().to_str().unwrap().to_owned();
        // Where the binaries are on this machine.
        let binary = fieldfare().with_file_name(&name);
        let text = std::fs::read_to_string(&unit).unwrap();
        let here = folder.path().join(unit.file_name().unwrap());
        let moved = text.replace(&format!("/usr/bin/{name}"), binary.to_str().unwrap());
        assert_ne!(moved, text);
        std::fs::write(&here, moved).unwrap();
        analyse(&["verify", "--man=no"], &here);
        analyse(
            &[
                "security",
                "--no-pager",
                "--offline=true",
                &format!("--threshold={EXPOSURE}"),
            ],
            &here,
        );
    }
}

#[test]
fn the_binaries_take_what_the_units_tell_them() {
    for unit in units() {
        let name = unit.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&unit).unwrap();
        let options = values(&text, "OPTIONS=\"")[0].trim_end_matches('"');
        let start = values(&text, "ExecStart=")[0].replace("$OPTIONS", options);
        let mut words = start.split_whitespace();
        assert_eq!(words.next(), Some(&*format!("/usr/bin/{name}")));
        // With every argument understood, help is what is left to do.
        let output = Command::new(fieldfare().with_file_name(&name))
            .args(words)
            .arg("--help")
            .output();
        let output = output.unwrap();
        assert!(
            output.status.success(),
            "{start}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
