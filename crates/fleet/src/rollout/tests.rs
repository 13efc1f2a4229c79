mod again;
mod ended;
mod fleet;
mod input;
mod properties;

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use self::fleet::{Fleet, Nature};
use super::*;
use crate::install::Stage;
use crate::{
    DeviceId, Fraction, Generation, Obstacle, ProfileClass, ReleaseId, Timestamp, TokensPerSecond, TrustTier,
    reference_profiles,
};

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_ms(1_000_000 + seconds * 1000)
}

fn device(n: u8) -> DeviceId {
    DeviceId::from_bytes([n; 16])
}

fn release(n: u8) -> ReleaseId {
    format!("soil.r{n}").parse().unwrap()
}

fn class(n: u8) -> ProfileClass {
    let profiles = reference_profiles();
    ProfileClass::of(&profiles[usize::from(n) % profiles.len()], TrustTier::Unattested)
}

fn policy(waves: &[WaveSize]) -> RolloutPolicy {
    RolloutPolicy {
        waves: waves.to_vec(),
        gates: vec![
            Gate {
                metric: Metric::ProbeExactMatch,
                bound: Bound::AtLeast(0.5),
            },
            Gate {
                metric: Metric::CrashingDevices,
                bound: Bound::AtMost(0.0),
            },
        ],
        max_unavailable: 100,
        minimum_evidence: MinimumEvidence {
            devices: 1,
            probes: 4,
            requests: 10,
        },
        observation: Duration::from_secs(5),
        wave_deadline: Duration::from_secs(600),
        on_deadline: DeadlineRule::Hold,
        offline_after: Duration::from_secs(30),
    }
}

const WAVES: [WaveSize; 3] = [WaveSize::Count(1), WaveSize::Percent(50), WaveSize::Percent(100)];

fn start(policy: RolloutPolicy) -> RolloutState {
    let start = RolloutStart {
        deployment: crate::DeploymentName::new("fields").unwrap(),
        release: release(2),
        previous: Some(release(1)),
        previous_assignment: Generation { epoch: 0, counter: 3 },
        policy,
        seed: 7,
        generation: Generation { epoch: 0, counter: 9 },
    };
    RolloutState::begin(start, at(0)).unwrap()
}

fn opened(milestones: &[Milestone]) -> Vec<u32> {
    let wave = |m: &Milestone| {
        if let Milestone::WaveOpened { wave } = m {
            Some(*wave)
        } else {
            None
        }
    };
    milestones.iter().filter_map(wave).collect()
}

#[test]
fn a_good_release_passes_its_waves_canary_first() {
    let mut fleet = Fleet::new(policy(&WAVES), &[Nature::Good; 5]);
    assert_eq!(fleet.second(1), 1);
    assert_eq!(fleet.target(fleet.canary()), Some(release(2)));
    let mut sizes = vec![1];
    for second in 2..40 {
        let size = fleet.second(second);
        if sizes.last() != Some(&size) {
            sizes.push(size);
        }
    }
    assert_eq!(sizes, [1, 3, 5]);
    assert_eq!(opened(&fleet.milestones), [0, 1, 2]);
    assert!(matches!(fleet.rollout.state().phase, Phase::Completed { .. }));
    fleet.tell(40, Event::Tick).unwrap();
    assert_eq!(fleet.rollout.next_deadline(), None, "nothing is left to decide");
    assert_eq!(
        fleet.rollout.explain(at(40), device(1)),
        Explanation::OnTarget { release: release(2) }
    );
}

#[test]
fn a_failed_gate_rolls_back_by_itself_with_its_numbers() {
    for (nature, metric) in [
        (Nature::WrongAnswers, Metric::ProbeExactMatch),
        (Nature::Crashes, Metric::CrashingDevices),
    ] {
        let mut fleet = Fleet::new(policy(&WAVES), &[nature; 5]);
        fleet.run(1..10);
        let Phase::RolledBack {
            cause: RollbackCause::Gate { wave: 0, reading },
            ..
        } = &fleet.rollout.state().phase
        else {
            panic!("{:?}", fleet.rollout.state().phase)
        };
        assert_eq!((reading.gate.metric, reading.verdict), (metric, GateVerdict::Failed));
        assert_eq!(fleet.offered(), 0);
        assert!(fleet.rollout.state().previous_assignment > fleet.rollout.state().assignment);
    }
}

#[test]
fn a_device_that_wakes_after_a_rollback_gets_the_old_release() {
    let mut fleet = Fleet::new(policy(&WAVES), &[Nature::WrongAnswers; 5]);
    let canary = fleet.canary();
    fleet.second(1);
    fleet.natures.insert(canary, Nature::Offline);
    assert_eq!(fleet.target(canary), Some(release(2)));
    fleet.run(2..60);
    assert!(
        matches!(fleet.rollout.state().phase, Phase::RolledBack { .. }),
        "another device took the canary's place"
    );
    let kept = serde_json::to_string(fleet.rollout.state()).unwrap();
    let restarted: RolloutState = serde_json::from_str(&kept).unwrap();
    assert_eq!(
        restarted.target_for(restarted.slot_of(canary, at(0))).release,
        Some(release(1))
    );
}

#[test]
fn offline_devices_neither_block_nor_count() {
    let mut natures = [Nature::Offline; 8];
    natures[..3].fill(Nature::Good);
    let mut fleet = Fleet::new(policy(&WAVES), &natures);
    fleet.run(1..60);
    assert!(
        matches!(fleet.rollout.state().phase, Phase::Completed { .. }),
        "{:?}",
        fleet.rollout.status(at(60))
    );
    assert_eq!(fleet.rollout.status(at(60)).heard, 3);
    let waiting = fleet.rollout.explain(at(60), device(8));
    assert_eq!(
        waiting,
        Explanation::NotHeardFrom {
            last_heard: None,
            target: Some(release(2))
        }
    );
}

#[test]
fn a_wave_of_nobody_holds() {
    let mut fleet = Fleet::new(policy(&WAVES), &[Nature::Offline; 3]);
    assert_eq!(
        fleet.rollout.status(at(29)).hold,
        Some(Hold::Gathering { until: at(30) })
    );
    fleet.run(1..40);
    assert_eq!(fleet.rollout.status(at(40)).hold, Some(Hold::NobodyHeardFrom));
    assert_eq!(fleet.offered(), 0);
}

#[test]
fn a_gate_without_its_evidence_holds_and_promote_goes_on() {
    let mut policy = policy(&WAVES);
    policy.gates.push(Gate {
        metric: Metric::ErrorRate,
        bound: Bound::AtMost(0.1),
    });
    let mut fleet = Fleet::new(policy, &[Nature::Good; 5]);
    fleet.run(1..100);
    assert_eq!(fleet.offered(), 1);
    let Some(Hold::MissingEvidence { readings }) = fleet.rollout.status(at(100)).hold else {
        panic!()
    };
    assert_eq!(readings[0].to_string(), "error rate: 0 of 10 requests have been served");
    let waiting = (1..=5)
        .map(device)
        .find(|d| fleet.target(*d) == Some(release(1)))
        .unwrap();
    let explanation = fleet.rollout.explain(at(100), waiting);
    let Explanation::WaitsForWave {
        current: 0,
        hold: Hold::MissingEvidence { .. },
        ..
    } = explanation
    else {
        panic!("{explanation:?}")
    };
    fleet.tell(100, Event::Promote { by: "ada".into() }).unwrap();
    assert_eq!(fleet.second(101), 3);
}

#[test]
fn a_quiet_wave_that_answered_too_few_probes_holds() {
    let mut policy = policy(&WAVES);
    policy.gates = vec![Gate {
        metric: Metric::CrashingDevices,
        bound: Bound::AtMost(0.0),
    }];
    // One device answers four.
    policy.minimum_evidence.probes = 5;
    let mut fleet = Fleet::new(policy.clone(), &[Nature::Good; 5]);
    fleet.run(1..100);
    assert_eq!(fleet.offered(), 1);
    let Some(Hold::MissingEvidence { readings }) = fleet.rollout.status(at(100)).hold else {
        panic!()
    };
    assert_eq!(
        readings[0].to_string(),
        "crashing devices: 4 of 5 probes have been answered"
    );
    policy.minimum_evidence.probes = 4;
    let mut fleet = Fleet::new(policy, &[Nature::Good; 5]);
    fleet.run(1..100);
    assert_eq!(fleet.offered(), 5);
}

#[test]
fn a_stuck_device_holds_its_wave_until_the_deadline_decides() {
    for (rule, rolled_back) in [(DeadlineRule::Hold, false), (DeadlineRule::RollBack, true)] {
        let policy = RolloutPolicy {
            on_deadline: rule,
            wave_deadline: Duration::from_secs(50),
            ..policy(&WAVES)
        };
        let mut fleet = Fleet::new(policy, &[Nature::Stuck; 3]);
        fleet.run(1..49);
        assert_eq!(fleet.rollout.status(at(49)).hold, Some(Hold::Working { devices: 1 }));
        fleet.run(49..120);
        assert_eq!(
            matches!(fleet.rollout.state().phase, Phase::RolledBack { .. }),
            rolled_back
        );
        let missed = fleet
            .milestones
            .iter()
            .filter(|m| matches!(m, Milestone::DeadlineMissed { .. }))
            .count();
        assert_eq!(missed, usize::from(!rolled_back));
    }
}

#[test]
fn speed_is_compared_with_the_devices_own_figure_on_the_old_release() {
    for (bound, passes) in [(0.85, true), (0.95, false)] {
        let gate = Gate {
            metric: Metric::TokensPerSecond,
            bound: Bound::AtLeastTimesPrevious(bound),
        };
        let policy = RolloutPolicy {
            gates: vec![gate],
            ..policy(&WAVES)
        };
        let mut fleet = Fleet::new(policy, &[Nature::Good; 5]);
        fleet.run(1..40);
        assert_eq!(
            matches!(fleet.rollout.state().phase, Phase::Completed { .. }),
            passes,
            "9 / 10 against {bound}"
        );
    }
}

#[test]
fn newcomers_wait_for_the_end() {
    let mut fleet = Fleet::new(policy(&WAVES), &[Nature::Good; 3]);
    fleet.second(1);
    fleet
        .tell(
            2,
            Event::Joined {
                device: device(77),
                class: class(0),
                joined_at: at(2),
            },
        )
        .unwrap();
    let slot = fleet.rollout.state().slot_of(device(77), at(2));
    assert_eq!(slot, Slot::Late);
    assert_eq!(fleet.rollout.state().target_for(slot).release, Some(release(1)));
    fleet.run(2..60);
    assert_eq!(fleet.rollout.state().target_for(slot).release, Some(release(2)));
}

#[test]
fn a_restarted_controller_that_has_heard_from_one_device_does_not_open_a_wave() {
    let mut fleet = Fleet::new(policy(&WAVES), &[Nature::Good; 10]);
    fleet.run(1..9);
    assert_eq!(fleet.rollout.status(at(9)).wave_size, 5);
    let offered = fleet.offered();
    fleet.rollout = Rollout::resume(fleet.rollout.state().clone(), at(100));
    for n in 1..=10 {
        fleet
            .tell(
                100,
                Event::Joined {
                    device: device(n),
                    class: class(n),
                    joined_at: at(0),
                },
            )
            .unwrap();
    }
    let canary = fleet.canary();
    for second in 100..130 {
        fleet.report(second, canary, Nature::Good);
        fleet.tell(second, Event::Tick).unwrap();
        assert_eq!(fleet.offered(), offered);
    }
    assert_eq!(fleet.rollout.next_deadline(), Some(at(130)));
    fleet.run(130..160);
    assert!(matches!(fleet.rollout.state().phase, Phase::Completed { .. }));
}

#[test]
fn operators_pause_resume_abort_and_roll_back() {
    let by = || "ada".to_owned();
    let mut fleet = Fleet::new(policy(&WAVES), &[Nature::Good; 5]);
    fleet.second(1);
    assert_eq!(fleet.tell(2, Event::Resume { by: by() }), Err(Refused::NotPaused));
    fleet.tell(2, Event::Pause { by: by() }).unwrap();
    assert_eq!(fleet.tell(2, Event::Pause { by: by() }), Err(Refused::Paused));
    assert_eq!(fleet.tell(2, Event::Promote { by: by() }), Err(Refused::Paused));
    fleet.run(3..60);
    assert_eq!(fleet.offered(), 1);
    assert_eq!(fleet.rollout.status(at(60)).hold, Some(Hold::Paused { by: by() }));
    fleet.tell(60, Event::Resume { by: by() }).unwrap();
    fleet.run(60..64);
    fleet.tell(64, Event::Abort { by: by() }).unwrap();
    let offered = fleet.offered();
    fleet.run(65..200);
    assert_eq!(fleet.offered(), offered);
    assert_eq!(
        fleet.tell(200, Event::Pause { by: by() }),
        Err(Refused::Over { phase: "aborted" })
    );
    fleet.tell(200, Event::RollBack { by: by() }).unwrap();
    fleet.run(201..210);
    assert_eq!(fleet.offered(), 0);
    assert_eq!(
        fleet.tell(210, Event::RollBack { by: by() }),
        Err(Refused::Over { phase: "rolled back" })
    );
}
