//! Every sync of every process takes its time, as on a worn-out SD card.

use fieldfare_tests::binaries::fieldfare;
use fieldfare_tests::miniature::path::MODEL;
use fieldfare_tests::miniature::{DEVICES, Fleet, Setting, model};

/// How long a sync takes, in milliseconds.
const SYNC_MS: &str = "150";

#[test]
fn the_path_completes_on_slow_disks() {
    let folder = tempfile::tempdir().unwrap();
    let shim = fieldfare().with_file_name("libfieldfare_fault_shim.so");
    let mut setting = Setting::calm();
    setting.variables = vec![
        ("LD_PRELOAD".to_owned(), shim.display().to_string()),
        ("FIELDFARE_FAULT_SLOW_SYNC_MS".to_owned(), SYNC_MS.to_owned()),
    ];
    let fleet = Fleet::start(folder.path(), setting);
    fleet.ok(&["release", "delegate", MODEL, "--trainer", "kiln"]);
    let file = fleet.root.join("nonsense.gguf");
    model::write(&file, 1);
    let first = fleet.import("import", &file);
    fleet.roll_out(&first);
    let job = fleet.train("night");
    assert_eq!(job["stage"], "succeeded", "{job:#}\n{}", fleet.logs());
    let better = job["manifest_target"].as_str().unwrap();
    fleet.roll_out(better);
    fleet.roll_back();
    for device in DEVICES {
        fleet.settled(device, &first);
        assert!(fleet.answer(device).is_some(), "{device} does not answer");
    }
    fleet.supervisor.stop();
}
