//! How a rollout goes on where another one ended, and what a wave waits for that grows while it is watched.

use super::*;

fn after(last: &RolloutState) -> RolloutState {
    let fields = crate::DeploymentName::new("fields").unwrap();
    let start = RolloutStart::after(Some(last), fields, release(3), policy(&WAVES), 8);
    RolloutState::begin(start, at(500)).unwrap()
}

#[test]
fn a_class_without_a_variant_is_not_told_of_its_target() {
    let state = start(policy(&WAVES));
    let slot = state.slot_of(device(1), at(0));
    let told = |state: &RolloutState, variant: Option<&'static str>| state.entry_for(slot, |_| variant);
    let entry = |assignment, number| Entry {
        assignment,
        named: Some((release(number), "q4-0")),
    };
    assert_eq!(told(&state, Some("q4-0")), Some(entry(state.previous_assignment, 1)));
    assert_eq!(told(&state, None), None);
    let opened = RolloutState {
        opened_to: Some(Rank::new(u64::MAX)),
        ..state.clone()
    };
    assert_eq!(told(&opened, Some("q4-0")), Some(entry(opened.assignment, 2)));
    assert_eq!(
        opened.entry_for(slot, Some),
        Some(Entry {
            assignment: opened.assignment,
            named: Some((release(2), true))
        })
    );
    // Where there is no release to run, there is no variant to wait for.
    let first = RolloutState {
        previous: None,
        ..state
    };
    let nothing = Entry {
        assignment: first.previous_assignment,
        named: None,
    };
    assert_eq!(told(&first, None), Some(nothing));
}

#[test]
fn a_rollout_goes_on_from_the_release_that_the_one_before_left() {
    let mut fleet = Fleet::new(policy(&WAVES), &[Nature::Good; 4]);
    fleet.run(1..400);
    let last = fleet.rollout.state().clone();
    assert!(matches!(last.phase, Phase::Completed { .. }));
    let next = after(&last);
    assert_eq!(
        (&next.previous, next.previous_assignment),
        (&Some(release(2)), last.assignment)
    );
    assert!(next.generation > last.generation);

    let mut fleet = Fleet::new(policy(&WAVES), &[Nature::WrongAnswers; 4]);
    fleet.run(1..400);
    let last = fleet.rollout.state().clone();
    assert!(matches!(last.phase, Phase::RolledBack { .. }));
    let next = after(&last);
    assert_eq!(
        (&next.previous, next.previous_assignment),
        (&Some(release(1)), last.previous_assignment)
    );
}

#[test]
fn after_a_rollout_that_was_ended_halfway_no_device_is_told_an_older_assignment() {
    let mut fleet = Fleet::new(policy(&WAVES), &[Nature::Good; 4]);
    fleet.run(1..3);
    assert_eq!(fleet.offered(), 1);
    fleet.tell(3, Event::Abort { by: "ada".into() }).unwrap();
    let last = fleet.rollout.state().clone();
    let next = after(&last);
    assert_eq!(next.previous, Some(release(1)));
    for n in 1..=4 {
        let target = |state: &RolloutState| state.target_for(state.slot_of(device(n), at(0)));
        let (before, now) = (target(&last), target(&next));
        assert!(now.assignment >= before.assignment, "{before:?}, then {now:?}");
        assert!(now.release == before.release || now.assignment > before.assignment);
    }
    // Where nobody was offered the release, everything is as it was.
    let unopened = RolloutState {
        opened_to: None,
        ..last
    };
    assert_eq!(after(&unopened).previous_assignment, unopened.previous_assignment);
}

#[test]
fn devices_that_fail_at_once_do_not_speak_for_those_that_are_at_work() {
    let gate = Gate {
        metric: Metric::CannotConverge,
        bound: Bound::AtMost(0.3),
    };
    let policy = RolloutPolicy {
        gates: vec![gate],
        ..policy(&[WaveSize::Percent(100)])
    };
    let mut natures = [Nature::Stuck; 10];
    natures[..3].fill(Nature::Crashes);
    let mut fleet = Fleet::new(policy.clone(), &natures);
    fleet.run(1..10);
    // Three of three cannot converge, and seven are at work.
    let reading = fleet.rollout.status(at(10)).readings[0];
    assert_eq!(
        (reading.verdict, reading.samples, reading.samples_needed),
        (GateVerdict::Missing, 3, 10)
    );
    fleet
        .natures
        .values_mut()
        .filter(|nature| **nature == Nature::Stuck)
        .for_each(|nature| *nature = Nature::Good);
    fleet.run(10..30);
    assert!(
        matches!(fleet.rollout.state().phase, Phase::Completed { .. }),
        "three of ten are within the bound"
    );

    natures[..4].fill(Nature::Crashes);
    let mut fleet = Fleet::new(policy, &natures);
    fleet.run(1..10);
    assert!(
        matches!(
            fleet.rollout.state().phase,
            Phase::RollingBack { .. } | Phase::RolledBack { .. }
        ),
        "four are not"
    );
}

#[test]
fn a_wave_that_grows_while_it_is_watched_is_watched_anew() {
    let mut natures = [Nature::Good; 4];
    natures[2..].fill(Nature::Offline);
    let mut fleet = Fleet::new(policy(&[WaveSize::Percent(100)]), &natures);
    // The two that are heard from converge after the wait for the others.
    fleet.run(1..33);
    let Phase::Advancing {
        observing_since: Some(since),
        ..
    } = fleet.rollout.state().phase
    else {
        panic!("{:?}", fleet.rollout.state().phase)
    };
    assert_eq!(since, at(31));
    // The other two come back and belong to the wave.
    fleet.natures.values_mut().for_each(|nature| *nature = Nature::Good);
    fleet.run(33..35);
    assert_eq!(fleet.offered(), 4);
    fleet.run(35..39);
    assert!(
        matches!(fleet.rollout.state().phase, Phase::Advancing { .. }),
        "passed without watching them"
    );
    fleet.run(39..45);
    assert!(matches!(fleet.rollout.state().phase, Phase::Completed { .. }));
}
