//! Lives of whole fleets, each from its seed: every promise is looked at after every step.

use fieldfare_sim::{Outcome, live};

/// Lives these lives; what happened in them together.
fn all_keep_their_promises(seeds: std::ops::Range<u64>, devices: u32) -> Outcome {
    let mut sum = Outcome::default();
    let mut broken = Vec::new();
    for seed in seeds {
        let outcome = live(seed, devices, false);
        sum += &outcome;
        if let Some(promise) = outcome.broken {
            let again = format!("cargo run -p fieldfare-sim -- --devices {devices} --trace {seed}");
            broken.push(format!("seed {seed}: {promise}\n  to see it again: {again}"));
        }
    }
    assert!(
        broken.is_empty(),
        "{} lives broke a promise:\n{}",
        broken.len(),
        broken.join("\n")
    );
    sum
}

#[test]
fn a_thousand_lives_of_fifty_devices() {
    let sum = all_keep_their_promises(0..1000, 50);
    // Lives in which nothing happens show nothing.
    assert!(
        sum.rollouts > 3000 && sum.completed > 1000 && sum.rolled_back > 1000,
        "{sum}"
    );
    assert!(sum.jobs > 1000 && sum.committed > 1000 && sum.paid > 10_000, "{sum}");
}

#[test]
fn twenty_lives_of_five_thousand_devices() {
    let sum = all_keep_their_promises(0..20, 5000);
    assert!(sum.rollouts > 20 && sum.completed > 5 && sum.rolled_back > 5, "{sum}");
    assert!(sum.jobs > 5 && sum.committed > 5 && sum.paid > 50, "{sum}");
}

#[test]
fn a_seed_is_always_the_same_life() {
    for seed in [1, 2, 3] {
        let first = live(seed, 50, true);
        assert!(first.trace.len() > 100, "{} lines", first.trace.len());
        assert_eq!(first, live(seed, 50, true), "seed {seed}");
        let untraced = Outcome {
            trace: Vec::new(),
            ..first
        };
        assert_eq!(untraced, live(seed, 50, false), "looking at seed {seed} changes it");
    }
}
