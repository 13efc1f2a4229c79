//! What may have been withdrawn while nobody listened, or while a newer assignment is looked up, does not get to serve.

use super::*;

/// A device that runs release 1, with release 2 on its way in under assignment 2, at this stage.
fn on_its_way(stage: Stage) -> InstallState {
    let mut state = running_one();
    tell(&mut state, 300, assigned(2, 2));
    while state
        .candidate
        .as_ref()
        .is_some_and(|candidate| candidate.stage < stage)
    {
        step(&mut state, 301);
    }
    state
}

fn done(stage: Stage) -> Event {
    let assignment = generation(2);
    match stage {
        Stage::Probe => Event::Probed {
            assignment,
            matched: 3,
            run: 4,
        },
        stage => Event::Done { assignment, stage },
    }
}

const STAGES: [Stage; 6] = [
    Stage::Fetch,
    Stage::Verify,
    Stage::Stage,
    Stage::WarmUp,
    Stage::Probe,
    Stage::Switch,
];

#[test]
fn after_a_start_nothing_new_is_installed_before_desired_state_names_it_again() {
    for stage in STAGES {
        let mut state = on_its_way(stage);
        let actions = tell(&mut state, 302, Event::Started);
        assert!(
            !actions.iter().any(|action| matches!(action, Action::Run { .. })),
            "{stage}: {actions:?}"
        );
        tell(&mut state, 303, Event::Tick);
        // The end of a step that was under way before the start is of no use any more.
        assert!(state.handle(at(304), done(stage), &mut Vec::new()).is_err(), "{stage}");
        assert_eq!(state.active, Some(install(1, 1)));

        // The rollout went back meanwhile: the release never serves.
        let mut back = state.clone();
        tell(&mut back, 305, assigned(1, 3));
        settle(&mut back, 306);
        assert_eq!((back.active, back.candidate), (Some(install(1, 3)), None), "{stage}");

        // It did not: what is here is verified again and goes on.
        let again = tell(&mut state, 305, assigned(2, 2));
        let from = stage.min(Stage::Verify);
        let install = install(2, 2);
        assert!(
            again.contains(&Action::Run {
                stage: from,
                install: install.clone()
            }),
            "{stage}: {again:?}"
        );
        settle(&mut state, 306);
        assert_eq!(state.active, Some(install), "{stage}");
    }
}

#[test]
fn a_retry_that_fell_due_while_the_agent_was_down_waits_for_desired_state_too() {
    let mut state = on_its_way(Stage::Fetch);
    let failure = StepFailure::Transient("no route".into());
    let (assignment, stage) = (generation(2), Stage::Fetch);
    let failed = Event::Failed {
        assignment,
        stage,
        failure,
    };
    tell(&mut state, 301, failed);
    tell(&mut state, 400, Event::Started);
    assert_eq!(state.next_deadline(), None);
    assert!(tell(&mut state, 401, Event::Tick).is_empty());
    tell(&mut state, 402, assigned(2, 2));
    assert_eq!(state.next_deadline(), Some(at(302)));
    settle(&mut state, 403);
    assert_eq!(state.active, Some(install(2, 2)));
}

#[test]
fn a_release_does_not_switch_while_a_newer_assignment_is_looked_up() {
    for stage in STAGES {
        let mut state = on_its_way(stage);
        assert!(
            tell(
                &mut state,
                302,
                Event::Superseded {
                    assignment: generation(3)
                }
            )
            .is_empty()
        );
        assert!(state.handle(at(303), done(stage), &mut Vec::new()).is_err(), "{stage}");
        assert_eq!(state.active, Some(install(1, 1)));
        // The same release under the newer assignment goes on where it was.
        let actions = tell(&mut state, 304, assigned(2, 3));
        let install = install(2, 3);
        assert!(
            actions.contains(&Action::Run {
                stage,
                install: install.clone()
            }),
            "{stage}: {actions:?}"
        );
        settle(&mut state, 305);
        assert_eq!(state.active, Some(install));
    }
    let mut state = on_its_way(Stage::Switch);
    let older = Event::Superseded {
        assignment: generation(2),
    };
    let refused = Refused::Stale {
        told: generation(2),
        known: generation(2),
    };
    assert_eq!(state.handle(at(302), older, &mut Vec::new()), Err(refused));
    step(&mut state, 303);
    assert_eq!(state.active, Some(install(2, 2)));
}

#[test]
fn only_what_was_not_answered_is_looked_up() {
    let mut state = on_its_way(Stage::Probe);
    let soil = |number| format!("soil.r{number}").parse::<ReleaseId>().unwrap();
    let asks =
        |state: &InstallState| [1, 2, 3].map(|counter| state.asks_for(generation(counter), Some(&soil(2)), "q4-0"));
    assert_eq!(asks(&state), [false, false, true]);
    assert!(
        state.asks_for(generation(2), Some(&soil(2)), "q8-0"),
        "another variant under the same assignment"
    );
    assert!(
        state.asks_for(generation(2), None, "q4-0"),
        "what is no release is looked up, to say why"
    );
    tell(&mut state, 302, Event::Started);
    assert_eq!(asks(&state), [false, true, true], "what is in doubt is asked for again");
    state.change_deployment();
    assert_eq!(
        asks(&state),
        [true, true, true],
        "generations of different deployments do not compare"
    );
    assert!(is_overtaken(generation(2), Some(generation(3))));
    assert!(!is_overtaken(generation(3), Some(generation(3))) && !is_overtaken(generation(3), None));
}

#[test]
fn going_back_to_the_release_that_was_confirmed_is_no_probation() {
    let mut state = on_its_way(Stage::Switch);
    step(&mut state, 302);
    assert_eq!(
        (&state.active, &state.previous),
        (&Some(install(2, 2)), &Some(install(1, 1)))
    );
    tell(&mut state, 303, assigned(1, 3));
    settle(&mut state, 304);
    let back = install(1, 3);
    assert_eq!(
        (&state.active, &state.previous, state.switched_at),
        (&Some(back.clone()), &None, None)
    );
    assert_eq!(state.progress(), Progress::Converged);
    // It crashes now and then: there is nothing else to serve.
    for second in 330..340 {
        assert_eq!(tell(&mut state, second, Event::Crashed)[0], Action::Serve(back.clone()));
    }
}

#[test]
fn what_is_kept_to_go_back_to_stays_when_changed_bytes_are_installed_anew() {
    let mut state = on_its_way(Stage::Switch);
    step(&mut state, 302);
    tell(&mut state, 400, Event::Tick);
    tell(&mut state, 401, Event::Damaged { install: install(2, 2) });
    tell(&mut state, 402, assigned(2, 2));
    settle(&mut state, 403);
    assert_eq!(
        (&state.active, &state.previous),
        (&Some(install(2, 2)), &Some(install(1, 1)))
    );
    tell(&mut state, 430, Event::Crashed);
    tell(&mut state, 431, Event::Crashed);
    assert_eq!(state.active, Some(install(1, 1)));
}

#[test]
fn bytes_that_changed_are_installed_anew_under_the_assignment_that_they_have() {
    let mut state = running_one();
    let other = Event::Damaged { install: install(2, 2) };
    assert_eq!(
        state.handle(at(300), other, &mut Vec::new()),
        Err(Refused::NothingActive)
    );
    tell(&mut state, 301, Event::Damaged { install: install(1, 1) });
    assert_eq!(
        (
            &state.active,
            state.asks_for(generation(1), Some(&install(1, 1).release), "q4-0")
        ),
        (&None, true)
    );
    tell(&mut state, 302, assigned(1, 1));
    settle(&mut state, 303);
    assert_eq!(state.active, Some(install(1, 1)));
}
