//! The disk of each process in turn is full.

use std::time::Duration;

use fieldfare_tests::miniature::path::{DEPLOYMENT, MODEL};
use fieldfare_tests::miniature::{Device, Fleet, Setting, model};

use super::alone::{Disk, in_a_namespace};

/// How long it may take to notice a full disk, or room on it: retries have pauses of seconds, and a lapsed claim one of 15 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the system says of a full disk.
const FULL: &str = "No space left on device";

fn import(fleet: &Fleet, number: u64) -> String {
    let file = fleet.root.join(format!("{number}.gguf"));
    model::write(&file, number);
    fleet.import(&format!("import-{number}"), &file)
}

/// A fleet of one device with a release on it.
fn serving(fleet: &mut Fleet) -> String {
    let release = import(fleet, 1);
    fleet.roll_out(&release);
    fleet.settled("north", &release);
    release
}

fn serves(fleet: &Fleet, release: &str) {
    let answer = fleet.answer("north");
    let answer = answer.unwrap_or_else(|| panic!("north does not answer\n{}", fleet.logs()));
    assert_eq!(answer["fieldfare"]["manifest"], release, "{answer:#}");
}

#[test]
fn a_device_with_a_full_disk_serves_what_it_has_and_goes_on_when_there_is_room() {
    in_a_namespace(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut fleet = Fleet::without_devices(folder.path(), Setting::calm());
        let disk = Disk::mount(&folder.path().join("north"), 160);
        fleet.add_device("north", &Device::default());
        let first = serving(&mut fleet);
        let second = import(&fleet, 2);

        disk.fill();
        serves(&fleet, &first);
        fleet.ok(&[
            "deploy",
            DEPLOYMENT,
            "--release",
            &second,
            "--waves",
            "100%",
            "--observe",
            "0.05",
            "--detach",
        ]);
        fleet.until("the device does not say what is wrong", PATIENCE, || {
            fleet.status("north").to_string().contains(FULL)
        });
        fleet.until("the controller does not say what is wrong", PATIENCE, || {
            fleet.json(&["devices", "show", "north"]).to_string().contains(FULL)
        });
        serves(&fleet, &first);

        // After a power cut the disk is as full as it was.
        fleet.supervisor.kill("north");
        fleet.supervisor.until_ready("north");
        fleet.until("the device does not serve after a start", PATIENCE, || {
            fleet.answer("north").is_some()
        });
        serves(&fleet, &first);

        disk.empty();
        let ended = fleet.rollout_ended();
        if ended["phase"] != "completed" {
            // A device that cannot converge trips the gate; the release is as good as it was.
            assert_eq!(ended["phase"], "rolled back", "{ended:#}\n{}", fleet.logs());
            fleet.settled("north", &first);
            fleet.roll_out(&second);
        }
        fleet.settled("north", &second);
        serves(&fleet, &second);
        fleet.supervisor.stop();
    });
}

#[test]
fn a_controller_with_a_full_disk_says_so_and_goes_on_when_there_is_room() {
    in_a_namespace(|| {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::mount(&folder.path().join("controller"), 96);
        let mut fleet = Fleet::without_devices(folder.path(), Setting::calm());
        fleet.add_device("north", &Device::default());
        let first = serving(&mut fleet);

        disk.fill();
        // Whatever was written just so that it still fitted: soon nothing is taken any more, and it is said why.
        let mut said = String::new();
        fleet.until("the controller takes everything on a full disk", PATIENCE, || {
            let output = fleet.attempt(&["token", "create", "--role", "device"]);
            said = String::from_utf8_lossy(&output.stderr).into_owned();
            !output.status.success()
        });
        println!("{said}");
        let log = std::fs::read_to_string(fleet.log("controller")).unwrap();
        assert!(log.contains(FULL), "{said}\n{}", fleet.logs());
        serves(&fleet, &first);

        disk.empty();
        fleet.ok(&["token", "create", "--role", "device"]);
        let releases = fleet.json(&["release", "list"]);
        assert!(releases.to_string().contains(&first), "{releases:#}");
        let second = import(&fleet, 2);
        fleet.roll_out(&second);
        fleet.settled("north", &second);
        let controller = fleet.root.join("controller");
        let verdict = fleet.json(&["audit", "verify", controller.to_str().unwrap()]);
        assert_eq!(verdict[0]["whole"], true, "{verdict:#}");
        fleet.supervisor.stop();
    });
}

#[test]
fn a_trainer_with_a_full_disk_says_so_and_goes_on_when_there_is_room() {
    in_a_namespace(|| {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::mount(&folder.path().join("trainer"), 32);
        let mut fleet = Fleet::start(folder.path(), Setting::calm());
        fleet.ok(&["release", "delegate", MODEL, "--trainer", "kiln"]);
        let first = serving(&mut fleet);

        disk.fill();
        fleet.start_training("night");
        fleet.until("the trainer does not say what is wrong", PATIENCE, || {
            std::fs::read_to_string(fleet.log("trainer")).unwrap().contains(FULL)
        });
        serves(&fleet, &first);

        disk.empty();
        let job = fleet.concluded(&["job", "watch", "night"], 3);
        assert_eq!(job["stage"], "succeeded", "{job:#}\n{}", fleet.logs());
        let better = job["manifest_target"].as_str().unwrap();
        fleet.roll_out(better);
        fleet.settled("north", better);
        fleet.supervisor.stop();
    });
}
