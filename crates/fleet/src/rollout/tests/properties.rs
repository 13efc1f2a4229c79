//! What holds of every rollout, whatever is told to it in whatever order.

use super::*;

fn any_nature() -> impl Strategy<Value = Nature> {
    prop_oneof![
        6 => Just(Nature::Good),
        1 => Just(Nature::WrongAnswers),
        1 => Just(Nature::Crashes),
        2 => Just(Nature::Offline),
        1 => Just(Nature::Stuck),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_rollout_never_exceeds_its_wave_nor_its_budget_and_ends(
        natures in prop::collection::vec(any_nature(), 1..24),
        max_unavailable in 1u32..6,
        canaries in 1u32..4,
        percent in 1u8..100,
    ) {
        let waves = [WaveSize::Count(canaries), WaveSize::Percent(percent), WaveSize::Percent(100)];
        let policy = RolloutPolicy {
            max_unavailable,
            on_deadline: DeadlineRule::RollBack,
            wave_deadline: Duration::from_secs(60),
            ..policy(&waves)
        };
        let mut fleet = Fleet::new(policy, &natures);
        let mut bad_since_rollback = false;
        for second in 1..400 {
            let heard_before = fleet.rollout.status(at(second)).offered;
            fleet.second(second);
            let status = fleet.rollout.status(at(second));
            if let Phase::Advancing { .. } = status.phase {
                // Earlier waves may have been larger than a later percentage.
                let largest = status.wave_size.max(canaries).max(heard_before);
                prop_assert!(status.offered <= largest, "{status:?}");
                prop_assert!(status.working <= max_unavailable, "{status:?}");
            }
            if matches!(status.phase, Phase::RollingBack { .. } | Phase::RolledBack { .. }) {
                bad_since_rollback |= fleet.offered() > 0;
            }
            // A restart of the controller at any time: only the state survives, devices join and report again.
            if second % 37 == 0 {
                let kept: RolloutState =
                    serde_json::from_str(&serde_json::to_string(fleet.rollout.state()).unwrap()).unwrap();
                prop_assert_eq!(&kept, fleet.rollout.state());
                fleet.rollout = Rollout::resume(kept, at(second));
                for (n, device) in (1u8..).zip(fleet.natures.keys().copied().collect::<Vec<_>>()) {
                    fleet.tell(second, Event::Joined { device, class: class(n), joined_at: at(0) }).unwrap();
                }
            }
        }
        prop_assert!(!bad_since_rollback);
        prop_assert!(fleet.rollout.state().phase.is_over(), "{:?}", fleet.rollout.status(at(400)));
        if natures.iter().all(|nature| *nature == Nature::Good) {
            let completed = matches!(fleet.rollout.state().phase, Phase::Completed { .. });
            prop_assert!(completed);
        }
    }

    #[test]
    fn any_order_of_reports_and_orders_is_taken_without_a_panic(
        steps in prop::collection::vec((0u8..10, 0u8..6, 0u64..50), 0..120),
    ) {
        let mut fleet = Fleet::new(policy(&WAVES), &[Nature::Good; 4]);
        let mut second = 1;
        for (what, who, wait) in steps {
            second += wait;
            let by = "ada".to_owned();
            let event = match what {
                0 => Event::Pause { by },
                1 => Event::Resume { by },
                2 => Event::Promote { by },
                3 => Event::Abort { by },
                4 => Event::RollBack { by },
                5 => Event::Left { device: device(who) },
                6 => Event::Joined { device: device(who), class: class(who), joined_at: at(second) },
                _ => Event::Tick,
            };
            let before = fleet.rollout.clone();
            if fleet.tell(second, event).is_err() {
                prop_assert_eq!(&fleet.rollout, &before, "a refused event changes nothing");
            }
            let _ = (fleet.rollout.explain(at(second), device(who)), fleet.rollout.status(at(second)));
        }
    }
}
