//! A job of the real process with a device in it that lies in every round.

use fieldfare_privacy::ExactSum;
use fieldfare_proto::v1::FederatedJobSpec;
use fieldfare_tls::Identity;
use tonic::Code;

use crate::controller::Stage;
use crate::devices::{Device, codec_of};
use crate::fleet::device_id;
use crate::import::start;
use crate::job::{data, devices, spec, work};

/// What the trainer says of the liar of each round.
const REASONS: [&str; 3] = [
    "a contribution of another length",
    "other bytes than announced",
    "entries out of range",
];

/// The state that a round ends with, worked out from what was contributed.
fn state_after(state: &[u8], configuration: &[u8], contributions: &[Vec<u8>]) -> Vec<u8> {
    let mut sum = ExactSum::new(codec_of(configuration));
    contributions.iter().for_each(|bytes| sum.add(bytes).unwrap());
    let mean = sum.mean().unwrap();
    let state = state
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
    state
        .zip(mean)
        .flat_map(|(state, mean)| (state + mean).to_le_bytes())
        .collect()
}

/// Lies in three ways, then contributes what it trained; the state that it began with, and its contribution.
async fn lie(
    liar: &Device,
    configuration: &[u8],
    endpoint: &str,
    trainer: &Identity,
    controller: &Identity,
) -> (Vec<u8>, Vec<u8>) {
    let mut seat = liar
        .join(configuration, endpoint, trainer.principal(), controller)
        .await;
    let honest = liar.train(configuration, &seat.state);
    let codec = codec_of(configuration);
    let entry = codec.byte_length() / codec.parameters().length;
    // The one value of an entry that lies outside of the levels.
    let mut out_of_range = honest.clone();
    out_of_range[..entry].fill(0);
    out_of_range[entry - 1] = 0x80;
    let short = &honest[..honest.len() - 1];
    let lies = [
        (short, short),
        (&honest[..], &out_of_range[..]),
        (&out_of_range[..], &out_of_range[..]),
    ];
    for (announced, sent) in lies {
        let refused = seat.contribute(announced, sent).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    seat.contribute(&honest, &honest).await.unwrap();
    (seat.state, honest)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_moves_no_sum_and_is_named_with_its_lies() {
    let stage = Stage::new().await;
    let controller = &stage.controller;
    let data = data();
    let folder = tempfile::tempdir().unwrap();
    stage.enrol("t1", folder.path());
    let cohort = devices(&stage, &data);
    let mut rounds = controller.rounds();
    let spec = FederatedJobSpec {
        steps_per_round: 2,
        ..spec()
    };
    controller.offer(work(controller, &data, spec));
    let _child = start(folder.path()).await;
    let trainer = Identity::load(&folder.path().join("identity")).unwrap().unwrap();
    for round in 1..=2 {
        let configuration = rounds.recv().await.unwrap();
        let endpoints: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.path().join("endpoints.json")).unwrap()).unwrap();
        let endpoint = endpoints["rounds"].as_str().unwrap();
        let (state, first) = lie(&cohort[0], &configuration, endpoint, &trainer, &stage.identity).await;
        let second = cohort[1]
            .take_part(&configuration, endpoint, trainer.principal(), &stage.identity)
            .await;
        let closed = controller.until(|state| state.closed.get(round - 1).cloned()).await;
        let summary = closed.summary.unwrap();
        let said: Vec<_> = summary
            .turned_away
            .iter()
            .map(|said| (said.reason.as_str(), said.devices))
            .collect();
        assert_eq!(said, REASONS.map(|reason| (reason, 1)));
        let liar = device_id(1).to_string();
        assert!(
            summary.turned_away.iter().all(|said| said.device_ids == [liar.clone()]),
            "{summary:?}"
        );
        assert_eq!(summary.accepted, 2);
        let digest = hex::encode(&closed.checkpoint.unwrap().state_sha256);
        let expected = state_after(&state, &configuration, &[first, second]);
        assert!(
            controller.state().blobs[&digest] == expected,
            "the state moved by the exact mean of both"
        );
    }
}
