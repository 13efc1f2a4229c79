mod kept;
mod properties;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    Attempt, ByteSize, DeploymentName, DeviceId, Digest, JobName, Labels, NatsPerToken, RoundId, RoundNumber,
    Timestamp, TrustTier, VariantName,
};

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_ms(seconds * 1000)
}

fn device(n: u8) -> DeviceId {
    DeviceId::from_bytes([n; 16])
}

fn digest(n: u8) -> Digest {
    Digest::from_bytes([n; 32])
}

fn spec() -> JobSpec {
    JobSpec {
        job: JobName::new("moisture").unwrap(),
        deployment: DeploymentName::new("fields").unwrap(),
        rounds: 2,
        cohort: 5,
        enough: 4,
        quorum: 3,
        select_within: Duration::from_secs(10),
        collect_within: Duration::from_secs(60),
        compute_within: Duration::from_secs(20),
        retry_after: Duration::from_secs(5),
        max_attempts: 2,
        contribution: ByteSize::new(64),
        evaluation: EvaluationRule {
            max_round_increase: 0.05,
            min_job_gain: 0.1,
        },
        seed: 3,
    }
}

fn tell(job: &mut JobState, second: u64, event: Event) -> Vec<Action> {
    let mut actions = Vec::new();
    job.handle(at(second), event, &mut actions).unwrap();
    actions
}

fn refuse(job: &mut JobState, second: u64, event: Event) -> Refused {
    let (before, mut actions) = (job.clone(), Vec::new());
    let refused = job.handle(at(second), event, &mut actions).unwrap_err();
    assert_eq!((&*job, actions.len()), (&before, 0), "a refused event changes nothing");
    refused
}

fn eligible(devices: std::ops::RangeInclusive<u8>) -> Event {
    Event::Eligible {
        devices: devices.map(device).collect(),
    }
}

fn contributed(job: &JobState, n: u8, contribution: u8) -> Event {
    Event::Contributed {
        round: job.round_id(),
        device: device(n),
        configuration: digest(200),
        contribution: digest(contribution),
        bytes: ByteSize::new(64),
    }
}

fn evaluated(job: &JobState, before: f64, after: f64) -> Event {
    let losses = VariantEvaluation {
        before: NatsPerToken::clamped(before),
        after: NatsPerToken::clamped(after),
    };
    let variants = BTreeMap::from([(VariantName::new("q4-0").unwrap(), losses)]);
    Event::Evaluated {
        round: job.round_id(),
        variants,
    }
}

/// A job whose first round collects from devices 1 to 5.
fn collecting() -> JobState {
    let mut job = JobState::begin(spec(), at(0)).unwrap();
    assert_eq!(job.next_deadline(), Some(at(0)));
    assert_eq!(
        tell(&mut job, 0, Event::Tick),
        [Action::FindEligible { round: job.round_id() }]
    );
    collect(&mut job, 0);
    job
}

fn collect(job: &mut JobState, second: u64) {
    tell(job, second, eligible(1..=5));
    let round = job.round_id();
    let actions = tell(
        job,
        second,
        Event::Configured {
            round,
            configuration: digest(200),
        },
    );
    assert!(matches!(&actions[..], [Action::Invite { cohort, .. }] if cohort.len() == 5));
}

fn aggregate(job: &mut JobState, second: u64) {
    for n in 1..=4 {
        tell(job, second, contributed(job, n, n));
    }
    let round = job.round_id();
    assert_eq!(
        tell(job, second, Event::Aggregated { round: round.clone() }),
        [Action::Evaluate { round }]
    );
}

#[test]
fn rounds_are_committed_and_the_job_publishes_once_its_gain_is_shown() {
    let mut job = collecting();
    aggregate(&mut job, 1);
    let first = job.round_id();
    let event = evaluated(&job, 2.0, 1.9);
    let actions = tell(&mut job, 2, event);
    assert_eq!(
        actions,
        [
            Action::Commit { round: first },
            Action::FindEligible { round: job.round_id() }
        ]
    );
    assert_eq!((job.round, job.attempt), (RoundNumber(2), Attempt(1)));
    collect(&mut job, 3);
    aggregate(&mut job, 4);
    let event = evaluated(&job, 1.9, 1.8);
    let actions = tell(&mut job, 5, event);
    assert_eq!(actions.last(), Some(&Action::Publish));
    assert_eq!(
        (&job.phase, job.next_deadline()),
        (&JobPhase::Finished { at: at(5) }, None)
    );
}

#[test]
fn a_job_without_gain_publishes_nothing_and_says_why() {
    let mut job = collecting();
    for (second, before, after) in [(1, 2.0, 1.99), (10, 1.99, 1.95)] {
        if second > 1 {
            collect(&mut job, second);
        }
        aggregate(&mut job, second);
        let event = evaluated(&job, before, after);
        tell(&mut job, second, event);
    }
    let JobPhase::Failed { failure, .. } = &job.phase else {
        panic!("{:?}", job.phase)
    };
    let expected = "loss of q4-0 went from 2.0000 nats to 1.9500 nats; a gain of 0.1 nats is needed to publish";
    assert_eq!(failure.to_string(), expected);
}

#[test]
fn an_aggregate_that_makes_a_variant_worse_is_abandoned_and_tried_with_another_attempt() {
    let mut job = collecting();
    aggregate(&mut job, 1);
    let abandoned = job.round_id();
    let event = evaluated(&job, 2.0, 2.06);
    let actions = tell(&mut job, 2, event);
    assert!(
        matches!(&actions[..], [Action::Abandon { round, cause: AbandonCause::LossRose { .. } }] if *round == abandoned)
    );
    assert_eq!(
        (job.round, job.attempt, job.next_deadline()),
        (RoundNumber(1), Attempt(2), Some(at(7)))
    );
    assert!(
        job.first_losses.is_empty(),
        "an abandoned round leaves no trace in the losses"
    );
    assert!(matches!(
        refuse(&mut job, 3, contributed_to(&abandoned, 5)),
        Refused::OtherRound { .. }
    ));
}

fn contributed_to(round: &RoundId, n: u8) -> Event {
    Event::Contributed {
        round: round.clone(),
        device: device(n),
        configuration: digest(200),
        contribution: digest(n),
        bytes: ByteSize::new(64),
    }
}

#[test]
fn a_repeated_contribution_is_acknowledged_again_and_other_bytes_are_refused() {
    let mut job = collecting();
    let mut actions = Vec::new();
    let event = contributed(&job, 1, 11);
    assert_eq!(job.handle(at(1), event.clone(), &mut actions), Ok(Answer::Taken));
    assert_eq!(job.handle(at(2), event.clone(), &mut actions), Ok(Answer::Known));
    let other = contributed(&job, 1, 12);
    assert_eq!(
        refuse(&mut job, 3, other),
        Refused::Conflicting {
            device: device(1),
            kept: digest(11)
        }
    );
    for n in 2..=4 {
        let event = contributed(&job, n, n);
        tell(&mut job, 4, event);
    }
    // Four are enough: the accepted set is fixed. The repeated upload is still acknowledged, the fifth is too late.
    assert_eq!(job.handle(at(5), event, &mut actions), Ok(Answer::Known));
    let late = contributed(&job, 5, 5);
    assert_eq!(refuse(&mut job, 5, late), Refused::Late { phase: "aggregating" });
}

#[test]
fn contributions_that_do_not_belong_are_refused_with_the_reason() {
    let mut job = collecting();
    let round = job.round_id();
    let event = |n: u8, configuration: u8, bytes: u64| Event::Contributed {
        round: round.clone(),
        device: device(n),
        configuration: digest(configuration),
        contribution: digest(n),
        bytes: ByteSize::new(bytes),
    };
    assert_eq!(
        refuse(&mut job, 1, event(9, 200, 64)),
        Refused::NotInvited { device: device(9) }
    );
    let other = Refused::OtherConfiguration {
        told: digest(201),
        expected: digest(200),
    };
    assert_eq!(refuse(&mut job, 1, event(1, 201, 64)), other);
    assert_eq!(
        refuse(&mut job, 1, event(1, 200, 65)),
        Refused::Length { told: 65, expected: 64 }
    );
    let declined = Event::Declined {
        round: round.clone(),
        device: device(2),
        reason: Decline::BudgetSpent,
    };
    tell(&mut job, 1, declined);
    assert_eq!(
        refuse(&mut job, 1, event(2, 200, 64)),
        Refused::LeftRound { device: device(2) }
    );
    assert!(matches!(
        refuse(&mut job, 1, Event::Aggregated { round }),
        Refused::Early { phase: "collecting" }
    ));
}

#[test]
fn too_many_refusals_abandon_at_once_and_the_reasons_are_counted() {
    let mut job = collecting();
    let round = job.round_id();
    for (n, reason) in [(1, Decline::Busy), (2, Decline::BudgetSpent)] {
        assert!(
            tell(
                &mut job,
                1,
                Event::Declined {
                    round: round.clone(),
                    device: device(n),
                    reason
                }
            )
            .is_empty()
        );
    }
    let last = Event::Declined {
        round,
        device: device(3),
        reason: Decline::Busy,
    };
    let actions = tell(&mut job, 1, last);
    let [
        Action::Abandon {
            cause:
                AbandonCause::TooFewContributions {
                    contributions: 0,
                    quorum: 3,
                    declined,
                },
            ..
        },
    ] = &actions[..]
    else {
        panic!("{actions:?}")
    };
    assert_eq!(
        declined,
        &BTreeMap::from([(Decline::BudgetSpent, 1), (Decline::Busy, 2)])
    );
}

#[test]
fn deadlines_end_every_phase() {
    // Selecting with a quorum goes on at its deadline with whoever is there; without one it is abandoned.
    let mut job = JobState::begin(spec(), at(0)).unwrap();
    tell(&mut job, 0, Event::Tick);
    assert!(tell(&mut job, 1, eligible(1..=3)).is_empty());
    let actions = tell(&mut job, 10, Event::Tick);
    assert!(matches!(&actions[..], [Action::Configure { cohort, .. }] if cohort.len() == 3));
    // The trainer does not sign in time.
    let actions = tell(&mut job, 30, Event::Tick);
    assert!(matches!(
        &actions[..],
        [Action::Abandon {
            cause: AbandonCause::TrainerSilent { .. },
            ..
        }]
    ));
    // Too few devices, in the last attempt: the job fails.
    tell(&mut job, 35, Event::Tick);
    tell(&mut job, 36, eligible(1..=2));
    tell(&mut job, 45, Event::Tick);
    let JobPhase::Failed {
        failure: JobFailure::RoundAbandoned { cause, .. },
        ..
    } = &job.phase
    else {
        panic!()
    };
    assert_eq!(cause, &AbandonCause::TooFewEligible { eligible: 2, quorum: 3 });
}

#[test]
fn dropped_devices_do_not_stop_a_round_with_a_quorum() {
    let mut job = collecting();
    let round = job.round_id();
    for n in 1..=3 {
        let event = contributed(&job, n, n);
        tell(&mut job, 1, event);
    }
    tell(
        &mut job,
        2,
        Event::Lost {
            round,
            device: device(4),
        },
    );
    assert!(tell(&mut job, 59, Event::Tick).is_empty());
    let actions = tell(&mut job, 60, Event::Tick);
    assert!(matches!(&actions[..], [Action::Aggregate { accepted, .. }] if accepted.len() == 3));
}

#[test]
fn a_cancelled_job_takes_nothing_more() {
    let mut job = collecting();
    tell(&mut job, 1, Event::Cancel { by: "ada".into() });
    let event = contributed(&job, 1, 1);
    assert_eq!(refuse(&mut job, 2, event), Refused::Over { phase: "cancelled" });
    assert_eq!(job.next_deadline(), None);
}

#[test]
fn a_job_that_cannot_work_is_refused() {
    type Change = fn(&mut JobSpec);
    let cases: [(Change, &str); 6] = [
        (|s| s.rounds = 0, "`rounds` is 0"),
        (|s| s.enough = 6, "`enough` is 6"),
        (|s| s.quorum = 5, "`quorum` is 5"),
        (|s| s.contribution = ByteSize::from_gib(1), "`contribution`"),
        (
            |s| s.evaluation.min_job_gain = f64::NAN,
            "`evaluation.min_job_gain` is NaN",
        ),
        (
            |s| s.evaluation.max_round_increase = -1.0,
            "`evaluation.max_round_increase`",
        ),
    ];
    for (change, expected) in cases {
        let mut spec = spec();
        change(&mut spec);
        let error = JobState::begin(spec, at(0)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_device_is_told_every_reason_why_it_is_not_invited() {
    let needs = TrainingNeeds {
        selector: "site=north".parse().unwrap(),
        release: "soil.r2".parse().unwrap(),
        training_memory: ByteSize::from_mib(200),
        min_trust: TrustTier::Attested,
    };
    let good = TrainingCandidate {
        device: device(1),
        connection: Connection::Connected,
        consent: Consent::Given,
        training_memory: ByteSize::from_mib(200),
        budget: BudgetState::Remaining,
        activity: Activity::Idle,
        trust: TrustTier::Attested,
        labels: Labels::new([("site", "north")]).unwrap(),
        running: Some("soil.r2".parse().unwrap()),
    };
    assert_eq!(needs.reasons_against(&good), []);
    let bad = TrainingCandidate {
        device: device(2),
        connection: Connection::LastHeard(at(5)),
        consent: Consent::Withheld,
        training_memory: ByteSize::from_mib(199),
        budget: BudgetState::Spent,
        activity: Activity::Busy,
        trust: TrustTier::Unattested,
        labels: Labels::default(),
        running: None,
    };
    let texts: Vec<String> = needs.reasons_against(&bad).iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "not connected, last heard 1970-01-01T00:00:05.000Z",
            "not selected: site=north does not hold",
            "the owner has not consented to training",
            "training takes 200 MiB of memory, the device gives 199 MiB",
            "the privacy budget is spent",
            "busy",
            "needs a device that is attested, this one is unattested",
            "runs no release, soil.r2 is trained",
        ]
    );
}
