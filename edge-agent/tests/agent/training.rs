//! The training process: the real binary, private steps on a real model.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fieldfare_agent::private::StoredExample;
use fieldfare_agent::rounds::{Order, Training, TrainingError, train};
use fieldfare_lm::example::Example;
use fieldfare_lm::train::LoraSpec;
use fieldfare_privacy::{DpSgdParameters, RingCodec, RingParameters};

use crate::{binary, stories};

/// stories260K has 5 layers; B has a row for each output of its seven projections (64, 32, 32, 64, 172, 172, 64), times rank 4.
const ENTRIES: usize = 5 * 4 * (64 + 32 + 32 + 64 + 172 + 172 + 64);

fn order(weights: PathBuf, learning_rate: f32) -> Order {
    let ring = RingParameters {
        length: ENTRIES,
        range: 0.5,
        ring_bits: 32,
        cohort_limit: 64,
    };
    let LoraSpec { rank, alpha, seed } = LoraSpec {
        rank: 4,
        alpha: 8.0,
        seed: 3,
    };
    let training = Training {
        rank,
        alpha,
        a_seed: seed,
        dp: DpSgdParameters::from_numbers(0.2, 2, 0.5, 1.0, 40).unwrap(),
        ring,
        learning_rate,
        max_sequence_tokens: 32,
        physical_batch: 4,
    };
    let example = |id| StoredExample {
        id,
        example: Example::Completion {
            prompt: "Once upon".into(),
            completion: format!(" a time number {id}"),
        },
    };
    let examples = (0..40).map(example).collect();
    Order {
        weights,
        training,
        state: STANDARD.encode(vec![0; ENTRIES * 4]),
        examples,
        address_space: 16 << 30,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contribution_is_an_update_in_the_ring_and_differs_each_time() {
    let Some(weights) = stories() else { return };
    let order = order(weights, 0.01);
    let codec = RingCodec::new(order.training.ring).unwrap();
    let first = train(&binary(), &order).await.unwrap();
    let update = codec.decode(&first).unwrap();
    assert!(update.iter().any(|entry| *entry != 0.0));
    // Adam moves an entry by at most 3.17 learning rates in a step with its usual constants.
    assert!(update.iter().all(|entry| entry.abs() <= 0.01 * 2.0 * 3.2));
    // Sampling and noise are drawn anew: the same examples never give the same bytes twice.
    assert_ne!(train(&binary(), &order).await.unwrap(), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learning_rate_of_zero_contributes_nothing() {
    let Some(weights) = stories() else { return };
    let order = order(weights, 0.0);
    let codec = RingCodec::new(order.training.ring).unwrap();
    let update = codec.decode(&train(&binary(), &order).await.unwrap()).unwrap();
    assert!(update.iter().all(|entry| *entry == 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_process_without_memory_is_reported_and_harms_nobody() {
    let Some(weights) = stories() else { return };
    let mut order = order(weights, 0.01);
    order.address_space = 1 << 20;
    let error = train(&binary(), &order).await.unwrap_err();
    assert!(
        matches!(error, TrainingError::Died { .. } | TrainingError::Failed { .. }),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_of_another_length_is_refused() {
    let Some(weights) = stories() else { return };
    let mut order = order(weights, 0.01);
    order.state = STANDARD.encode([0; 8]);
    let error = train(&binary(), &order).await.unwrap_err();
    assert!(error.to_string().contains("the state has 8 bytes"), "{error}");
}
