//! What holds of every installation, whatever is told to it in whatever order.

use super::*;

fn any_event() -> impl Strategy<Value = Event> {
    let stage = prop::sample::select(vec![
        Stage::Fetch,
        Stage::Verify,
        Stage::Stage,
        Stage::WarmUp,
        Stage::Probe,
        Stage::Switch,
        Stage::Confirm,
    ]);
    let failure = prop_oneof![
        Just(StepFailure::Transient("t".into())),
        Just(StepFailure::Permanent("p".into()))
    ];
    prop_oneof![
        4 => (1u8..5, 1u64..8).prop_map(|(release, counter)| assigned(release, counter)),
        1 => (1u64..8).prop_map(|c| Event::Unassigned { assignment: generation(c), obstacle: None }),
        12 => (1u64..8, stage.clone()).prop_map(|(c, stage)| Event::Done { assignment: generation(c), stage }),
        3 => (1u64..8, 0u32..6).prop_map(|(c, m)| Event::Probed { assignment: generation(c), matched: m, run: 5 }),
        2 => (1u64..8, stage, failure)
            .prop_map(|(c, stage, failure)| Event::Failed { assignment: generation(c), stage, failure }),
        2 => Just(Event::Crashed),
        2 => Just(Event::Started),
        2 => Just(Event::Tick),
    ]
}

proptest! {
    #[test]
    fn power_loss_in_any_state_is_harmless(events in prop::collection::vec((any_event(), any::<bool>()), 0..80)) {
        let mut state = running_one();
        let mut actions = Vec::new();
        for (second, (event, healthy)) in (300u64..).zip(events) {
            let served_before = state.active.clone();
            let unassigns = matches!(event, Event::Unassigned { .. });
            let _ = state.handle(at(second), event, &mut actions);
            if healthy && state.candidate.as_ref().is_some_and(|c| c.retry_at.is_none() && !c.in_doubt) {
                step(&mut state, second);
            }
            // What serves is only ever taken away by the operator, or by a revert when nothing came before it.
            let lost = served_before.is_some() && state.active.is_none();
            prop_assert!(!lost || unassigns || !state.failed.is_empty());
            // What is kept to go back to is neither what serves nor something that failed and was not assigned anew.
            if let (Some(previous), Some(active)) = (&state.previous, &state.active) {
                prop_assert_ne!(&previous.manifest, &active.manifest);
            }
            // Nothing that is kept is ever thrown away.
            for action in actions.drain(..) {
                if let Action::Discard(gone) = action {
                    let kept = state.active.iter().chain(&state.previous).map(|i| i.manifest);
                    let wanted = state.candidate.iter().map(|c| c.assignment.install.manifest);
                    prop_assert!(kept.chain(wanted).all(|manifest| manifest != gone.manifest));
                }
            }
            // A power cut: only what is kept survives.
            state = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        }
        // Whatever happened, a healthy device reaches a fresh assignment.
        tell(&mut state, 1000, Event::Started);
        tell(&mut state, 1000, assigned(9, 100));
        settle(&mut state, 1001);
        tell(&mut state, 2000, Event::Tick);
        prop_assert_eq!(state.progress(), Progress::Converged);
        prop_assert_eq!(state.active, Some(install(9, 100)));
    }

    #[test]
    fn a_failed_release_never_serves_again_under_its_assignment(repeats in 1usize..20, restarts in 0usize..4) {
        let mut state = running_one();
        tell(&mut state, 300, assigned(2, 2));
        settle(&mut state, 301);
        tell(&mut state, 330, Event::Crashed);
        tell(&mut state, 331, Event::Crashed);
        for n in 0..repeats as u64 {
            tell(&mut state, 400 + n, assigned(2, 2));
            if n < restarts as u64 {
                tell(&mut state, 400 + n, Event::Started);
            }
            settle(&mut state, 400 + n);
            prop_assert_eq!(&state.active, &Some(install(1, 1)));
        }
    }
}
