//! Protobuf messages and their conversions. The first byte chooses the message.

use fieldfare_fleet::install::Stage;
use fieldfare_fleet::placement::Requirements;
use fieldfare_fleet::rollout::{
    Bound as GateBound, DeadlineRule, Evidence, Gate, Metric, MinimumEvidence, Observation, Progress, RolloutPolicy,
    WaveSize,
};
use fieldfare_fleet::{
    ByteSize, CapabilityProfile, Fraction, Generation, NatsPerToken, Obstacle, RoundId, TokensPerSecond,
    reference_profiles,
};
use fieldfare_proto::v1;
use prost::Message;
use std::time::Duration;

use super::failed;
use crate::{Bound, Target};

pub(super) const TARGET: Target = Target {
    name: "messages",
    seeds,
    invent: None,
    take,
    // An empty message in a list takes two bytes of the wire, and its whole size in memory, which a growing list has twice.
    bound: Bound {
        base: 64 << 10,
        per_byte: 1024,
    },
    words: &[
        b"\x0a\0",
        b"\x12\0",
        b"\x1a\0",
        b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0a\xff\xff\xff\xff\x07",
        b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    ],
    inputs: 60_000,
};

fn seeds() -> Vec<Vec<u8>> {
    fn seed(kind: u8, message: &impl Message) -> Vec<u8> {
        [vec![kind], message.encode_to_vec()].concat()
    }
    let obstacle = Obstacle::FailedBefore {
        generation: Generation { epoch: 1, counter: 7 },
        because: Box::new(Obstacle::Fetch {
            attempts: 3,
            detail: "no route".to_owned(),
        }),
    };
    let evidence = Evidence {
        crashes: 1,
        probes_run: 8,
        probes_matched: 7,
        probe_loss: Some(NatsPerToken::clamped(1.5)),
        requests: 9,
        errors: 1,
        latency_p95_ms: Some(40),
        tokens_per_second: Some(TokensPerSecond::clamped(20.0)),
        confidence: Some(Fraction::clamped(0.5)),
    };
    let policy = RolloutPolicy {
        waves: vec![WaveSize::Count(1), WaveSize::Percent(100)],
        gates: vec![Gate {
            metric: Metric::ProbeLoss,
            bound: GateBound::AtMostTimesPrevious(1.1),
        }],
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
    };
    let requirements = Requirements {
        min_tokens_per_second: TokensPerSecond::clamped(12.5),
        context: 256,
        max_memory: Some(ByteSize::new(7)),
        max_loss: Some(NatsPerToken::clamped(1.5)),
    };
    let observed = v1::ObservedModel {
        deployment: "fields".to_owned(),
        generation: Some(Generation { epoch: 0, counter: 2 }.into()),
        target_release: "farm.r2".to_owned(),
        progress: Some((&Progress::CannotConverge(obstacle.clone())).into()),
        running_release: "farm.r1".to_owned(),
        evidence: Some((&evidence).into()),
        ..v1::ObservedModel::default()
    };
    let round = v1::RoundRef {
        job: "night-1".to_owned(),
        round: 1,
        attempt: 2,
    };
    let mut seeds: Vec<Vec<u8>> = reference_profiles()
        .iter()
        .map(|profile| seed(0, &v1::CapabilityProfile::from(profile)))
        .collect();
    seeds.extend([
        seed(1, &v1::Progress::from(&Progress::Working(Stage::Fetch))),
        seed(1, &v1::Progress::from(&Progress::CannotConverge(obstacle.clone()))),
        seed(2, &v1::Obstacle::from(&obstacle)),
        seed(3, &v1::GateEvidence::from(&evidence)),
        seed(4, &v1::RolloutPolicy::from(&policy)),
        seed(5, &v1::Requirements::from(&requirements)),
        seed(6, &round),
        seed(7, &observed),
    ]);
    seeds
}

/// Decodes a message and converts it to the domain. What is accepted goes back and forth again without a change.
fn both_ways<M, D>(
    bytes: &[u8],
    from: impl Fn(M) -> Result<D, fieldfare_proto::ConversionError>,
    to: impl Fn(&D) -> M,
) -> String
where
    M: Message + Default,
    D: PartialEq + std::fmt::Debug,
{
    let message = match M::decode(bytes) {
        Ok(message) => message,
        Err(error) => return failed(&error),
    };
    let domain = match from(message) {
        Ok(domain) => domain,
        Err(error) => return failed(&error),
    };
    let wire = to(&domain).encode_to_vec();
    let again = from(M::decode(wire.as_slice()).unwrap()).unwrap();
    assert_eq!(again, domain);
    assert_eq!(to(&again).encode_to_vec(), wire);
    "converted".to_owned()
}

fn take(bytes: &[u8]) -> String {
    let Some((kind, bytes)) = bytes.split_first() else {
        return "nothing".to_owned();
    };
    let outcome = match kind % 9 {
        0 => both_ways(
            bytes,
            |message: v1::CapabilityProfile| CapabilityProfile::try_from(message),
            |domain| domain.into(),
        ),
        1 => both_ways(
            bytes,
            |message: v1::Progress| Progress::try_from(message),
            |domain| domain.into(),
        ),
        2 => both_ways(
            bytes,
            |message: v1::Obstacle| Obstacle::try_from(message),
            |domain| domain.into(),
        ),
        3 => both_ways(
            bytes,
            |message: v1::GateEvidence| Evidence::try_from(message),
            |domain| domain.into(),
        ),
        4 => both_ways(
            bytes,
            |message: v1::RolloutPolicy| RolloutPolicy::try_from(message),
            |domain| domain.into(),
        ),
        5 => both_ways(
            bytes,
            |message: v1::Requirements| Requirements::try_from(message),
            |domain| domain.into(),
        ),
        6 => both_ways(
            bytes,
            |message: v1::RoundRef| RoundId::try_from(message),
            |domain| domain.into(),
        ),
        7 => match v1::ObservedModel::decode(bytes) {
            Ok(message) => {
                Observation::try_from(&message).map_or_else(|error| failed(&error), |_| "converted".to_owned())
            }
            Err(error) => failed(&error),
        },
        _ => whole(bytes),
    };
    format!("{}{outcome}", kind % 9)
}

/// The messages that arrive from devices, trainers and operators. What is decoded is encoded and decoded again.
fn whole(bytes: &[u8]) -> String {
    fn one<M: Message + Default + PartialEq>(bytes: &[u8]) -> &'static str {
        match M::decode(bytes) {
            Ok(message) => {
                // A NaN is no other number; the bytes tell.
                let wire = message.encode_to_vec();
                assert_eq!(M::decode(wire.as_slice()).unwrap().encode_to_vec(), wire);
                "decoded "
            }
            Err(_) => "refused ",
        }
    }
    [
        one::<v1::DeviceMessage>(bytes),
        one::<v1::GatewayMessage>(bytes),
        one::<v1::ApplyDeploymentRequest>(bytes),
        one::<v1::StartJobRequest>(bytes),
        one::<v1::RoundTicket>(bytes),
        one::<v1::CheckpointRequest>(bytes),
    ]
    .concat()
}
