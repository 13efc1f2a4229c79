//! What processes die of: passages that a first turn, in which nobody died, has met, chosen by a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fieldfare_tests::fates::Fates;
use fieldfare_tests::miniature::model::Random;
use fieldfare_tests::miniature::{DEVICES, Fleet};

/// Calls of the C library that `tests/shim` takes over.
const CALLS: [&str; 3] = ["sync", "rename", "send"];

/// Points at which a trainer holds contributions that it has acknowledged.
const OWING: [&str; 3] = ["trainer.round.summed", "trainer.round.stored", "trainer.round.closed"];

/// What a process passes in a step of the path, and how often.
type Passed = BTreeMap<String, u64>;

/// A death that met its plan.
#[derive(Clone, Debug)]
struct Death {
    process: String,
    step: &'static str,
    of: String,
}

#[derive(Debug, Default)]
struct State {
    step: &'static str,
    passed: BTreeMap<(String, &'static str), Passed>,
    /// Plans so far, of each process.
    plans: BTreeMap<String, u64>,
    met: BTreeSet<String>,
    deaths: Vec<Death>,
}

/// The choice of a fleet.
#[derive(Debug)]
pub(crate) struct Chosen {
    seed: u64,
    shim: PathBuf,
    /// The one death that is wanted: process, step and what of.
    only: Option<[String; 3]>,
    /// Whether the trainer mostly dies while it owes what it acknowledged.
    owing: bool,
    state: Mutex<State>,
}

fn points(process: &str) -> &'static [&'static str] {
    match process {
        "controller" => fieldfare_crash::CONTROLLER,
        "trainer" => fieldfare_crash::TRAINER,
        _ => fieldfare_crash::AGENT,
    }
}

fn pick<T: Copy>(random: &mut Random, all: &[T]) -> Option<T> {
    let index = random.below(all.len().max(1) as u64);
    all.get(usize::try_from(index).unwrap()).copied()
}

/// The n-th call of a kind of which there are this many: early ones, which a process meets also when it starts, as often as all later
/// ones of twice their number.
fn call(random: &mut Random, count: u64) -> u64 {
    let most = 1 << random.below(u64::from(count.ilog2()) + 1);
    1 + random.below(most)
}

impl Chosen {
    pub(crate) fn new(shim: PathBuf, seed: u64, only: Option<&str>, owing: bool) -> Arc<Self> {
        let only = only.map(|words| {
            let words: Vec<String> = words.split_whitespace().map(ToOwned::to_owned).collect();
            words.try_into().expect("FIELDFARE_DEATH is 'PROCESS STEP WHAT'")
        });
        Arc::new(Self {
            seed,
            shim,
            only,
            owing,
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The step of the path that begins.
    pub(crate) fn begin(&self, step: &'static str) {
        self.lock().step = step;
    }

    /// Takes note of what processes passed in this step, in which nobody died.
    pub(crate) fn learn(&self, fleet: &Fleet) {
        let mut state = self.lock();
        let step = state.step;
        for process in ["controller", "trainer"].into_iter().chain(DEVICES) {
            let passed = fleet.supervisor.passed(process);
            state.passed.insert((process.to_owned(), step), passed);
        }
    }

    /// Every point that the processes have must be on the path.
    pub(crate) fn assert_every_point_is_passed(&self) {
        let state = self.lock();
        let passed: BTreeSet<&str> = state
            .passed
            .values()
            .flat_map(Passed::keys)
            .map(String::as_str)
            .collect();
        let missed: Vec<_> = all_points().filter(|point| !passed.contains(point)).collect();
        assert!(missed.is_empty(), "the path does not pass {missed:?}");
    }

    pub(crate) fn deaths(&self) -> u64 {
        self.lock().deaths.len() as u64
    }

    /// Whether the one death that was asked for is over; nothing where any are wanted.
    pub(crate) fn only_is_over(&self) -> Option<bool> {
        self.only.as_ref().map(|_| !self.lock().deaths.is_empty())
    }

    /// Named points that nobody has died at.
    pub(crate) fn unmet(&self) -> Vec<&'static str> {
        let state = self.lock();
        all_points().filter(|point| !state.met.contains(*point)).collect()
    }

    /// Says what there was: deaths by kind and process.
    pub(crate) fn report(&self, what: &str) {
        let state = self.lock();
        let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
        let mut processes: BTreeMap<&str, u64> = BTreeMap::new();
        for death in &state.deaths {
            let kind = death.of.split(':').next().unwrap_or_default();
            let kind = CALLS.into_iter().find(|call| *call == kind).unwrap_or("named point");
            *kinds.entry(kind).or_default() += 1;
            *processes.entry(&death.process).or_default() += 1;
        }
        say(&format!(
            "{what}: {} deaths at their points (seed {}), by kind {kinds:?}, by process {processes:?}; {} of {} named points met",
            state.deaths.len(),
            self.seed,
            state.met.len(),
            all_points().count(),
        ));
    }
}

/// Says it also where the test passes, when what is printed is kept back.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn all_points() -> impl Iterator<Item = &'static str> {
    let all = [
        fieldfare_crash::CONTROLLER,
        fieldfare_crash::TRAINER,
        fieldfare_crash::AGENT,
    ];
    all.into_iter().flatten().copied()
}

impl Fates for Chosen {
    fn shim(&self) -> Option<PathBuf> {
        Some(self.shim.clone())
    }

    /// A function of the seed, the process, how often it was asked, and what was passed and met so far.
    fn next(&self, process: &str) -> Option<String> {
        let mut state = self.lock();
        let State {
            step,
            passed,
            plans,
            met,
            deaths,
        } = &mut *state;
        if let Some([whose, when, of]) = &self.only {
            return (whose == process && when == step && deaths.is_empty()).then(|| of.clone());
        }
        let passed = passed.get(&(process.to_owned(), *step))?;
        let plan = plans.entry(process.to_owned()).or_default();
        *plan += 1;
        let mixed = process.bytes().fold(self.seed, |mixed, byte| {
            mixed.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        let mut random = Random(mixed.wrapping_mul(1_000_003).wrapping_add(*plan));
        let named: Vec<&str> = points(process)
            .iter()
            .copied()
            .filter(|point| passed.contains_key(*point))
            .collect();
        let unmet: Vec<&str> = named.iter().copied().filter(|point| !met.contains(*point)).collect();
        if self.owing && process == "trainer" && named.contains(&OWING[0]) && random.below(2) == 0 {
            return pick(&mut random, &OWING).map(|point| format!("{point}:1"));
        }
        // A point that nobody has died at yet comes first, in the order of the path: what lies behind is not met again.
        let point = match (unmet.first(), random.below(10)) {
            (Some(point), 0..9) => Some(*point),
            (_, 0..4) => pick(&mut random, &named),
            _ => None,
        };
        if let Some(point) = point {
            // Mostly the first passage: after it there may be no second one.
            let passage = match random.below(4) {
                0 if met.contains(point) => 1 + random.below(passed[point].min(3)),
                _ => 1,
            };
            return Some(format!("{point}:{passage}"));
        }
        let calls: Vec<&str> = CALLS.into_iter().filter(|call| passed.contains_key(*call)).collect();
        let kind = pick(&mut random, &calls)?;
        let whens: &[&str] = match kind {
            "send" => &["before", "after", "within"],
            _ => &["before", "after"],
        };
        let (call, when) = (call(&mut random, passed[kind]), pick(&mut random, whens)?);
        Some(format!("{kind}:{call}:{when}"))
    }

    fn died(&self, process: &str, of: &str) {
        let mut state = self.lock();
        let point = of.split(':').next().unwrap_or_default();
        if all_points().any(|known| known == point) {
            state.met.insert(point.to_owned());
        }
        let death = Death {
            process: process.to_owned(),
            step: state.step,
            of: of.to_owned(),
        };
        let number = state.deaths.len() + 1;
        say(&format!(
            "death {number}, seed {}: {process} {} {of}",
            self.seed, death.step
        ));
        state.deaths.push(death);
    }
}
