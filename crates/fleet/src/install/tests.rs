mod doubt;
mod properties;

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::rollout::Progress;
use crate::{ByteSize, Digest, Generation, Obstacle, ReleaseId, Timestamp, VariantName};

const POLICY: InstallPolicy = InstallPolicy {
    confirm_window: Duration::from_secs(60),
    crash_window: Duration::from_secs(900),
    max_crashes: 2,
    max_attempts: 3,
    retry_after: Duration::from_secs(1),
    disk_reserve: ByteSize::from_mib(64),
};

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_ms(seconds * 1000)
}

fn generation(counter: u64) -> Generation {
    Generation { epoch: 1, counter }
}

fn install(release: u8, assignment: u64) -> Installed {
    Installed {
        release: format!("soil.r{release}").parse::<ReleaseId>().unwrap(),
        variant: VariantName::new("q4-0").unwrap(),
        manifest: Digest::from_bytes([release; 32]),
        assignment: generation(assignment),
    }
}

fn assigned(release: u8, counter: u64) -> Event {
    let assignment = Assignment {
        install: install(release, counter),
        bytes_missing: ByteSize::from_mib(10),
        probes_required: 3,
    };
    Event::Assigned {
        assignment,
        disk_free: ByteSize::from_mib(100),
    }
}

fn tell(state: &mut InstallState, seconds: u64, event: Event) -> Vec<Action> {
    let mut actions = Vec::new();
    state.handle(at(seconds), event, &mut actions).unwrap();
    actions
}

/// Answers the step under way as a healthy device does.
fn step(state: &mut InstallState, seconds: u64) {
    let Some(candidate) = state.candidate.clone() else {
        return;
    };
    let assignment = candidate.assignment.install.assignment;
    let event = match candidate.stage {
        Stage::Probe => Event::Probed {
            assignment,
            matched: 3,
            run: 4,
        },
        stage => Event::Done { assignment, stage },
    };
    tell(state, seconds, event);
}

fn settle(state: &mut InstallState, from: u64) {
    for second in from..from + 20 {
        tell(state, second, Event::Tick);
        if state
            .candidate
            .as_ref()
            .is_some_and(|c| c.retry_at.is_none() && !c.in_doubt)
        {
            step(state, second);
        }
    }
}

/// A device that runs release 1, confirmed.
fn running_one() -> InstallState {
    let mut state = InstallState::empty(POLICY);
    tell(&mut state, 0, assigned(1, 1));
    settle(&mut state, 1);
    tell(&mut state, 200, Event::Tick);
    assert_eq!((state.progress(), state.switched_at), (Progress::Converged, None));
    state
}

#[test]
fn a_release_goes_through_every_step_and_the_previous_one_is_kept() {
    let mut state = running_one();
    let mut seen = Vec::new();
    tell(&mut state, 300, assigned(2, 2));
    while let Some(candidate) = &state.candidate {
        seen.push(candidate.stage);
        assert_eq!(
            state.active,
            Some(install(1, 1)),
            "the old release serves until the switch"
        );
        step(&mut state, 301);
    }
    use Stage::{Fetch, Probe, Stage as Put, Switch, Verify, WarmUp};
    assert_eq!(seen, [Fetch, Verify, Put, WarmUp, Probe, Switch]);
    assert_eq!(
        (state.active.clone(), state.previous.clone()),
        (Some(install(2, 2)), Some(install(1, 1)))
    );
    assert_eq!(state.progress(), Progress::Working(Stage::Confirm));
    assert_eq!(state.next_deadline(), Some(at(361)));
    tell(&mut state, 361, Event::Tick);
    assert_eq!(state.progress(), Progress::Converged);
}

#[test]
fn another_variant_under_the_same_assignment_is_installed() {
    let mut state = running_one();
    let Event::Assigned {
        mut assignment,
        disk_free,
    } = assigned(1, 1)
    else {
        unreachable!("that is what it makes")
    };
    assignment.install.variant = VariantName::new("q8-0").unwrap();
    let other = assignment.install.clone();
    tell(&mut state, 300, Event::Assigned { assignment, disk_free });
    settle(&mut state, 301);
    assert_eq!(state.active, Some(other));
    // And back, should the profile change again.
    tell(&mut state, 400, assigned(1, 1));
    settle(&mut state, 401);
    assert_eq!(state.active, Some(install(1, 1)));
}

#[test]
fn a_crash_loop_in_the_confirm_window_reverts_and_is_not_tried_again_under_the_same_assignment() {
    let mut state = running_one();
    tell(&mut state, 300, assigned(2, 2));
    settle(&mut state, 301);
    assert_eq!(state.active, Some(install(2, 2)));
    assert_eq!(tell(&mut state, 330, Event::Crashed)[0], Action::Serve(install(2, 2)));
    let actions = tell(&mut state, 331, Event::Crashed);
    assert_eq!(
        actions[..2],
        [Action::Serve(install(1, 1)), Action::Discard(install(2, 2))]
    );
    let Progress::CannotConverge(Obstacle::CrashLoop { crashes: 2, .. }) = state.progress() else {
        panic!("{state:?}")
    };
    assert!(
        tell(&mut state, 332, assigned(2, 2)).is_empty(),
        "a repeated assignment changes nothing"
    );
    assert_eq!(state.active, Some(install(1, 1)));
    tell(&mut state, 333, assigned(2, 3));
    assert_eq!(
        state.progress(),
        Progress::Working(Stage::Fetch),
        "a new assignment is tried"
    );
}

#[test]
fn a_release_that_keeps_crashing_after_its_confirmation_is_reverted_too() {
    let mut state = running_one();
    tell(&mut state, 300, assigned(2, 2));
    settle(&mut state, 301);
    tell(&mut state, 400, Event::Tick);
    assert_eq!(state.progress(), Progress::Converged);
    assert_eq!(tell(&mut state, 500, Event::Crashed)[0], Action::Serve(install(2, 2)));
    // One that comes alone is forgotten.
    assert_eq!(tell(&mut state, 1400, Event::Crashed)[0], Action::Serve(install(2, 2)));
    assert_eq!(state.crashes, [at(1400)]);
    assert_eq!(tell(&mut state, 2299, Event::Crashed)[0], Action::Serve(install(1, 1)));
    let Progress::CannotConverge(Obstacle::CrashLoop { crashes: 2, within }) = state.progress() else {
        panic!("{state:?}")
    };
    assert_eq!(within, POLICY.crash_window);
    assert_eq!(
        state.failed.last().map(|failed| &failed.release),
        Some(&install(2, 2).release)
    );
}

#[test]
fn where_there_is_nothing_to_go_back_to_a_confirmed_release_that_crashes_is_started_again() {
    let mut state = running_one();
    for second in 300..310 {
        assert_eq!(
            tell(&mut state, second, Event::Crashed)[0],
            Action::Serve(install(1, 1))
        );
    }
    assert_eq!((state.progress(), state.crashes.len()), (Progress::Converged, 2));
}

#[test]
fn restarts_of_a_device_are_no_crashes_of_a_confirmed_release() {
    let mut state = running_one();
    tell(&mut state, 300, assigned(2, 2));
    settle(&mut state, 301);
    tell(&mut state, 400, Event::Tick);
    for second in 401..410 {
        assert_eq!(
            tell(&mut state, second, Event::Started)[0],
            Action::Serve(install(2, 2))
        );
    }
    assert_eq!(state.crashes, []);
}

#[test]
fn a_device_that_lost_its_time_in_the_confirm_window_confirms_a_release_that_stays_up() {
    let mut state = running_one();
    tell(&mut state, 3000, assigned(2, 2));
    settle(&mut state, 3001);
    assert!(state.switched_at > Some(at(3000)));
    // It starts again with its clock far behind: the window begins anew instead of ending in the distant future.
    assert_eq!(tell(&mut state, 1, Event::Started)[0], Action::Serve(install(2, 2)));
    assert_eq!(state.next_deadline(), Some(at(61)));
    tell(&mut state, 61, Event::Tick);
    assert_eq!(state.progress(), Progress::Converged);
    // Later starts under the same clock are no crashes.
    for second in 62..66 {
        assert_eq!(
            tell(&mut state, second, Event::Started)[0],
            Action::Serve(install(2, 2))
        );
    }
    assert_eq!(state.active, Some(install(2, 2)));
}

#[test]
fn a_release_that_was_never_confirmed_is_not_kept_to_go_back_to() {
    let mut state = running_one();
    tell(&mut state, 300, assigned(2, 2));
    settle(&mut state, 301);
    tell(&mut state, 322, assigned(3, 3));
    settle(&mut state, 323);
    assert_eq!(
        (state.active.clone(), state.previous.clone()),
        (Some(install(3, 3)), Some(install(1, 1)))
    );
}

#[test]
fn a_full_disk_is_refused_before_the_first_byte_and_looked_at_again() {
    let mut state = running_one();
    let Event::Assigned { mut assignment, .. } = assigned(2, 2) else {
        unreachable!()
    };
    assignment.bytes_missing = ByteSize::from_mib(100);
    let full = Event::Assigned {
        assignment: assignment.clone(),
        disk_free: ByteSize::from_mib(163),
    };
    tell(&mut state, 300, full.clone());
    let expected = Obstacle::DiskTooSmall {
        needed: ByteSize::from_mib(164),
        available: ByteSize::from_mib(163),
    };
    assert_eq!(state.progress(), Progress::CannotConverge(expected));
    assert_eq!(state.candidate, None);
    let freed = Event::Assigned {
        assignment,
        disk_free: ByteSize::from_mib(164),
    };
    tell(&mut state, 301, freed);
    assert_eq!(state.progress(), Progress::Working(Stage::Fetch));
}

#[test]
fn failures_are_retried_with_growing_waits_and_then_given_up() {
    let mut state = running_one();
    tell(&mut state, 300, assigned(2, 2));
    let failure = StepFailure::Transient("connection reset".into());
    let failed = Event::Failed {
        assignment: generation(2),
        stage: Stage::Fetch,
        failure,
    };
    tell(&mut state, 300, failed.clone());
    assert_eq!(state.next_deadline(), Some(at(301)));
    tell(&mut state, 301, Event::Tick);
    tell(&mut state, 301, failed.clone());
    assert_eq!(state.next_deadline(), Some(at(303)));
    tell(&mut state, 303, Event::Tick);
    tell(&mut state, 303, failed);
    let Progress::CannotConverge(Obstacle::Fetch { attempts: 3, .. }) = state.progress() else {
        panic!("{state:?}")
    };
    assert_eq!(state.active, Some(install(1, 1)));
}

#[test]
fn tampered_bytes_are_given_up_at_once() {
    let mut state = running_one();
    tell(&mut state, 300, assigned(2, 2));
    step(&mut state, 301);
    let failure = StepFailure::Permanent("weights.gguf: sha256 differs".into());
    let actions = tell(
        &mut state,
        302,
        Event::Failed {
            assignment: generation(2),
            stage: Stage::Verify,
            failure,
        },
    );
    assert!(actions.contains(&Action::Discard(install(2, 2))));
    assert!(matches!(
        state.progress(),
        Progress::CannotConverge(Obstacle::Verification { .. })
    ));
}

#[test]
fn too_few_probe_answers_stop_the_release_before_it_serves() {
    let mut state = running_one();
    tell(&mut state, 300, assigned(2, 2));
    (0..4).for_each(|_| step(&mut state, 301));
    tell(
        &mut state,
        302,
        Event::Probed {
            assignment: generation(2),
            matched: 2,
            run: 4,
        },
    );
    assert_eq!(
        state.progress(),
        Progress::CannotConverge(Obstacle::Probes {
            matched: 2,
            run: 4,
            required: 3
        })
    );
    assert_eq!(state.active, Some(install(1, 1)));
}

#[test]
fn stale_and_unknown_events_are_answered_with_a_reason() {
    let mut state = InstallState::empty(POLICY);
    let mut actions = Vec::new();
    assert_eq!(
        state.handle(at(0), Event::Crashed, &mut actions),
        Err(Refused::NothingActive)
    );
    let mut state = running_one();
    tell(&mut state, 300, assigned(2, 5));
    let cases = [
        (
            assigned(1, 4),
            Refused::Stale {
                told: generation(4),
                known: generation(5),
            },
        ),
        (
            Event::Unassigned {
                assignment: generation(4),
                obstacle: None,
            },
            Refused::Stale {
                told: generation(4),
                known: generation(5),
            },
        ),
        (
            Event::Done {
                assignment: generation(5),
                stage: Stage::Switch,
            },
            Refused::NotUnderWay { told: Stage::Switch },
        ),
        (
            Event::Done {
                assignment: generation(4),
                stage: Stage::Fetch,
            },
            Refused::NotUnderWay { told: Stage::Fetch },
        ),
        (
            Event::Probed {
                assignment: generation(5),
                matched: 9,
                run: 9,
            },
            Refused::NotUnderWay { told: Stage::Probe },
        ),
    ];
    for (event, expected) in cases {
        let before = state.clone();
        assert_eq!(state.handle(at(301), event, &mut actions), Err(expected));
        assert_eq!((&state, actions.len()), (&before, 0));
    }
}

#[test]
fn bytes_that_something_kept_still_needs_are_not_thrown_away() {
    let mut state = running_one();
    tell(&mut state, 300, assigned(2, 2));
    settle(&mut state, 301);
    tell(&mut state, 400, Event::Tick);
    assert_eq!(state.previous, Some(install(1, 1)));
    // On the way back to release 1, whose bytes are those of the release kept to go back to, another one is assigned.
    tell(&mut state, 401, assigned(1, 3));
    let actions = tell(&mut state, 402, assigned(3, 4));
    assert!(
        !actions.iter().any(|action| matches!(action, Action::Discard(_))),
        "{actions:?}"
    );
    // The candidate that is given up now has bytes that nothing else needs.
    let actions = tell(&mut state, 403, assigned(4, 5));
    assert!(actions.contains(&Action::Discard(install(3, 4))), "{actions:?}");
}
