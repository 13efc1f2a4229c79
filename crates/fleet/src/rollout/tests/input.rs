//! What a rollout refuses, and with which reason.

use super::*;

#[test]
fn stale_future_and_unknown_reports_are_answered_with_a_reason() {
    let mut fleet = Fleet::new(policy(&WAVES), &[Nature::Good; 2]);
    fleet.second(1);
    fleet.second(2);
    let published = fleet.rollout.state().generation;
    let report = |generation| Observation {
        generation,
        target: Some(release(1)),
        running: Some(release(1)),
        progress: Progress::Converged,
        evidence: Evidence::default(),
    };
    let old = Generation { epoch: 0, counter: 1 };
    let cases = [
        (
            device(1),
            old,
            Refused::Stale {
                reported: old,
                seen: published,
            },
        ),
        (
            device(1),
            published.next(),
            Refused::NeverPublished {
                reported: published.next(),
                published,
            },
        ),
        (device(99), published, Refused::UnknownDevice { device: device(99) }),
    ];
    for (device, generation, expected) in cases {
        let before = fleet.rollout.clone();
        let event = Event::Observed {
            device,
            observation: report(generation),
        };
        assert_eq!(fleet.tell(3, event), Err(expected));
        assert_eq!(fleet.rollout, before);
    }
}

#[test]
fn a_policy_that_cannot_work_is_refused() {
    type Change = fn(&mut RolloutPolicy);
    let cases: [(Change, &str); 9] = [
        (|p| p.waves.clear(), "`waves` has 0"),
        (|p| p.waves[0] = WaveSize::Count(0), "`waves[0]`"),
        (|p| p.waves[1] = WaveSize::Percent(101), "`waves[1]`"),
        (|p| p.waves[1] = WaveSize::Percent(100), "`waves[2]` is not larger"),
        (|p| p.waves.truncate(2), "last wave is 100 percent"),
        (|p| p.gates[0].bound = Bound::AtLeast(f64::NAN), "`gates[0]`"),
        (|p| p.max_unavailable = 0, "`max_unavailable`"),
        (|p| p.wave_deadline = Duration::ZERO, "`wave_deadline`"),
        (|p| p.offline_after = Duration::MAX, "`offline_after`"),
    ];
    for (change, expected) in cases {
        let mut policy = policy(&WAVES);
        assert_eq!(policy.validate(), Ok(()));
        change(&mut policy);
        let error = policy.validate().unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} has no {expected:?}");
    }
}

#[test]
fn ranks_spread_evenly_and_change_with_the_seed() {
    let ids = (0u32..10_000).map(|n| {
        let mut bytes = [0; 16];
        bytes[12..].copy_from_slice(&n.to_be_bytes());
        DeviceId::from_bytes(bytes)
    });
    let tenth = u64::MAX / 10;
    let (first, both) = ids.fold((0, 0), |(first, both), id| {
        let (a, b) = (Rank::of(id, 1).get() < tenth, Rank::of(id, 2).get() < tenth);
        (first + u32::from(a), both + u32::from(a && b))
    });
    // Binomial(10000, 0.1) has a deviation of 30, Binomial(10000, 0.01) one of 10: five deviations either way.
    assert!((850..1150).contains(&first), "{first}");
    assert!((50..150).contains(&both), "{both}");
}
