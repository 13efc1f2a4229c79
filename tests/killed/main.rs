//! Killed anywhere: the path of a release and of a round, with every process dying again and again.
//!
//! A fleet of the real binaries goes round after round: a federated job, its release rolled out, and rolled back. All the while
//! the controller, the trainer and the agents die by `kill -9`: at named points (`fieldfare-crash`), at the n-th fsync, rename or
//! send, before, within or after it, and at any other moment. After each turn the promises are checked.
//!
//! In a second test the machine of a process loses its power with it, and of what was not synced any part is gone.
//!
//! `FIELDFARE_KILLS` is the number of deaths (200), `FIELDFARE_SEED` what chooses them; both are printed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod power;
mod promises;

use std::sync::{Arc, Mutex, PoisonError};

use fieldfare_tests::environment::number;
use fieldfare_tests::miniature::path::MODEL;
use fieldfare_tests::miniature::{Fleet, Setting, model, model::Random};
use fieldfare_tests::supervised::{Choice, Fault};

/// Deaths of each process in one step of the path, after which it is left alone until the next one.
const DEATHS_PER_STEP: u32 = 4;

/// One fleet at a time: two cores are few for one.
static ALONE: Mutex<()> = Mutex::new(());

fn shim() -> std::path::PathBuf {
    let shim = fieldfare_tests::binaries::fieldfare().with_file_name("libfieldfare_fault_shim.so");
    assert!(shim.is_file(), "{} is not there", shim.display());
    shim
}

/// What the n-th life of a process dies of: a function of the seed, the process and the number alone.
fn choice(seed: u64) -> Choice {
    let shim = shim();
    Arc::new(move |process: &str, life: u64| {
        let mixed = process
            .bytes()
            .fold(seed, |mixed, byte| mixed.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let mut random = Random(mixed.wrapping_mul(1_000_003).wrapping_add(life));
        let points = match process {
            "controller" => fieldfare_crash::CONTROLLER,
            "trainer" => fieldfare_crash::TRAINER,
            _ => fieldfare_crash::AGENT,
        };
        if random.below(2) == 0 {
            let point = points[usize::try_from(random.below(points.len() as u64)).unwrap()];
            let words = format!("{point}:{}", 1 + random.below(3));
            return Fault {
                variables: vec![("FIELDFARE_CRASH_AT".into(), words.clone())],
                words,
            };
        }
        // Calls are many at first and matter most then; later ones are met as well, ever more rarely.
        let most = 1 << random.below(8);
        let call = 1 + random.below(most);
        let (kind, when) = match random.below(3) {
            0 => ("sync", random.below(2)),
            1 => ("rename", random.below(2)),
            _ => ("send", random.below(3)),
        };
        let when = ["before", "after", "within"][usize::try_from(when).unwrap()];
        let words = format!("{kind}:{call}:{when}");
        Fault {
            variables: vec![
                ("LD_PRELOAD".into(), shim.display().to_string()),
                ("FIELDFARE_FAULT".into(), words.clone()),
            ],
            words,
        }
    })
}

#[test]
fn whoever_is_killed_wherever_the_promises_hold() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (kills, seed) = (number("FIELDFARE_KILLS", 200), number("FIELDFARE_SEED", 1));
    let folder = tempfile::tempdir().unwrap();
    let mut path = Path::begin(Fleet::start(folder.path(), Setting::mortal(choice(seed))));
    while path.deaths() < kills {
        path.turn();
    }
    let deaths = path.end();
    let points: std::collections::BTreeSet<&str> = deaths.iter().map(|(_, words)| words.as_str()).collect();
    println!("{} deaths, {} different ones", deaths.len(), points.len());
}

#[test]
fn whatever_a_power_loss_leaves_the_promises_hold() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // A quarter of the deaths of the other test, in about a minute.
    let (losses, seed) = (number("FIELDFARE_KILLS", 200) / 4, number("FIELDFARE_SEED", 1));
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let machines = power::Machines::new(root.clone(), shim(), seed, choice(seed.wrapping_add(7)));
    let mut path = Path::begin(Fleet::start(&root, Setting::mortal(machines)));
    while path.deaths() < losses {
        path.turn();
    }
    println!("{} power losses", path.end().len());
}

/// The way of a release through the fleet, again and again.
#[derive(Debug)]
struct Path {
    fleet: Fleet,
    turns: u32,
    /// What all devices run.
    running: String,
    /// What the last job made.
    newest: String,
    told: promises::Told,
}

impl Path {
    /// The first release is imported, published and rolled out, in peace.
    fn begin(fleet: Fleet) -> Self {
        let file = fleet.root.join("nonsense.gguf");
        model::write(&file, 7);
        let release = fleet.import("first", &file);
        fleet.ok(&["release", "delegate", MODEL, "--trainer", "kiln"]);
        let mut path = Self {
            fleet,
            turns: 0,
            running: release.clone(),
            newest: release,
            told: promises::Told::default(),
        };
        path.fleet.roll_out(&path.newest);
        path.told.check(&path.fleet, &path.running);
        path
    }

    fn deaths(&self) -> u64 {
        self.fleet.supervisor.deaths().len() as u64
    }

    /// A job, its release everywhere, and back again.
    fn turn(&mut self) {
        self.turns += 1;
        let before = self.running.clone();
        self.fleet.supervisor.arm(DEATHS_PER_STEP);
        self.train();
        self.settle(&before);
        self.fleet.supervisor.arm(DEATHS_PER_STEP);
        self.fleet.roll_out(&self.newest);
        let newest = self.newest.clone();
        self.settle(&newest);
        self.fleet.supervisor.arm(DEATHS_PER_STEP);
        self.fleet.roll_back();
        self.settle(&before);
    }

    /// Nobody dies any more, and everything that was promised holds, with this release on all devices.
    fn settle(&mut self, running: &str) {
        self.fleet.supervisor.disarm();
        self.told.check(&self.fleet, running);
    }

    fn train(&mut self) {
        let name = format!("night-{}", self.turns);
        let job = self.fleet.train(&name);
        self.newest = self.told.note_job(&job);
    }

    fn end(self) -> Vec<(String, String)> {
        let deaths = self.fleet.supervisor.deaths();
        self.fleet.supervisor.stop();
        deaths
    }
}
