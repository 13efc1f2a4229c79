//! What a record becomes when it is restored: newer than whatever was said before, and nothing goes on that others went on with.
//!
//! Between the backup and its restoring the fleet went on. Devices heard generations, sessions and claims were given numbers, and rounds
//! were run that the records do not know. An epoch that was never used makes all of these older than what comes.

use bytes::Bytes;
use fieldfare_proto::v1::{
    self, FleetRecord, JobRecord, JobStage, JobStatusRecord, RolloutRecord, RoundRecord, SessionRecord, job_record,
};
use fieldfare_store::Key;
use prost::Message;

use crate::jobs::is_over;
use crate::keys::{Keys, Place};
use crate::limits::VERSIONS_PER_EPOCH;
use crate::records::decode_at;
use crate::refusal::Refusal;
use crate::rollout::state_of;

/// The epoch of a fleet that is restored at this moment from a backup of this epoch: later than the backup's, and than that of whatever
/// was restored from it or from an older one before, since that was at an earlier second.
pub(super) fn next(backup: u32, now_unix_ms: u64) -> u32 {
    let second = u32::try_from(now_unix_ms / 1000).unwrap_or(u32::MAX);
    second.max(backup.saturating_add(1))
}

/// The record as it is restored.
pub(super) fn raised(keys: &Keys, key: &Key, value: &[u8], epoch: u32) -> Result<Bytes, Refusal> {
    let bytes = Bytes::copy_from_slice(value);
    let mut raised = match keys.parse(key) {
        Some(Place::Rollout(_)) => {
            let mut record: RolloutRecord = decode_at(key, bytes)?;
            let state = state_of(&record).map_err(|error| Refusal::broken("reading a rollout's state", error))?;
            record.state = Some((&state.in_epoch(epoch)).into());
            record.encode_to_vec()
        }
        Some(Place::DeploymentStatus(_)) => {
            let mut record: v1::DeploymentStatusRecord = decode_at(key, bytes)?;
            if let Some(observed) = &mut record.observed_spec {
                observed.epoch = observed.epoch.max(epoch);
            }
            record.encode_to_vec()
        }
        // Fencing tokens that were given away since are no longer the current ones.
        Some(Place::JobStatus(_)) => {
            let mut record: JobStatusRecord = decode_at(key, bytes)?;
            record.last_token = record.last_token.max(first_number(epoch));
            record.encode_to_vec()
        }
        Some(Place::Session(_)) => {
            let mut record: SessionRecord = decode_at(key, bytes)?;
            record.fence = record.fence.max(first_number(epoch));
            record.open = false;
            record.encode_to_vec()
        }
        Some(Place::Round(_)) => {
            let mut record: RoundRecord = decode_at(key, bytes)?;
            record.closed = true;
            record.encode_to_vec()
        }
        _ => value.to_vec(),
    };
    // The field `generation` is the first of every record. What is appended to a message is merged into it, so that the counter stays.
    let epoch_alone = FleetRecord {
        generation: Some(v1::Generation { epoch, counter: 0 }),
        ..FleetRecord::default()
    };
    raised.extend(epoch_alone.encode_to_vec());
    Ok(raised.into())
}

/// The first of the numbers of an epoch, where they are counted without one: more than were ever given away before it.
pub(crate) fn first_number(epoch: u32) -> u64 {
    u64::from(epoch).saturating_mul(VERSIONS_PER_EPOCH)
}

/// Ends a federated job that was under way: rounds that it ran after the backup are not known here, and what they cost the devices'
/// data would be missing from what its release says of privacy. The status as it is then; nothing where the job may go on.
pub(super) fn ended(job: &JobRecord, mut status: JobStatusRecord, now_unix_ms: i64) -> Option<JobStatusRecord> {
    let is_federated = matches!(job.work, Some(job_record::Work::Federated(_)));
    if !is_federated || is_over(status.stage()) {
        return None;
    }
    status.set_stage(JobStage::Failed);
    status.reason =
        "the fleet was restored from a backup, which does not know the rounds after it: start another job".to_owned();
    status.updated_unix_ms = now_unix_ms;
    Some(status)
}

#[cfg(test)]
mod tests {
    use fieldfare_fleet::{DeviceId, Generation, TenantName};

    use super::*;
    use crate::records::Record;

    #[test]
    fn an_epoch_is_later_than_that_of_any_restoring_before() {
        let first = next(0, 1_800_000_000_000);
        assert_eq!(first, 1_800_000_000);
        // The same backup again, a second later; and a backup of what was restored, by a clock that lies in the past.
        assert!(next(0, 1_800_000_001_000) > first);
        assert!(next(first, 0) > first);
        assert_eq!(next(u32::MAX, 0), u32::MAX);
    }

    #[test]
    fn a_raised_record_keeps_its_counter_and_everything_else() {
        let keys = Keys::of(&TenantName::new("acme").unwrap());
        let device = DeviceId::from_bytes([7; 16]);
        let mut record = v1::DeviceRecord {
            name: "gate".into(),
            labels: [("site".to_owned(), "north".to_owned())].into(),
            ..v1::DeviceRecord::default()
        };
        for counter in [0, 5] {
            record.set_generation(Generation { epoch: 3, counter });
            let value = raised(&keys, &keys.device(device), &record.encode_to_vec(), 9).unwrap();
            let read: v1::DeviceRecord = decode_at(&keys.device(device), value).unwrap();
            assert_eq!(read.generation(), Generation { epoch: 9, counter });
            let mut expected = record.clone();
            expected.set_generation(read.generation());
            assert_eq!(read, expected);
        }
    }

    #[test]
    fn sessions_and_claims_begin_beyond_every_number_that_was_given_away() {
        let keys = Keys::of(&TenantName::new("acme").unwrap());
        let device = DeviceId::from_bytes([7; 16]);
        let session = SessionRecord {
            fence: 41,
            open: true,
            ..SessionRecord::default()
        };
        let key = keys.session(device);
        let value = raised(&keys, &key, &session.encode_to_vec(), 1_800_000_000).unwrap();
        let read: SessionRecord = decode_at(&key, value).unwrap();
        assert!(!read.open && read.fence == 1_800_000_000_000, "{read:?}");
    }
}
