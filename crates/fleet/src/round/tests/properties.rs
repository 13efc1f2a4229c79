//! What holds of every job, whatever is told to it in whatever order.

use super::*;

proptest! {
    /// Whatever devices do, in whatever order and however often: what is summed is exactly what was acknowledged, once
    /// for each device, and the job ends.
    #[test]
    fn the_accepted_set_is_what_was_acknowledged_without_duplicates(
        steps in prop::collection::vec((0u8..12, 1u8..9, 0u8..3, 0u64..12), 1..150),
    ) {
        let mut job = JobState::begin(spec(), at(0)).unwrap();
        let mut second = 0;
        let mut acknowledged: BTreeMap<(RoundId, DeviceId), Digest> = BTreeMap::new();
        let mut summed: BTreeSet<RoundId> = BTreeSet::new();
        for (what, who, bytes, wait) in steps {
            second += wait;
            let round = job.round_id();
            let event = match what {
                0 => eligible(1..=who),
                1 | 2 => Event::Configured { round: round.clone(), configuration: digest(200) },
                3 => Event::Declined { round: round.clone(), device: device(who), reason: Decline::Busy },
                4 => Event::Lost { round: round.clone(), device: device(who) },
                5 => Event::Aggregated { round: round.clone() },
                6 => evaluated(&job, 2.0, 1.9 + f64::from(bytes) * 0.1),
                7 => Event::Tick,
                _ => contributed(&job, who, who + 100 * (bytes / 2)),
            };
            let mut actions = Vec::new();
            let before = job.clone();
            let answer = job.handle(at(second), event.clone(), &mut actions);
            match (&answer, event) {
                (Ok(_), Event::Contributed { round, device, contribution, .. }) => {
                    let kept = acknowledged.entry((round, device)).or_insert(contribution);
                    prop_assert_eq!(*kept, contribution);
                }
                (Err(_), _) => prop_assert_eq!(&job, &before),
                _ => {}
            }
            for action in actions {
                if let Action::Aggregate { round, accepted } = action {
                    prop_assert!(accepted.len() >= 3 && accepted.len() <= 5);
                    let of_round: BTreeMap<DeviceId, Digest> =
                        acknowledged.iter().filter(|((r, _), _)| *r == round).map(|((_, d), c)| (*d, *c)).collect();
                    prop_assert_eq!(accepted, of_round);
                    prop_assert!(summed.insert(round), "a round is summed once");
                }
            }
            // The trainer is killed: only what is kept survives.
            job = serde_json::from_str(&serde_json::to_string(&job).unwrap()).unwrap();
        }
        // With nothing but time passing, the job ends.
        for _ in 0..64 {
            let Some(deadline) = job.next_deadline() else { break };
            job.handle(deadline.max(at(second)), Event::Tick, &mut Vec::new()).unwrap();
        }
        prop_assert_eq!(job.next_deadline(), None);
    }
}
