//! The same release again under other requirements: only its assignment tells the two sides of such a rollout apart.

use super::*;

const BEFORE: Generation = Generation { epoch: 0, counter: 3 };

fn again(gate: Gate) -> Rollout {
    let start = RolloutStart {
        deployment: crate::DeploymentName::new("fields").unwrap(),
        release: release(2),
        previous: Some(release(2)),
        previous_assignment: BEFORE,
        policy: RolloutPolicy {
            gates: vec![gate],
            ..policy(&WAVES)
        },
        seed: 7,
        generation: Generation { epoch: 0, counter: 9 },
    };
    let mut rollout = Rollout::resume(RolloutState::begin(start, at(0)).unwrap(), at(0));
    for n in 1..=3 {
        let event = Event::Joined {
            device: device(n),
            class: class(1),
            joined_at: at(0),
        };
        rollout.handle(at(0), event, &mut Vec::new()).unwrap();
    }
    rollout
}

/// A device that runs the release under this assignment, with as many tokens in a second.
fn runs(rollout: &mut Rollout, second: u64, n: u8, generation: Generation, speed: f64) {
    let observation = Observation {
        generation,
        target: Some(release(2)),
        running: Some(release(2)),
        progress: Progress::Converged,
        evidence: Evidence {
            probes_run: 4,
            probes_matched: 4,
            tokens_per_second: Some(TokensPerSecond::clamped(speed)),
            ..Evidence::default()
        },
    };
    let event = Event::Observed {
        device: device(n),
        observation,
    };
    rollout.handle(at(second), event, &mut Vec::new()).unwrap();
}

fn assigned(rollout: &Rollout, n: u8) -> Generation {
    let state = rollout.state();
    state.target_for(state.slot_of(device(n), at(0))).assignment
}

fn tick(rollout: &mut Rollout, second: u64) {
    rollout.handle(at(second), Event::Tick, &mut Vec::new()).unwrap();
}

#[test]
fn a_device_that_runs_the_release_under_its_old_assignment_has_not_converged() {
    let mut rollout = again(Gate {
        metric: Metric::ProbeExactMatch,
        bound: Bound::AtLeast(0.5),
    });
    (1..=3).for_each(|n| runs(&mut rollout, 1, n, BEFORE, 10.0));
    tick(&mut rollout, 1);
    let canary = (1..=3).find(|n| assigned(&rollout, *n) > BEFORE).unwrap();
    assert_eq!(
        rollout.status(at(2)).working,
        1,
        "its old variant says nothing about the new one"
    );
    let waits = rollout.explain(at(2), device(canary));
    assert!(matches!(waits, Explanation::NotYetSeen { .. }), "{waits:?}");
    let generation = assigned(&rollout, canary);
    runs(&mut rollout, 3, canary, generation, 10.0);
    assert_eq!(rollout.status(at(3)).converged, 1);
}

#[test]
fn a_ratio_compares_with_the_figure_under_the_old_assignment() {
    for (bound, passes) in [(0.85, true), (0.95, false)] {
        let mut rollout = again(Gate {
            metric: Metric::TokensPerSecond,
            bound: Bound::AtLeastTimesPrevious(bound),
        });
        for second in 1..40 {
            for n in 1..=3 {
                let generation = assigned(&rollout, n);
                let is_new = generation == rollout.state().assignment;
                runs(&mut rollout, second, n, generation, if is_new { 9.0 } else { 10.0 });
            }
            tick(&mut rollout, second);
        }
        let completed = matches!(rollout.state().phase, Phase::Completed { .. });
        assert_eq!(completed, passes, "9 / 10 against {bound}: {:?}", rollout.state().phase);
    }
}
