//! The longest job that may be asked for fits the store.

use fieldfare_fleet::limits::{MAX_ATTEMPTS, MAX_COHORT, MAX_NAME_BYTES, MAX_ROUNDS, MAX_VARIANTS};
use fieldfare_proto::v1::{
    FederatedCheckpoint, IneligibleDevice, JobStatusRecord, RoundRecord, RoundSummary, TurnedAway, VariantEvaluation,
    WorkCheckpoint, work_checkpoint,
};
use fieldfare_store::limits::{COMMIT_BYTES_MAX, KEY_BYTES_MAX};
use prost::Message;

use crate::limits::{FREE_TEXT_BYTES_MAX, INELIGIBLE_SHOWN_MAX, TURNED_AWAY_REASONS_MAX, TURNED_AWAY_ROUNDS_MAX};

/// The longest of everything that stands in the commit of a round.
#[test]
fn the_last_round_of_the_longest_job_with_the_largest_cohort_fits_one_commit() {
    let device_id = || "3f2b8c1e-0000-4000-8000-000000000000".to_owned();
    let turned_away = TurnedAway {
        reason: "r".repeat(FREE_TEXT_BYTES_MAX),
        devices: u32::MAX,
        device_ids: vec![device_id(); TURNED_AWAY_REASONS_MAX],
    };
    let rounds: Vec<RoundSummary> = (1..=MAX_ROUNDS)
        .map(|round| RoundSummary {
            round,
            attempt: MAX_ATTEMPTS,
            cohort: MAX_COHORT,
            accepted: MAX_COHORT,
            dropped: MAX_COHORT,
            loss_nats_per_token: 1.0,
            exact_match: 1.0,
            epsilon: 1.0,
            finished_unix_ms: i64::MAX,
            duration_ms: u64::MAX,
            turned_away: match (round + u32::try_from(TURNED_AWAY_ROUNDS_MAX).unwrap()) > MAX_ROUNDS {
                true => vec![turned_away.clone(); TURNED_AWAY_REASONS_MAX],
                false => Vec::new(),
            },
        })
        .collect();
    // What placement says of a device, for every reason that there is.
    let ineligible = vec![
        IneligibleDevice {
            device_id: device_id(),
            reason: "r".repeat(FREE_TEXT_BYTES_MAX / 2),
            name: "n".repeat(MAX_NAME_BYTES),
        };
        INELIGIBLE_SHOWN_MAX
    ];
    let evaluations = vec![
        VariantEvaluation {
            variant: "v".repeat(MAX_NAME_BYTES),
            loss_before: 1.0,
            loss_after: 1.0,
            exact_match_before: 1.0,
            exact_match_after: 1.0,
            majority_exact_match: 1.0,
            examples: u32::MAX,
            passed: true,
            reason: "r".repeat(FREE_TEXT_BYTES_MAX),
        };
        MAX_VARIANTS
    ];
    let federated = FederatedCheckpoint {
        committed_round: MAX_ROUNDS,
        attempt: MAX_ATTEMPTS,
        state_sha256: vec![7; 32],
        rounds: rounds.clone(),
        before: evaluations.clone(),
        ..FederatedCheckpoint::default()
    };
    let status = JobStatusRecord {
        reason: "r".repeat(2 * FREE_TEXT_BYTES_MAX),
        checkpoint: Some(WorkCheckpoint {
            work: Some(work_checkpoint::Work::Federated(federated)),
        }),
        rounds,
        evaluations,
        ineligible: ineligible.clone(),
        ..JobStatusRecord::default()
    };
    let round = RoundRecord {
        cohort: vec![vec![7; 16]; MAX_COHORT as usize],
        ineligible,
        accepted_sha256: vec![7; 32],
        ..RoundRecord::default()
    };
    // Both records, the keys in puts and conditions, and what is short in them.
    let commit = status.encoded_len() + round.encoded_len() + 8 * KEY_BYTES_MAX + 4096;
    assert!(commit < COMMIT_BYTES_MAX, "{commit} bytes");
}
