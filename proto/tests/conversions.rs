//! What the domain says survives the wire, and what it refuses is refused with the field named.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails like the test")]

use std::time::Duration;

use fieldfare_fleet::install::Stage;
use fieldfare_fleet::placement::Requirements;
use fieldfare_fleet::rollout::{
    Bound, DeadlineRule, Evidence, Gate, GateReading, GateVerdict, Metric, MinimumEvidence, Phase, Progress, Rank,
    RollbackCause, RolloutPolicy, RolloutState, Sampled, WaveSize,
};
use fieldfare_fleet::{
    ByteSize, CapabilityProfile, Fraction, Generation, NatsPerToken, Obstacle, Timestamp, TokensPerSecond,
    reference_profiles,
};
use fieldfare_proto::v1;
use proptest::prelude::*;
use prost::Message;

fn text() -> impl Strategy<Value = String> {
    "[ -~]{0,40}"
}

fn simple_obstacle() -> impl Strategy<Value = Obstacle> {
    prop_oneof![
        Just(Obstacle::NoVariant),
        (any::<u64>(), any::<u64>()).prop_map(|(needed, available)| Obstacle::DiskTooSmall {
            needed: ByteSize::new(needed),
            available: ByteSize::new(available),
        }),
        (any::<u32>(), text()).prop_map(|(attempts, detail)| Obstacle::Fetch { attempts, detail }),
        text().prop_map(|detail| Obstacle::Verification { detail }),
        text().prop_map(|detail| Obstacle::Staging { detail }),
        text().prop_map(|detail| Obstacle::WarmUp { detail }),
        (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(matched, run, required)| Obstacle::Probes {
            matched,
            run,
            required
        }),
        (any::<u32>(), any::<u32>()).prop_map(|(crashes, ms)| Obstacle::CrashLoop {
            crashes,
            within: Duration::from_millis(ms.into()),
        }),
    ]
}

fn obstacle() -> impl Strategy<Value = Obstacle> {
    prop_oneof![
        3 => simple_obstacle(),
        1 => (any::<u32>(), any::<u64>(), simple_obstacle()).prop_map(|(epoch, counter, because)| Obstacle::FailedBefore {
            generation: Generation { epoch, counter },
            because: Box::new(because),
        }),
    ]
}

fn progress() -> impl Strategy<Value = Progress> {
    prop_oneof![
        prop::sample::select(vec![
            Stage::Fetch,
            Stage::Verify,
            Stage::Stage,
            Stage::WarmUp,
            Stage::Probe,
            Stage::Switch,
            Stage::Confirm,
        ])
        .prop_map(Progress::Working),
        Just(Progress::Converged),
        obstacle().prop_map(Progress::CannotConverge),
    ]
}

fn evidence() -> impl Strategy<Value = Evidence> {
    (
        any::<[u32; 3]>(),
        any::<[u64; 3]>(),
        prop::option::of(0.0..60.0f64),
        prop::option::of(0.0..1.0f64),
    )
        .prop_map(|(counts, more, loss, confidence)| Evidence {
            crashes: counts[0],
            probes_run: counts[1],
            probes_matched: counts[2],
            probe_loss: loss.map(NatsPerToken::clamped),
            requests: more[0],
            errors: more[1],
            latency_p95_ms: (more[2] % 2 == 0).then_some(more[2]),
            tokens_per_second: loss.map(TokensPerSecond::clamped),
            confidence: confidence.map(Fraction::clamped),
        })
}

proptest! {
    #[test]
    fn progress_survives_the_wire(progress in progress()) {
        prop_assert_eq!(Progress::try_from(v1::Progress::from(&progress)).unwrap(), progress);
    }

    #[test]
    fn evidence_survives_the_wire(evidence in evidence()) {
        prop_assert_eq!(Evidence::try_from(v1::GateEvidence::from(&evidence)).unwrap(), evidence);
    }
}

fn policy() -> RolloutPolicy {
    RolloutPolicy {
        waves: vec![WaveSize::Count(1), WaveSize::Percent(40), WaveSize::Percent(100)],
        gates: vec![
            Gate {
                metric: Metric::CrashingDevices,
                bound: Bound::AtMost(0.0),
            },
            Gate {
                metric: Metric::ProbeLoss,
                bound: Bound::AtMostTimesPrevious(1.1),
            },
            Gate {
                metric: Metric::TokensPerSecond,
                bound: Bound::AtLeastTimesPrevious(0.5),
            },
            Gate {
                metric: Metric::ProbeExactMatch,
                bound: Bound::AtLeast(0.25),
            },
        ],
        max_unavailable: 2,
        minimum_evidence: MinimumEvidence {
            devices: 1,
            probes: 4,
            requests: 0,
        },
        observation: Duration::from_secs(2),
        wave_deadline: Duration::from_secs(600),
        on_deadline: DeadlineRule::Hold,
        offline_after: Duration::from_secs(60),
    }
}

#[test]
fn a_rollout_policy_survives_the_wire() {
    assert_eq!(
        RolloutPolicy::try_from(v1::RolloutPolicy::from(&policy())).unwrap(),
        policy()
    );
}

#[test]
fn every_reference_profile_survives_the_wire() {
    for profile in reference_profiles() {
        assert_eq!(
            CapabilityProfile::try_from(v1::CapabilityProfile::from(&profile)).unwrap(),
            profile
        );
    }
}

#[test]
fn requirements_survive_the_wire() {
    for (max_memory, max_loss) in [(None, None), (Some(ByteSize::new(7)), Some(NatsPerToken::clamped(1.5)))] {
        let wanted = Requirements {
            min_tokens_per_second: TokensPerSecond::clamped(12.5),
            context: 256,
            max_memory,
            max_loss,
        };
        assert_eq!(Requirements::try_from(v1::Requirements::from(&wanted)).unwrap(), wanted);
    }
}

fn rollout(phase: Phase) -> RolloutState {
    let generation = |counter| Generation { epoch: 3, counter };
    RolloutState {
        deployment: "soil".parse().unwrap(),
        release: "farm.r2".parse().unwrap(),
        previous: Some("farm.r1".parse().unwrap()),
        policy: policy(),
        seed: u64::MAX - 5,
        started_at: Timestamp::from_unix_ms(1_800_000_000_001),
        assignment: generation(4),
        previous_assignment: generation(2),
        generation: generation(9),
        phase,
        paused_by: Some("ada".into()),
        opened_to: Some(Rank::new(u64::MAX - 7)),
    }
}

#[test]
fn a_rollout_is_stored_whole() {
    let at = Timestamp::from_unix_ms(1_800_000_000_007);
    let by = || "ada".to_owned();
    let reading = |verdict, sampled, value| GateReading {
        gate: policy().gates[0],
        value,
        devices: 3,
        samples: 41,
        samples_needed: 40,
        sampled,
        verdict,
    };
    let causes = [
        RollbackCause::Gate {
            wave: 1,
            reading: reading(GateVerdict::Failed, Sampled::Probes, Some(0.1 + 0.2)),
        },
        RollbackCause::Gate {
            wave: 0,
            reading: reading(GateVerdict::Missing, Sampled::Requests, None),
        },
        RollbackCause::Gate {
            wave: 0,
            reading: reading(GateVerdict::Passed, Sampled::Devices, Some(f64::MIN_POSITIVE)),
        },
        RollbackCause::Deadline { wave: 0 },
        RollbackCause::Operator { by: by() },
    ];
    let mut phases = vec![Phase::Completed { at }, Phase::Aborted { at, by: by() }];
    for (observing_since, overdue) in [(None, false), (Some(at), true)] {
        phases.push(Phase::Advancing {
            wave: 2,
            opened_at: at,
            observing_since,
            overdue,
        });
    }
    for cause in causes {
        phases.push(Phase::RollingBack {
            since: at,
            cause: cause.clone(),
        });
        phases.push(Phase::RolledBack { at, cause });
    }
    for phase in phases {
        let state = rollout(phase);
        let bytes = v1::StoredRollout::from(&state).encode_to_vec();
        let stored = v1::StoredRollout::decode(bytes.as_slice()).unwrap();
        assert_eq!(RolloutState::try_from(stored).unwrap(), state);
    }
    let first = RolloutState {
        previous: None,
        paused_by: None,
        opened_to: None,
        previous_assignment: Generation::ZERO,
        ..rollout(Phase::Completed { at })
    };
    assert_eq!(RolloutState::try_from(v1::StoredRollout::from(&first)).unwrap(), first);
    let mut broken = v1::StoredRollout::from(&first);
    broken.phase = None;
    assert_eq!(RolloutState::try_from(broken).unwrap_err().field, "phase");
}

/// Changes a good policy, and names the field of the error.
fn refused_policy(change: impl FnOnce(&mut v1::RolloutPolicy)) -> String {
    let mut message = v1::RolloutPolicy::from(&policy());
    change(&mut message);
    RolloutPolicy::try_from(message).unwrap_err().to_string()
}

#[test]
fn a_refused_policy_names_the_field() {
    let cases: [(&str, String); 6] = [
        (
            "minimum_evidence",
            refused_policy(|policy| policy.minimum_evidence = None),
        ),
        ("waves[1].size", refused_policy(|policy| policy.waves[1].size = None)),
        (
            "waves[1].percent",
            refused_policy(|policy| policy.waves[1].size = Some(v1::wave_size::Size::Percent(300))),
        ),
        ("gates[0].metric", refused_policy(|policy| policy.gates[0].metric = 99)),
        ("on_deadline", refused_policy(|policy| policy.on_deadline = 0)),
        ("max_unavailable", refused_policy(|policy| policy.max_unavailable = 0)),
    ];
    for (field, error) in cases {
        assert!(error.contains(&format!("`{field}`")), "{field}: {error}");
    }
}

#[test]
fn an_impossible_profile_is_refused_with_the_field_named() {
    let good = v1::CapabilityProfile::from(&reference_profiles()[0]);
    let mut no_cores = good.clone();
    no_cores.cores = 0;
    let mut too_much_model_memory = good.clone();
    too_much_model_memory.model_memory_bytes = good.memory_bytes + 1;
    let mut unknown_arch = good;
    unknown_arch.arch = 77;
    for (message, field) in [
        (no_cores, "cores"),
        (too_much_model_memory, "model_memory"),
        (unknown_arch, "arch"),
    ] {
        let error = CapabilityProfile::try_from(message).unwrap_err().to_string();
        assert!(error.contains(field), "{field}: {error}");
    }
}

#[test]
fn an_obstacle_nests_once_only() {
    let once = Obstacle::FailedBefore {
        generation: Generation::ZERO,
        because: Box::new(Obstacle::NoVariant),
    };
    let twice = v1::Obstacle {
        kind: Some(v1::obstacle::Kind::FailedBefore(Box::new(v1::FailedBefore {
            generation: Some(Generation::ZERO.into()),
            because: Some(Box::new((&once).into())),
        }))),
    };
    assert!(
        Obstacle::try_from(twice)
            .unwrap_err()
            .to_string()
            .contains("failed_before.because")
    );
}
