//! The private store: what is kept, what is paid, and what a killed process leaves.

use fieldfare_agent::private::{Budgets, Offered, PayError, PrivateStore, RoundKey};
use fieldfare_fleet::{Attempt, Digest, JobName, RoundId, RoundNumber};
use fieldfare_lm::example::Example;
use fieldfare_privacy::ledger::payment::Unpaid;
use fieldfare_privacy::{Budget, DpSgdParameters, Mechanism};

const CONFIGURATION: Digest = Digest::from_bytes([1; 32]);

pub(crate) fn key(job: &str, round: u32, attempt: u32) -> RoundKey {
    let round = RoundId {
        job: JobName::new(job).unwrap(),
        round: RoundNumber(round),
        attempt: Attempt(attempt),
    };
    RoundKey::new(&round).unwrap()
}

/// One round of the pilot: q 0.16, 8 steps.
pub(crate) fn mechanism(sigma: f64) -> Mechanism {
    DpSgdParameters::from_numbers(0.16, 8, 0.5, sigma, 200)
        .unwrap()
        .mechanism()
}

pub(crate) fn budgets(device: f64, job: f64) -> Budgets {
    Budgets {
        device: Budget::from_numbers(device, 1e-5).unwrap(),
        job: Budget::from_numbers(job, 1e-5).unwrap(),
    }
}

pub(crate) fn text(text: &str) -> Example {
    Example::Text { text: text.into() }
}

#[test]
fn examples_are_added_listed_corrected_and_erased_and_their_numbers_are_never_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("private.redb");
    let store = PrivateStore::open(&path).unwrap();
    let ids = store.add(&[text("a"), text("b"), text("c")]).unwrap().unwrap();
    let page = store.page(0, 2).unwrap();
    assert_eq!((page.examples.len(), page.total, page.next), (2, 3, Some(ids[1])));
    assert_eq!(store.page(ids[1], 2).unwrap().examples[0].example, text("c"));
    assert!(store.correct(ids[0], &text("A")).unwrap() && !store.correct(99, &text("x")).unwrap());
    assert!(store.erase(ids[1]).unwrap() && !store.erase(ids[1]).unwrap());
    drop(store);
    let store = PrivateStore::open(&path).unwrap();
    let all = store.training_set().unwrap().examples.into_iter();
    let all: Vec<_> = all.map(|stored| (stored.id, stored.example)).collect();
    assert_eq!(all, [(ids[0], text("A")), (ids[2], text("c"))]);
    assert_eq!(store.erase_all().unwrap(), 2);
    let again = store.add(&[text("d")]).unwrap().unwrap();
    assert!(again[0] > ids[2]);
}

#[test]
fn what_was_learnt_from_examples_that_were_taken_back_is_not_paid_for() {
    type TakeBack = fn(&PrivateStore, u64);
    let ways: [TakeBack; 3] = [
        |store, id| assert!(store.erase(id).unwrap()),
        |store, _| assert_eq!(store.erase_all().unwrap(), 2),
        |store, id| assert!(store.correct(id, &text("A")).unwrap()),
    ];
    for take_back in ways {
        let folder = tempfile::tempdir().unwrap();
        let store = PrivateStore::open(&folder.path().join("private.redb")).unwrap();
        let ids = store.add(&[text("a"), text("b")]).unwrap().unwrap();
        let pay = |round, removals| {
            let offered = Offered {
                configuration: CONFIGURATION,
                removals,
                bytes: b"x",
            };
            store.pay(&key("gain", round, 1), mechanism(1.0), budgets(8.0, 8.0), 5, offered)
        };
        let removals = store.training_set().unwrap().removals;
        pay(1, removals).unwrap();
        take_back(&store, ids[0]);
        assert!(matches!(pay(2, removals), Err(PayError::Unpaid(Unpaid::TakenBack))));
        assert!(store.contribution(&key("gain", 2, 1)).unwrap().is_none());
        assert_eq!(store.spending(budgets(8.0, 8.0).device.delta()).unwrap().charges, 1);
        // What was paid for before goes out as it was, also now.
        assert_eq!(pay(1, removals).unwrap().bytes, b"x");
    }
}

#[test]
fn a_round_whose_bytes_are_lost_is_not_answered_with_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("private.redb");
    let offered = Offered {
        configuration: CONFIGURATION,
        removals: 0,
        bytes: b"x",
    };
    let pay = |store: &PrivateStore| store.pay(&key("gain", 1, 1), mechanism(1.0), budgets(8.0, 8.0), 5, offered);
    pay(&PrivateStore::open(&path).unwrap()).unwrap();
    let table: redb::TableDefinition<'_, &str, (&str, &[u8])> = redb::TableDefinition::new("contributions");
    let database = redb::Database::open(&path).unwrap();
    let writing = database.begin_write().unwrap();
    writing.open_table(table).unwrap().retain(|_, _| false).unwrap();
    writing.commit().unwrap();
    drop(database);
    let store = PrivateStore::open(&path).unwrap();
    assert!(matches!(pay(&store), Err(PayError::Unpaid(Unpaid::BytesLost))));
    assert_eq!(store.spending(budgets(8.0, 8.0).device.delta()).unwrap().charges, 1);
}

#[test]
fn a_second_agent_cannot_open_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("private.redb");
    let _store = PrivateStore::open(&path).unwrap();
    assert!(
        PrivateStore::open(&path)
            .unwrap_err()
            .to_string()
            .contains("another agent")
    );
}

#[test]
fn a_round_is_paid_for_once_and_always_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("private.redb");
    let store = PrivateStore::open(&path).unwrap();
    let pay = |store: &PrivateStore, configuration, bytes: &[u8]| {
        store.pay(
            &key("gain", 1, 1),
            mechanism(1.0),
            budgets(8.0, 8.0),
            5,
            Offered {
                configuration,
                removals: 0,
                bytes,
            },
        )
    };
    assert_eq!(pay(&store, CONFIGURATION, b"first").unwrap().bytes, b"first");
    let spent = store.spending(budgets(8.0, 8.0).device.delta()).unwrap();
    store.acknowledge(&key("gain", 1, 1)).unwrap();
    drop(store);
    // Another training run of the same attempt, after a restart: its bytes never leave.
    let store = PrivateStore::open(&path).unwrap();
    let repeated = pay(&store, CONFIGURATION, b"second").unwrap();
    assert_eq!(
        (repeated.bytes.as_slice(), repeated.acknowledged),
        (b"first".as_slice(), true)
    );
    assert!(matches!(
        pay(&store, Digest::from_bytes([2; 32]), b"third"),
        Err(PayError::Unpaid(Unpaid::OtherConfiguration))
    ));
    assert_eq!(store.spending(budgets(8.0, 8.0).device.delta()).unwrap(), spent);
}

#[test]
fn the_device_refuses_at_its_own_budget_and_at_the_jobs_whatever_the_server_says() {
    let folder = tempfile::tempdir().unwrap();
    let store = PrivateStore::open(&folder.path().join("private.redb")).unwrap();
    let offered = Offered {
        configuration: CONFIGURATION,
        removals: 0,
        bytes: b"x",
    };
    let pay = |job: &str, round, budgets| store.pay(&key(job, round, 1), mechanism(1.0), budgets, 5, offered);
    let mut rounds = 0;
    while pay("gain", rounds + 1, budgets(8.0, 1e4)).is_ok() {
        rounds += 1;
        assert!(rounds < 100, "the budget never ends");
    }
    assert!(rounds > 0);
    let spent = store.spending(budgets(8.0, 8.0).device.delta()).unwrap();
    assert!(spent.epsilon.get() <= 8.0);
    // Another job under a generous budget of its own does not change what the device has spent.
    assert!(matches!(
        pay("other", 1, budgets(8.0, 1e4)),
        Err(PayError::Unpaid(Unpaid::Refused(_)))
    ));
    // A generous device still keeps to the job's budget, counted over that job alone.
    assert!(matches!(
        pay("gain", rounds + 1, budgets(1e4, 8.0)),
        Err(PayError::Unpaid(Unpaid::Refused(_)))
    ));
    assert!(pay("other", 1, budgets(1e4, 8.0)).is_ok());
    assert!(
        store.contribution(&key("gain", rounds + 1, 1)).unwrap().is_none(),
        "a refused round leaves nothing to send"
    );
}
