//! Between the processes of a fleet lies a network that is slow, far, broken or dead.
//!
//! The proxy of `fieldfare_tests::network` carries every connection of the devices, the trainer and the operator. `FIELDFARE_SEED`
//! chooses what happens to which of them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod dead;

use fieldfare_tests::environment::number;
use fieldfare_tests::miniature::path::MODEL;
use fieldfare_tests::miniature::{DEVICES, Fleet, Ports, Setting, model};
use fieldfare_tests::network::{HOST, Network, Weather};

/// A fleet whose connections all lead through the network.
fn fleet(root: &std::path::Path, seed: u64) -> (Fleet, Network) {
    let ports = Ports::free();
    let network = Network::start(&ports, seed);
    let setting = Setting {
        ports,
        host: HOST,
        ..Setting::calm()
    };
    let fleet = Fleet::start(root, setting);
    fleet.ok(&["release", "delegate", MODEL, "--trainer", "kiln"]);
    (fleet, network)
}

#[test]
fn the_path_completes_in_any_weather() {
    let seed = number("FIELDFARE_SEED", 1);
    let folder = tempfile::tempdir().unwrap();
    let (fleet, network) = fleet(folder.path(), seed);
    let weathers = [
        Weather::Latency,
        Weather::Slow,
        Weather::Losses(8),
        Weather::Resets(8),
        Weather::HalfOpen(3),
    ];
    for (turn, weather) in weathers.into_iter().enumerate() {
        let (begun, before) = (std::time::Instant::now(), network.tally());
        network.turn(weather);
        let file = fleet.root.join(format!("{turn}.gguf"));
        model::write(&file, seed.wrapping_add(turn as u64));
        let first = fleet.import(&format!("import-{turn}"), &file);
        fleet.roll_out(&first);
        let job = fleet.train(&format!("night-{turn}"));
        assert_eq!(job["stage"], "succeeded", "{weather:?}: {job:#}\n{}", fleet.logs());
        let better = job["manifest_target"].as_str().unwrap().to_owned();
        fleet.roll_out(&better);
        fleet.roll_back();
        for device in DEVICES {
            fleet.settled(device, &first);
            assert!(fleet.answer(device).is_some(), "{weather:?}: {device} does not answer");
        }
        let after = network.tally();
        println!("{weather:?}: {:?}, from {before:?} to {after:?}", begun.elapsed());
        match weather {
            Weather::Latency | Weather::Slow => {
                assert!(after.delayed > before.delayed + 100, "{weather:?} was not met")
            }
            _ => assert!(after.broken > before.broken, "{weather:?} was not met"),
        }
    }
    network.turn(Weather::Calm);
    fleet.supervisor.stop();
}
