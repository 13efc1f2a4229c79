//! Killed anywhere: the path of a release and of a round, with every process dying again and again.
//!
//! A fleet of the real binaries goes round after round: a federated job, its release rolled out, and rolled back. All the while
//! the controller, the trainer and the agents die by `kill -9`: at named points (`fieldfare-crash`), and at the n-th fsync, rename
//! or send, before, within or after it. What they pass is counted in a first turn in which nobody dies; only a death that met its
//! point counts. After each step the promises are checked.
//!
//! In a second test the machine of a process loses its power with it, and of what was not synced any part is gone.
//!
//! `FIELDFARE_KILLS` is the number of deaths (200), `FIELDFARE_SEED` what chooses them; both are printed, and so is each death. One of
//! them is done again with `FIELDFARE_DEATH='PROCESS STEP WHAT'`, as it was printed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod chosen;
mod contributions;
mod power;
mod promises;

use std::sync::Arc;

use fieldfare_tests::environment::{number, words};
use fieldfare_tests::fates::Choice;
use fieldfare_tests::miniature::path::MODEL;
use fieldfare_tests::miniature::{Fleet, Setting, model};

use crate::chosen::Chosen;
use crate::promises::Told;

/// Deaths of each process in one step of the path, after which it is left alone until the next one.
const DEATHS_PER_STEP: u32 = 4;

/// From this many deaths on somebody dies at each of the named points.
const EVERY_POINT: u64 = 200;

/// Most turns beyond that for what is still missing, a named point or a trainer that owed something: chance has it in one or two.
const TURNS_MORE: u32 = 20;

fn shim() -> std::path::PathBuf {
    let shim = fieldfare_tests::binaries::fieldfare().with_file_name("libfieldfare_fault_shim.so");
    assert!(shim.is_file(), "{} is not there", shim.display());
    shim
}

#[test]
fn whoever_is_killed_wherever_the_promises_hold() {
    let (kills, seed) = (number("FIELDFARE_KILLS", 200), number("FIELDFARE_SEED", 1));
    let folder = tempfile::tempdir().unwrap();
    let chosen = Chosen::new(shim(), seed, words("FIELDFARE_DEATH").as_deref(), false);
    let choice: Choice = chosen.clone();
    let path = Path::begin(
        Fleet::start(folder.path(), Setting::mortal(choice)),
        chosen,
        Told::new(false),
    );
    let chosen = path.go(kills, |chosen| kills < EVERY_POINT || chosen.unmet().is_empty());
    chosen.report("killed");
    let unmet = chosen.unmet();
    assert!(
        kills < EVERY_POINT || chosen.only_is_over().is_some() || unmet.is_empty(),
        "nobody died at {unmet:?}"
    );
}

#[test]
fn whatever_a_power_loss_leaves_the_promises_hold() {
    // A quarter of the deaths of the other test.
    let (losses, seed) = (number("FIELDFARE_KILLS", 200) / 4, number("FIELDFARE_SEED", 1));
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let chosen = Chosen::new(shim(), seed.wrapping_add(7), words("FIELDFARE_DEATH").as_deref(), true);
    let machines = power::Machines::new(root.clone(), seed, chosen.clone());
    let choice: Choice = machines.clone();
    let path = Path::begin(Fleet::start(&root, Setting::mortal(choice)), chosen, Told::new(true));
    let chosen = path.go(losses, |_| losses < EVERY_POINT / 4 || machines.compared() > 0);
    chosen.report("power losses");
    let compared = machines.compared();
    println!("{compared} acknowledged contributions that a trainer without power had to keep");
    assert!(
        losses < EVERY_POINT / 4 || chosen.only_is_over().is_some() || compared > 0,
        "no trainer lost power while it owed a contribution"
    );
}

/// The way of a release through the fleet, again and again.
#[derive(Debug)]
struct Path {
    fleet: Fleet,
    chosen: Arc<Chosen>,
    turns: u32,
    /// What all devices run.
    running: String,
    /// What the last job made.
    newest: String,
    told: Told,
}

impl Path {
    /// The first release is imported, published and rolled out, in peace.
    fn begin(fleet: Fleet, chosen: Arc<Chosen>, told: Told) -> Self {
        let file = fleet.root.join("nonsense.gguf");
        model::write(&file, 7);
        let release = fleet.import("first", &file);
        fleet.ok(&["release", "delegate", MODEL, "--trainer", "kiln"]);
        let mut path = Self {
            fleet,
            chosen,
            turns: 0,
            running: release.clone(),
            newest: release,
            told,
        };
        path.fleet.roll_out(&path.newest);
        path.told.check(&path.fleet, &path.running);
        path
    }

    /// A turn without deaths, and as many others as it takes.
    fn go(mut self, deaths: u64, is_enough: impl Fn(&Chosen) -> bool) -> Arc<Chosen> {
        match self.chosen.only_is_over() {
            Some(_) => {
                self.turn(1);
                assert_eq!(self.chosen.only_is_over(), Some(true), "nobody died of that");
            }
            None => {
                self.turn(0);
                self.chosen.assert_every_point_is_passed();
                while self.chosen.deaths() < deaths {
                    self.turn(DEATHS_PER_STEP);
                }
                for _ in 0..TURNS_MORE {
                    if !is_enough(&self.chosen) {
                        self.turn(DEATHS_PER_STEP);
                    }
                }
            }
        }
        self.fleet.supervisor.stop();
        self.chosen
    }

    /// A job, its release everywhere, and back again.
    fn turn(&mut self, deaths: u32) {
        self.turns += 1;
        let before = self.running.clone();
        self.step("train", deaths, &before, Self::train);
        let newest = self.newest.clone();
        self.step("roll-out", deaths, &newest, |path| path.fleet.roll_out(&newest));
        self.step("roll-back", deaths, &before, |path| path.fleet.roll_back());
    }

    /// A step on which everybody dies this often at most. Then nobody does, and everything that was promised holds, with this release
    /// on all devices.
    fn step(&mut self, name: &'static str, deaths: u32, running: &str, walk: impl FnOnce(&mut Self)) {
        self.chosen.begin(name);
        match deaths {
            0 => self.chosen.learn(&self.fleet),
            _ => self.fleet.supervisor.arm(deaths),
        }
        walk(self);
        match deaths {
            0 => self.chosen.learn(&self.fleet),
            _ => self.fleet.supervisor.disarm(),
        }
        self.told.check(&self.fleet, running);
    }

    fn train(&mut self) {
        let name = format!("night-{}", self.turns);
        let job = self.fleet.train(&name);
        self.newest = self.told.note_job(&job);
    }
}
