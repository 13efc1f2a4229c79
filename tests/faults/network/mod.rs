//! Between the processes of a fleet lies a network that is slow, far, broken or dead.
//!
//! The proxy of `fieldfare_tests::network` carries every connection of the devices, the trainer and the operator. `FIELDFARE_SEED`
//! chooses what happens to which of them.

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

/// The whole path under one weather: a release out, a round, the better release out, and the way back.
fn completes_in(weather: Weather) {
    let seed = number("FIELDFARE_SEED", 1);
    let folder = tempfile::tempdir().unwrap();
    let (fleet, network) = fleet(folder.path(), seed);
    network.turn(weather);
    let file = fleet.root.join("nonsense.gguf");
    model::write(&file, seed);
    let first = fleet.import("first", &file);
    fleet.roll_out(&first);
    let job = fleet.train("night");
    assert_eq!(job["stage"], "succeeded", "{weather:?}: {job:#}\n{}", fleet.logs());
    fleet.roll_out(job["manifest_target"].as_str().unwrap());
    fleet.roll_back();
    for device in DEVICES {
        fleet.settled(device, &first);
        assert!(fleet.answer(device).is_some(), "{weather:?}: {device} does not answer");
    }
    let met = network.tally();
    println!("{weather:?}, seed {seed}: {met:?}");
    match weather {
        Weather::Latency | Weather::Slow => assert!(met.delayed > 100, "{weather:?} was not met: {met:?}"),
        _ => assert!(met.broken > 0, "{weather:?} was not met: {met:?}"),
    }
    network.turn(Weather::Calm);
    fleet.supervisor.stop();
}

#[test]
fn the_path_completes_over_long_ways() {
    completes_in(Weather::Latency);
}

#[test]
fn the_path_completes_at_a_low_rate() {
    completes_in(Weather::Slow);
}

#[test]
fn the_path_completes_where_connections_are_lost() {
    completes_in(Weather::Losses(8));
}

#[test]
fn the_path_completes_where_connections_are_reset() {
    completes_in(Weather::Resets(8));
}

#[test]
fn the_path_completes_where_half_of_a_connection_dies() {
    completes_in(Weather::HalfOpen(3));
}
