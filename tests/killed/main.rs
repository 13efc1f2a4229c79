//! Killed anywhere: the path of a release and of a round, with every process dying again and again.
//!
//! A fleet of the real binaries goes round after round: a federated job, its release rolled out, and rolled back. All the while
//! the controller, the trainer and the agents die by `kill -9`: at named points (`fieldfare-crash`), at the n-th fsync, rename or
//! send, before, within or after it, and at any other moment. After each turn the promises are checked.
//!
//! `FIELDFARE_KILLS` is the number of deaths (200), `FIELDFARE_SEED` what chooses them; both are printed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod fleet;
mod model;
mod promises;

use std::sync::Arc;

use fieldfare_tests::supervised::{Choice, Fault};
use fleet::Fleet;
use model::Random;

/// Deaths of each process in one step of the path, after which it is left alone until the next one.
const DEATHS_PER_STEP: u32 = 4;

#[allow(clippy::disallowed_methods, reason = "tests read their configuration here only")]
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{variable}={text}"))
    })
}

/// What the n-th life of a process dies of: a function of the seed, the process and the number alone.
fn choice(seed: u64) -> Choice {
    let shim = fieldfare_tests::binaries::fieldfare().with_file_name("libfieldfare_fault_shim.so");
    assert!(shim.is_file(), "{} is not there", shim.display());
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
    let (kills, seed) = (number("FIELDFARE_KILLS", 200), number("FIELDFARE_SEED", 1));
    println!("FIELDFARE_KILLS={kills} FIELDFARE_SEED={seed}");
    let folder = tempfile::tempdir().unwrap();
    let mut path = Path::begin(Fleet::start(folder.path(), choice(seed)));
    while path.deaths() < kills {
        path.turn();
    }
    let deaths = path.end();
    let points: std::collections::BTreeSet<&str> = deaths.iter().map(|(_, words)| words.as_str()).collect();
    println!("{} deaths, {} different ones", deaths.len(), points.len());
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

const DEPLOYMENT: &str = "fields";
const MODEL: &str = "nonsense";

impl Path {
    /// The first release is imported, published and rolled out, in peace.
    fn begin(fleet: Fleet) -> Self {
        let file = fleet.root.join("nonsense.gguf");
        model::write(&file, 7);
        let evaluation = fleet.root.join("evaluation.jsonl");
        std::fs::write(&evaluation, model::examples(12)).unwrap();
        let (file, evaluation) = (file.to_str().unwrap(), evaluation.to_str().unwrap());
        fleet.ok(&["release", "import", file, "--model", MODEL, "--evaluation", evaluation]);
        fleet.ok(&["release", "publish", &format!("{MODEL}:1")]);
        fleet.ok(&["release", "delegate", MODEL, "--trainer", "kiln"]);
        let mut path = Self {
            fleet,
            turns: 0,
            running: format!("{MODEL}.r1.release.json"),
            newest: format!("{MODEL}.r1.release.json"),
            told: promises::Told::default(),
        };
        path.roll_out();
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
        self.roll_out();
        let newest = self.newest.clone();
        self.settle(&newest);
        self.fleet.supervisor.arm(DEATHS_PER_STEP);
        self.roll_back();
        self.settle(&before);
    }

    /// Nobody dies any more, and everything that was promised holds, with this release on all devices.
    fn settle(&mut self, running: &str) {
        self.fleet.supervisor.disarm();
        self.told.check(&self.fleet, running);
    }

    fn train(&mut self) {
        let name = format!("night-{}", self.turns);
        let evaluation = self.fleet.root.join("evaluation.jsonl");
        let start = format!(
            "job start --name {name} --deployment {DEPLOYMENT} --evaluation {} --detach --epsilon 8 --rounds 1 --steps 2 \
             --noise-multiplier 3 --sampling-rate 0.2 --examples-per-device {} --attempts 10 --quorum 2 --round-deadline 60 \
             --min-loss-gain -100 --min-exact-match-gain -1",
            evaluation.display(),
            fleet::EXAMPLES,
        );
        self.fleet.ok(&start.split_whitespace().collect::<Vec<_>>());
        let job = self.fleet.concluded(&["job", "watch", &name], 3);
        self.newest = self.told.note_job(&job);
    }

    fn roll_out(&mut self) {
        let release = self.newest.clone();
        let deploy = format!(
            "deploy {DEPLOYMENT} --release {release} --waves 1,100% --observe 0.05 --offline-after 20 --detach"
        );
        self.fleet.ok(&deploy.split_whitespace().collect::<Vec<_>>());
        let ended = self.fleet.concluded(&["rollout", "status", DEPLOYMENT, "--watch"], 3);
        assert_eq!(ended["phase"], "completed", "{ended:#}\n{}", self.fleet.logs());
    }

    fn roll_back(&mut self) {
        self.fleet
            .ok_or(&["rollout", "rollback", DEPLOYMENT], &["rolling back", "rolled back"]);
        let ended = self.fleet.concluded(&["rollout", "status", DEPLOYMENT, "--watch"], 3);
        assert_eq!(ended["phase"], "rolled back", "{ended:#}\n{}", self.fleet.logs());
    }

    fn end(self) -> Vec<(String, String)> {
        let deaths = self.fleet.supervisor.deaths();
        self.fleet.supervisor.stop();
        deaths
    }
}
