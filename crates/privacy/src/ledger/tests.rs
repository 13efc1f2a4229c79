//! The ledger under replays, other parameters, crashes and long lives.

use proptest::prelude::*;

use super::*;
use crate::quantity::{NoiseMultiplier, SamplingRate};

fn key(job: &str, round: u64, attempt: u32) -> ChargeKey {
    ChargeKey {
        job: JobName::new(job).expect("name"),
        round,
        attempt,
    }
}

fn mechanism(q: f64, sigma: f64, steps: u64) -> Mechanism {
    Mechanism {
        sampling_rate: SamplingRate::new(q).expect("rate"),
        noise_multiplier: NoiseMultiplier::new(sigma).expect("sigma"),
        steps,
    }
}

fn budget(epsilon: f64) -> Budget {
    Budget::from_numbers(epsilon, 1e-5).expect("budget")
}

#[test]
fn a_repetition_is_granted_once_paid_and_pays_nothing_even_under_a_lower_budget() {
    let mut ledger = Ledger::default();
    let price = mechanism(0.16, 1.14, 12);
    let first = ledger
        .charge(&key("alert", 1, 0), price, budget(8.0), 100)
        .expect("within budget");
    assert_eq!((first.outcome, first.spent_before), (ChargeOutcome::New, Epsilon::ZERO));
    let again = ledger
        .charge(&key("alert", 1, 0), price, budget(0.001), 999)
        .expect("a repetition");
    assert_eq!(again.outcome, ChargeOutcome::Repeated);
    assert_eq!(
        (again.spent_before, again.spent_after),
        (first.spent_after, first.spent_after)
    );
    assert_eq!(again.record.charged_at_unix_ms, 100, "the record is the first one");
    let spending = ledger.spending(budget(8.0).delta());
    assert_eq!(
        (spending.charges, spending.steps, spending.epsilon),
        (1, 12, first.spent_after)
    );
}

#[test]
fn a_replay_with_other_parameters_is_refused_with_both_named() {
    let mut ledger = Ledger::default();
    ledger
        .charge(&key("alert", 1, 0), mechanism(0.16, 1.14, 12), budget(8.0), 0)
        .expect("within budget");
    for offered in [
        mechanism(0.16, 1.14, 13),
        mechanism(0.16, 0.9, 12),
        mechanism(0.160_000_000_000_000_03, 1.14, 12),
    ] {
        let refusal = ledger
            .charge(&key("alert", 1, 0), offered, budget(8.0), 0)
            .expect_err("other parameters");
        assert!(matches!(&refusal, Refusal::OtherParameters { offered: named, .. } if *named == offered));
        assert!(
            refusal
                .to_string()
                .starts_with("job alert round 1 attempt 0 was charged for 12 steps"),
            "{refusal}"
        );
    }
    assert_eq!(ledger.records().count(), 1);
}

#[test]
fn another_attempt_is_another_release_and_jobs_compose() {
    let mut ledger = Ledger::default();
    let price = mechanism(0.16, 1.14, 12);
    let keys = [
        key("alert", 1, 0),
        key("alert", 1, 1),
        key("alert", 2, 0),
        key("other", 1, 0),
    ];
    let mut spent = Epsilon::ZERO;
    for key in &keys {
        let charge = ledger.charge(key, price, budget(100.0), 0).expect("within budget");
        assert!(charge.spent_after > spent && charge.spent_before == spent);
        spent = charge.spent_after;
    }
    let together = Accountant::Rdp.epsilon(&[mechanism(0.16, 1.14, 48)], budget(100.0).delta());
    assert!((spent.get() - together.get()).abs() < 1e-9, "{spent} for {together}");
}

/// The pilot's setting: epsilon 8, delta 1e-5, q 0.16, 5 rounds of 12 steps with sigma 1.14 (`ml.md`, by RDP).
#[test]
fn at_the_budget_the_device_refuses_and_says_the_numbers() {
    let mut ledger = Ledger::default();
    for round in 0..5 {
        ledger
            .charge(&key("alert", round, 0), mechanism(0.16, 1.14, 12), budget(8.0), 0)
            .expect("five rounds fit");
    }
    let before = ledger.spending(budget(8.0).delta());
    let refusal = ledger
        .charge(&key("alert", 5, 0), mechanism(0.16, 1.14, 12), budget(8.0), 0)
        .expect_err("a sixth does not");
    assert!(
        refusal
            .to_string()
            .starts_with("the budget is epsilon 8 at delta 1e-5: 7."),
        "{refusal}"
    );
    assert_eq!(ledger.spending(budget(8.0).delta()), before);
    assert!(
        before
            .to_string()
            .ends_with("at delta 1e-5 (RDP, 60 steps in 5 rounds)"),
        "{before}"
    );
    // A quieter round still fits.
    ledger
        .charge(&key("alert", 6, 0), mechanism(0.01, 20.0, 1), budget(8.0), 0)
        .expect("nearly free");
}

#[test]
fn a_quote_changes_nothing_and_states_what_the_charge_will() {
    let mut ledger = Ledger::default();
    for (round, sigma) in [(0, 1.0), (1, 3.0), (2, 2.0), (3, 0.9), (4, 2.0)] {
        let price = mechanism(0.1, sigma, 7);
        let quote = ledger
            .quote(&key("alert", round, 0), price, budget(100.0), 5)
            .expect("fits");
        assert_eq!(ledger.find(&key("alert", round, 0)), None);
        assert_eq!(
            ledger
                .charge(&key("alert", round, 0), price, budget(100.0), 5)
                .expect("fits"),
            quote
        );
        assert_eq!(
            ledger.spending(budget(1.0).delta()).epsilon,
            quote.spent_after,
            "to the bit"
        );
    }
}

#[test]
fn ten_thousand_rounds_are_one_mechanism() {
    let mut ledger = Ledger::default();
    for round in 0..10_000 {
        let price = mechanism(0.004, 50.0, 1);
        ledger
            .charge(&key("alert", round, 0), price, budget(1.0), round)
            .expect("within budget");
    }
    assert_eq!(ledger.totals.len(), 1);
    let spending = ledger.spending(budget(1.0).delta());
    assert_eq!((spending.charges, spending.steps), (10_000, 10_000));
    let direct = Accountant::Rdp.epsilon(&[mechanism(0.004, 50.0, 10_000)], budget(1.0).delta());
    assert_eq!(spending.epsilon, direct);
    let restored = Ledger::restore(Accountant::Rdp, ledger.records().cloned()).expect("own records");
    assert_eq!(restored.spending(budget(1.0).delta()), spending);
}

#[test]
fn a_server_that_varies_its_parameters_cannot_grow_the_ledger_without_bound() {
    let mut ledger = Ledger::default();
    let offer = |index: usize| mechanism(1.0, 1_000.0 + index as f64, 1);
    for index in 0..MAX_DISTINCT_MECHANISMS {
        ledger
            .charge(&key("alert", index as u64, 0), offer(index), budget(10.0), 0)
            .expect("within the limit");
    }
    let next = key("alert", 1 << 40, 0);
    assert_eq!(
        ledger.charge(&next, offer(MAX_DISTINCT_MECHANISMS), budget(10.0), 0),
        Err(Refusal::TooManyMechanisms)
    );
    ledger
        .charge(&next, offer(0), budget(10.0), 0)
        .expect("a known mechanism");
    assert!(JobName::new("x".repeat(254)).is_err() && JobName::new("").is_err() && JobName::new("two words").is_err());
}

#[test]
fn impossible_steps_and_budgets_are_refused() {
    let mut ledger = Ledger::default();
    for given in [0, MAX_STEPS + 1, u64::MAX] {
        let refusal = ledger.charge(&key("alert", 0, 0), mechanism(0.1, 1.0, given), budget(8.0), 0);
        assert_eq!(refusal, Err(Refusal::Steps { given }));
    }
    assert!(matches!(
        ledger.charge(&key("alert", 0, 0), mechanism(0.1, 1e4, 1), budget(0.0), 0),
        Err(Refusal::BudgetExhausted { .. })
    ));
    assert_eq!(
        Budget::from_numbers(1e9, 1e-5),
        Err(BudgetError::Epsilon { given: 1e9 })
    );
    assert!(Budget::from_numbers(f64::NAN, 1e-5).is_err() && Budget::from_numbers(1.0, 0.0).is_err());
}

#[test]
fn a_stored_ledger_that_contradicts_itself_is_not_restored() {
    let record = |steps| ChargeRecord {
        key: key("alert", 1, 0),
        mechanism: mechanism(0.1, 1.0, steps),
        charged_at_unix_ms: 0,
    };
    let error = Ledger::restore(Accountant::Rdp, [record(5), record(6)]).expect_err("one round, two prices");
    assert!(error.index == 1 && matches!(error.source, Refusal::OtherParameters { .. }));
    let twice = Ledger::restore(Accountant::Rdp, [record(5), record(5)]).expect("one record, twice");
    assert_eq!(twice.spending(budget(1.0).delta()).steps, 5, "counted once");
    assert_eq!(
        Ledger::restore(Accountant::Rdp, [record(0)])
            .expect_err("no steps")
            .source,
        Refusal::Steps { given: 0 }
    );
}

/// What the world does to a device.
#[derive(Clone, Debug)]
enum Happening {
    /// An invitation, new or repeated, honest or not; the record is written unless power fails before the sync.
    Invitation {
        job: u8,
        round: u64,
        attempt: u32,
        price: usize,
        synced: bool,
    },
    /// The process starts again from its file.
    Restart,
}

fn happening() -> impl Strategy<Value = Happening> {
    let invitation =
        (0u8..2, 0u64..6, 0u32..2, 0usize..5, any::<bool>()).prop_map(|(job, round, attempt, price, synced)| {
            Happening::Invitation {
                job,
                round,
                attempt,
                price,
                synced,
            }
        });
    prop_oneof![5 => invitation, 1 => Just(Happening::Restart)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn releases_never_exceed_the_budget_whatever_crashes_and_whoever_asks(
        happenings in prop::collection::vec(happening(), 1..60), epsilon in 0.1f64..12.0,
    ) {
        let prices =
            [mechanism(0.16, 1.14, 12), mechanism(0.16, 0.66, 4), mechanism(0.01, 2.0, 100), mechanism(1.0, 8.0, 1), mechanism(0.5, 0.3, 9)];
        let (mut ledger, mut file, mut released) = (Ledger::default(), Vec::<ChargeRecord>::new(), BTreeMap::new());
        for happening in happenings {
            match happening {
                Happening::Restart => {
                    let text = serde_json::to_string(&file).expect("serialises");
                    let read: Vec<ChargeRecord> = serde_json::from_str(&text).expect("reads back");
                    prop_assert_eq!(&read, &file, "to the bit");
                    ledger = Ledger::restore(Accountant::Rdp, read).expect("own records");
                }
                Happening::Invitation { job, round, attempt, price, synced } => {
                    let key = key(&format!("job-{job}"), round, attempt);
                    let Ok(charge) = ledger.charge(&key, prices[price], budget(epsilon), 0) else { continue };
                    prop_assert!(charge.spent_after <= budget(epsilon).epsilon());
                    if charge.outcome == ChargeOutcome::New && !synced {
                        // The power failed before the sync: nothing left, the file knows nothing.
                        ledger = Ledger::restore(Accountant::Rdp, file.clone()).expect("own records");
                        continue;
                    }
                    if charge.outcome == ChargeOutcome::New {
                        file.push(charge.record.clone());
                    }
                    let earlier = released.insert(key, charge.record.mechanism);
                    prop_assert!(earlier.is_none_or(|earlier| earlier == charge.record.mechanism));
                    if earlier.is_some() {
                        continue;
                    }
                }
            }
            // The oracle composes what really left, by its own means.
            let left: Vec<Mechanism> = released.values().copied().collect();
            let total = Accountant::Rdp.epsilon(&left, budget(epsilon).delta());
            prop_assert!(total.get() <= epsilon * (1.0 + 1e-12), "{} left of {}", total, epsilon);
        }
    }

    #[test]
    fn the_spending_does_not_depend_on_the_order_of_the_records(
        order in Just((0usize..12).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let records: Vec<ChargeRecord> = (0u64..12)
            .map(|round| ChargeRecord {
                key: key("alert", round, 0),
                mechanism: mechanism(0.1, 1.0 + (round % 5) as f64 * 0.37, round + 1),
                charged_at_unix_ms: round,
            })
            .collect();
        let straight = Ledger::restore(Accountant::Rdp, records.clone()).expect("records");
        let shuffled = Ledger::restore(Accountant::Rdp, order.iter().map(|&index| records[index].clone())).expect("records");
        let delta = budget(1.0).delta();
        prop_assert_eq!(straight.spending(delta), shuffled.spending(delta));
        prop_assert!(straight.records().eq(shuffled.records()));
    }
}
