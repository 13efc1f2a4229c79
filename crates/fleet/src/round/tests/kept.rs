//! What the controller keeps of rounds, and whom a trainer admits.

use super::registry::{self, AcceptedError, Closing, Opened, Opening, Reached, Unchanged};
use super::*;

const OPEN: Opened = Opened {
    configuration: Digest::from_bytes([7; 32]),
    closed: false,
    accepted: None,
    deadline: Timestamp::from_unix_ms(60_000),
};

#[test]
fn an_attempt_is_opened_once_and_gone_on_with_under_its_configuration_alone() {
    let given_up = Opened { closed: true, ..OPEN };
    for (known, configuration, expected) in [
        (None, 7, Ok(Opening::New)),
        (Some(&OPEN), 7, Ok(Opening::Again)),
        (Some(&OPEN), 8, Err(Unchanged::OtherConfiguration)),
        (Some(&given_up), 7, Ok(Opening::Over)),
        (Some(&given_up), 8, Err(Unchanged::OtherConfiguration)),
    ] {
        let opened = registry::open(known, &round(1, 1), digest(configuration), Reached::default());
        assert_eq!(opened, expected, "{known:?}");
    }
}

fn round(number: u32, attempt: u32) -> RoundId {
    RoundId {
        job: JobName::new("moisture").unwrap(),
        round: RoundNumber(number),
        attempt: Attempt(attempt),
    }
}

#[test]
fn an_attempt_that_comes_late_ends_no_later_one() {
    let kept = Reached {
        committed: 1,
        attempt: 2,
    };
    let overtaken = Unchanged::Overtaken {
        committed: 1,
        attempt: 2,
    };
    for (number, attempt, expected) in [
        (1, 3, Err(overtaken)),
        (2, 1, Err(overtaken)),
        (2, 2, Ok(Opening::New)),
        (2, 3, Ok(Opening::New)),
    ] {
        let opened = registry::open(None, &round(number, attempt), digest(7), kept);
        assert_eq!(opened, expected, "round {number}, attempt {attempt}");
    }
}

#[test]
fn an_accepted_set_changes_once() {
    let given_up = Opened { closed: true, ..OPEN };
    let committed = Opened {
        accepted: Some(digest(1)),
        ..given_up
    };
    for (known, told, rounds, expected) in [
        (OPEN, 1, 2, Ok(Closing::Commit)),
        (OPEN, 1, 3, Err(Unchanged::NotNext { committed: 3 })),
        (OPEN, 1, 1, Err(Unchanged::NotNext { committed: 1 })),
        (given_up, 1, 2, Err(Unchanged::GivenUp)),
        (committed, 1, 3, Ok(Closing::Known)),
        (committed, 2, 3, Err(Unchanged::OtherAcceptedSet)),
    ] {
        let closed = registry::close(&known, RoundNumber(3), digest(told), rounds);
        assert_eq!(closed, expected, "{known:?} after {rounds} rounds");
    }
}

#[test]
fn a_checkpoint_that_comes_late_is_overtaken() {
    let reached = |committed, attempt| Reached { committed, attempt };
    for (told, kept, expected) in [
        (reached(0, 0), reached(0, 0), false),
        (reached(0, 2), reached(0, 1), false),
        (reached(1, 0), reached(0, 3), false),
        (reached(0, 1), reached(0, 2), true),
        (reached(0, 3), reached(1, 0), true),
    ] {
        assert_eq!(told.is_overtaken(kept), expected, "{told:?} after {kept:?}");
    }
}

#[test]
fn nobody_is_invited_to_a_round_that_is_over() {
    assert!(registry::invites(&OPEN, at(59)));
    assert!(!registry::invites(&OPEN, at(60)));
    assert!(!registry::invites(&Opened { closed: true, ..OPEN }, at(1)));
}

#[test]
fn an_accepted_set_names_each_device_of_the_cohort_at_most_once() {
    let check = |accepted: &[u8]| {
        let named = accepted.iter().map(|n| (device(*n), digest(*n)));
        registry::check_accepted(|who| (1..=5).any(|n| device(n) == who), 2, named)
    };
    let set = BTreeMap::from([(device(1), digest(1)), (device(4), digest(4))]);
    assert_eq!(check(&[4, 1]), Ok(set));
    assert_eq!(check(&[1, 2, 9]), Err(AcceptedError::NotInvited { index: 2 }));
    assert_eq!(check(&[1, 2, 1]), Err(AcceptedError::Twice { index: 2 }));
    assert_eq!(check(&[3]), Err(AcceptedError::TooFew { given: 1, quorum: 2 }));
}

fn attempt(round: u32, attempt: u32) -> RoundId {
    RoundId {
        job: JobName::new("moisture").unwrap(),
        round: RoundNumber(round),
        attempt: Attempt(attempt),
    }
}

#[test]
fn a_trainer_admits_to_the_attempt_that_it_has_open_and_to_nothing_else() {
    let open = OpenAttempt {
        round: attempt(2, 1),
        configuration: digest(7),
        contribution: ByteSize::new(64),
    };
    assert_eq!(open.admit(&attempt(2, 1), digest(7)), Ok(()));
    for other in [attempt(1, 1), attempt(2, 2)] {
        assert!(
            matches!(open.admit(&other, digest(7)), Err(NotAdmitted::OtherRound { .. })),
            "{other}"
        );
    }
    let refused = |what| {
        Err(NotAdmitted::OtherConfiguration {
            what,
            told: digest(8),
            expected: digest(7),
        })
    };
    assert_eq!(open.admit(&attempt(2, 1), digest(8)), refused("ticket"));
    assert_eq!(open.announced(digest(8), 64), refused("header"));
    assert_eq!(open.announced(digest(7), 64), Ok(()));
    for told in [0, 63, 65, u64::MAX] {
        assert_eq!(
            open.announced(digest(7), told),
            Err(NotAdmitted::Length { told, expected: 64 })
        );
    }
}

#[test]
fn a_cohort_is_picked_evenly_and_anew_for_every_attempt() {
    let all = || (1..=100).map(device);
    let cohorts: Vec<BTreeSet<DeviceId>> = (1..=40).map(|n| registry::pick(all(), 10, 3, &attempt(n, 1))).collect();
    assert!(cohorts.iter().all(|cohort| cohort.len() == 10));
    assert_ne!(
        cohorts[0],
        registry::pick(all(), 10, 3, &attempt(1, 2)),
        "another attempt"
    );
    assert_ne!(cohorts[0], registry::pick(all(), 10, 4, &attempt(1, 1)), "another job");
    assert_eq!(
        cohorts[0],
        registry::pick(all().rev(), 10, 3, &attempt(1, 1)),
        "in any order"
    );
    // Binomial(40, 0.1): a device that is never picked has a chance of 1.5 %, more than 12 times one of 4 in 100,000.
    let times = |n: u8| cohorts.iter().filter(|cohort| cohort.contains(&device(n))).count();
    let never = (1..=100).filter(|n| times(*n) == 0).count();
    assert!(
        never < 10 && (1..=100).all(|n| times(n) <= 12),
        "{never} were never picked"
    );
    assert_eq!(registry::pick(all().take(3), 10, 3, &attempt(1, 1)).len(), 3);
}

#[test]
fn a_job_goes_on_with_an_attempt_whose_configuration_is_here_and_with_another_one_otherwise() {
    let resume = |committed, attempt, goes_on: bool| {
        let job = JobState::resume(spec(), committed, attempt, |_| goes_on, at(0)).unwrap();
        (job.round.0, job.attempt.0, job.spec.max_attempts)
    };
    assert_eq!(resume(0, 0, true), (1, 1, 2), "nothing was under way");
    assert_eq!(resume(1, 2, true), (2, 2, 2), "goes on");
    assert_eq!(
        resume(1, 2, false),
        (2, 3, 3),
        "another attempt, whatever the specification says"
    );
    assert_eq!(resume(1, 1, false), (2, 2, 2));
}

#[test]
fn a_round_is_as_large_as_what_the_controller_chose() {
    let mut job = JobState::begin(spec(), at(0)).unwrap();
    tell(&mut job, 0, Event::Tick);
    let devices: BTreeSet<DeviceId> = (1..=4).map(device).collect();
    let actions = tell(&mut job, 1, Event::Chosen { devices });
    assert!(matches!(&actions[..], [Action::Configure { cohort, .. }] if cohort.len() == 4));
    assert_eq!((job.spec.cohort, job.spec.enough), (4, 4));
    // Chosen too late, it changes nothing.
    let before = job.clone();
    let devices: BTreeSet<DeviceId> = (1..=5).map(device).collect();
    assert!(tell(&mut job, 2, Event::Chosen { devices }).is_empty());
    assert_eq!(job, before);
}
