//! Feeding a target.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::dice::Dice;
use crate::mutate::mutate;
use crate::{Target, memory};

/// Inputs that are kept because of their outcome.
const POOL: usize = 512;

/// How much is tried.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Seed of all dice.
    pub seed: u64,
    /// Inputs, instead of [`Target::inputs`].
    pub inputs: Option<u64>,
    /// Time after which no further input is tried.
    pub within: Option<Duration>,
}

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Inputs.
    pub inputs: u64,
    /// Different outcomes.
    pub outcomes: usize,
    /// The most memory that an input took.
    pub memory: usize,
}

/// The inputs that once broke a target, by the names of their files.
fn committed(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// What an outcome says, without what the input filled in: names and numbers.
fn shape(outcome: &str) -> String {
    let mut quoted = false;
    let plain = |character: &char| {
        quoted ^= *character == '"';
        !quoted && !character.is_ascii_digit()
    };
    outcome.chars().filter(plain).take(200).collect()
}

/// Feeds a target, and panics at the first input that breaks it, which is left in a file.
pub fn run(target: &Target, effort: Effort) -> Tried {
    let mut pool = (target.seeds)();
    assert!(!pool.is_empty(), "{}: no seeds", target.name);
    pool.extend(committed(target.name));
    let mut seen = BTreeSet::new();
    let mut tried = Tried {
        inputs: 0,
        outcomes: 0,
        memory: 0,
    };
    for input in pool.clone() {
        seen.insert(shape(&take(target, &input, &mut tried)));
    }
    let begun = Instant::now();
    for number in 0..effort.inputs.unwrap_or(target.inputs) {
        if effort.within.is_some_and(|within| begun.elapsed() > within) {
            break;
        }
        let mut dice = Dice::new(effort.seed, target.name, number);
        let input = match target.invent {
            Some(invent) if dice.below(4) == 0 => invent(&mut dice),
            _ => mutate(dice.one(&pool).as_slice(), &pool, target.words, &mut dice),
        };
        let outcome = take(target, &input, &mut tried);
        if pool.len() < POOL && seen.insert(shape(&outcome)) {
            pool.push(input);
        }
    }
    tried.outcomes = seen.len();
    tried
}

fn take(target: &Target, input: &[u8], tried: &mut Tried) -> String {
    tried.inputs += 1;
    let (outcome, bytes) = memory::of(|| catch_unwind(AssertUnwindSafe(|| (target.take)(input))));
    let Ok(outcome) = outcome else {
        panic!("{} breaks on {}", target.name, left_behind(target, input).display());
    };
    tried.memory = tried.memory.max(bytes);
    let bound = target.bound.base + target.bound.per_byte * input.len();
    if bytes > bound {
        panic!(
            "{}: {} bytes of input took {bytes} bytes of memory, and the bound is {bound}: {}",
            target.name,
            input.len(),
            left_behind(target, input).display()
        );
    }
    outcome
}

/// Leaves an input where somebody can have it: to be looked at, and to become a seed.
fn left_behind(target: &Target, input: &[u8]) -> PathBuf {
    let folder = std::env::temp_dir().join("fieldfare-fuzz");
    let file = folder.join(target.name);
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(&file, input))
        .unwrap();
    file
}
