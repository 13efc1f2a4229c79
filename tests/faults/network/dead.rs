//! Who finds out that the other end is gone, and when.

use std::time::{Duration, Instant};

use fieldfare_tests::environment::number;
use fieldfare_tests::miniature::{DEVICES, Fleet, model};
use fieldfare_tests::network::{HOST, Silence, Weather};

/// Within this time a dead peer is noticed, by whoever talks to it and however.
const NOTICED: Duration = Duration::from_secs(30);

/// For what is looked at from outside: a command starts, a poll comes round.
const LOOKING: Duration = Duration::from_secs(2);

/// Whether the controller, asked from beside the network, believes that somebody of this list is connected.
fn is_connected(fleet: &Fleet, list: &str) -> bool {
    let listed = fleet.json(&[list, "list", "--context", "beside"]);
    listed.as_array().unwrap().iter().any(|one| one["connected"] == true)
}

/// A context that reaches the controller without the network.
fn go_beside(fleet: &Fleet) {
    let beside = fleet.root.join("beside");
    std::fs::create_dir(&beside).unwrap();
    for file in std::fs::read_dir(fleet.root.join("controller/operator")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), beside.join(file.file_name())).unwrap();
    }
    let endpoints = std::fs::read_to_string(beside.join("endpoints.json")).unwrap();
    let endpoints = endpoints.replace(HOST, "127.0.0.1");
    std::fs::write(beside.join("endpoints.json"), endpoints).unwrap();
    fleet.ok(&["context", "add", "beside", "--from", beside.to_str().unwrap()]);
    fleet.ok(&["context", "use", "miniature"]);
}

fn says(fleet: &Fleet, process: &str, words: &str) -> bool {
    let log = std::fs::read_to_string(fleet.log(process)).unwrap();
    log.contains(words)
}

#[test]
fn a_dead_peer_is_noticed_within_30_s_by_either_side() {
    let seed = number("FIELDFARE_SEED", 1);
    let folder = tempfile::tempdir().unwrap();
    let (fleet, network) = super::fleet(folder.path(), seed);
    go_beside(&fleet);
    let file = fleet.root.join("nonsense.gguf");
    model::write(&file, seed);
    let release = fleet.import("first", &file);
    fleet.roll_out(&release);

    // The ways to the trainer's rounds break first, in the midst of an exchange, so that all the others are in use then.
    network.turn(Weather::RoundsSilent);
    fleet.start_training("night");
    fleet.until("no device goes to the trainer", NOTICED, || {
        !network.silences().is_empty()
    });
    network.turn(Weather::Dead);
    let dead = Instant::now();
    let mut notices = Notices::default();
    let mut silences = network.silences();
    fleet.until("a dead network is not noticed by everybody", NOTICED + LOOKING, || {
        silences = network.silences();
        let late: Vec<_> = silences
            .iter()
            .filter(|silence| silence.unnoticed() > NOTICED)
            .collect();
        assert!(late.is_empty(), "{late:#?}\n{}", fleet.logs());
        // Others are made all the while.
        silences.retain(|silence| silence.began < dead + LOOKING);
        notices.look(&fleet) && silences.iter().all(Silence::is_noticed)
    });
    println!("noticed after {:?} on {} connections", dead.elapsed(), silences.len());
    let slowest = silences.iter().map(Silence::unnoticed).max();
    println!("the slowest took {slowest:?}");

    // Serving does not depend on any of this.
    for device in DEVICES {
        assert!(fleet.answer(device).is_some(), "{device} does not answer");
    }
    network.turn(Weather::Calm);
    let job = fleet.concluded(&["job", "watch", "night"], 3);
    assert_eq!(job["stage"], "succeeded", "{job:#}\n{}", fleet.logs());
    fleet.supervisor.stop();
}

/// Who has noticed so far.
#[derive(Debug, Default)]
struct Notices {
    devices: bool,
    controller: bool,
    trainer: bool,
}

impl Notices {
    fn look(&mut self, fleet: &Fleet) -> bool {
        let connected = |list| is_connected(fleet, list);
        let is_cut_off = |device: &&str| fleet.status(device)["controller"]["state"] != "connected";
        self.devices = self.devices || DEVICES.iter().all(is_cut_off);
        self.controller = self.controller || !(connected("devices") || connected("trainers"));
        self.trainer = self.trainer || says(fleet, "trainer", "the controller's hints ended");
        self.devices && self.controller && self.trainer
    }
}
