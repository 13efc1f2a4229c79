//! The version of the form of a tenant's records, and how records of an earlier one get the present form.
//!
//! | version | what is new in it |
//! |---|---|
//! | 0 | before there was a number |
//! | 1 | what a rollout's decider keeps is a message, no longer JSON within one |
//!
//! A field that older builds may pass over needs no version. The version is in the fleet's own record and is written last: whoever is
//! interrupted begins anew with what is left to do.

use anyhow::{Context, Result, bail};
use fieldfare_fleet::rollout::RolloutState;
use fieldfare_proto::v1::{FleetRecord, RolloutRecord};
use fieldfare_store::{Condition, Key, List, Store};
use prost::Message;

use crate::batch::Batch;
use crate::keys::{Keys, Place};
use crate::records::{decode, decode_at};
use crate::refusal::Refusal;

/// The version that this build reads and writes.
pub const RECORDS: u32 = 1;

/// Refuses records that a later build wrote: what it does not know of them it would lose.
///
/// # Errors
/// They are of a later version.
pub fn check(found: u32) -> Result<()> {
    if found > RECORDS {
        bail!(
            "the records have schema version {found}, newer than {RECORDS}, the newest that this build reads: run the build that wrote them, or a later one"
        );
    }
    Ok(())
}

/// A record of version `from` in the form of this build; nothing where it has that form.
///
/// # Errors
/// It cannot be read.
pub fn migrated(keys: &Keys, key: &Key, value: &[u8], from: u32) -> Result<Option<Vec<u8>>, Refusal> {
    match keys.parse(key) {
        Some(Place::Rollout(_)) if from < 1 => {
            let mut record: RolloutRecord = decode_at(key, value.to_vec().into())?;
            if record.state.is_some() {
                return Ok(None);
            }
            let state: Result<RolloutState, _> = serde_json::from_slice(&record.json_state);
            let state = state.map_err(|error| Refusal::broken("reading a rollout's state", error))?;
            record.state = Some((&state).into());
            record.json_state.clear();
            Ok(Some(record.encode_to_vec()))
        }
        _ => Ok(None),
    }
}

/// Gives the records of a store the form of this build.
///
/// # Errors
/// They are of a later version, cannot be read or written, or somebody else changes them meanwhile.
pub async fn bring_up(store: &Store, keys: &Keys, fleet: &FleetRecord) -> Result<()> {
    check(fleet.schema)?;
    if fleet.schema == RECORDS {
        return Ok(());
    }
    let mut changed = 0_u64;
    let contended = "the records of an earlier version are changed by another process: stop every other controller";
    let mut batch = Batch::new(store, contended);
    let mut request = List::under(keys.root());
    loop {
        let page = store.list(request).await?;
        for entry in &page.entries {
            let Some(value) = migrated(keys, &entry.key, &entry.value, fleet.schema)? else {
                continue;
            };
            changed += 1;
            let unchanged = Condition::ModRevision(entry.key.clone(), entry.modified);
            batch.put(unchanged, entry.key.clone(), value.into()).await?;
        }
        match page.next {
            Some(next) => request = List::under(keys.root()).after(next),
            None => break,
        }
    }
    batch.flush().await?;
    let entry = store
        .get(&keys.fleet())
        .await?
        .context("the record of the fleet is gone")?;
    let mut record: FleetRecord = decode(&entry)?;
    record.schema = RECORDS;
    let unchanged = Condition::ModRevision(entry.key.clone(), entry.modified);
    batch.put(unchanged, entry.key, record.encode_to_vec().into()).await?;
    batch.flush().await?;
    tracing::info!(
        from = fleet.schema,
        to = RECORDS,
        changed,
        "the records have the present form"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use fieldfare_fleet::rollout::Phase;
    use fieldfare_fleet::{Generation, TenantName};

    use super::*;
    use crate::rollout::state_of;

    /// A rollout as builds before version 1 kept it.
    const JSON: &str = include_str!("schema/rollout-0.json");

    #[test]
    fn a_rollout_of_version_0_is_the_same_rollout_in_version_1() {
        let keys = Keys::of(&TenantName::new("acme").unwrap());
        let key = keys.rollout(&"soil".parse().unwrap());
        let before = RolloutRecord {
            rollout_id: "one".into(),
            json_state: JSON.into(),
            ..RolloutRecord::default()
        };
        let value = migrated(&keys, &key, &before.encode_to_vec(), 0).unwrap().unwrap();
        let record: RolloutRecord = decode_at(&key, value.clone().into()).unwrap();
        assert!(record.json_state.is_empty() && record.rollout_id == "one");
        let state = state_of(&record).unwrap();
        assert_eq!(state.generation, Generation { epoch: 0, counter: 5 });
        assert_eq!(state.previous.as_ref().unwrap().to_string(), "farm-alert.r1");
        assert!(
            matches!(&state.phase, Phase::RolledBack { cause, .. } if cause.to_string().contains("probe")),
            "{state:?}"
        );
        // What was done before an interruption is left alone.
        assert_eq!(migrated(&keys, &key, &value, 0).unwrap(), None);
    }

    #[test]
    fn other_records_stay_byte_for_byte() {
        let keys = Keys::of(&TenantName::new("acme").unwrap());
        let fleet = FleetRecord::default().encode_to_vec();
        assert_eq!(migrated(&keys, &keys.fleet(), &fleet, 0).unwrap(), None);
        assert_eq!(
            migrated(&keys, &keys.rollout(&"soil".parse().unwrap()), b"", RECORDS).unwrap(),
            None
        );
        assert!(check(RECORDS).is_ok() && check(RECORDS + 1).is_err());
    }
}
