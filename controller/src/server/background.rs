//! What a running controller does by itself: its own lease and certificate, the deny-list, the timestamp.

use std::sync::Arc;

use anyhow::Result;
use fieldfare_fleet::{DeviceId, Digest, TrainerName};
use fieldfare_proto::v1::{DeviceStanding, ReplicaRecord};
use fieldfare_store::{LeaseError, LeaseId};
use fieldfare_tls::{Denial, DeniedSet};
use tokio::task::JoinSet;

use crate::folder::Folder;
use crate::init::own_identity;
use crate::limits::{REPLICA_LEASE, TICK};
use crate::mirror::{Records, Topic};
use crate::plane::ControlPlane;
use crate::records::attempt;
use crate::refusal::{Refusal, chain};

/// Says in the store that this process lives, for as long as it does. Sessions count as open only while it says so.
pub(super) async fn hold_replica(plane: &Arc<ControlPlane>, tasks: &mut JoinSet<()>) -> Result<()> {
    let lease = register(plane).await?;
    let plane = Arc::clone(plane);
    tasks.spawn(async move {
        let mut lease = lease;
        loop {
            tokio::select! {
                () = plane.shutdown.cancelled() => break,
                () = tokio::time::sleep(REPLICA_LEASE / 3) => {}
            }
            match plane.records.store().keep_alive(lease).await {
                Ok(()) => {}
                Err(error @ LeaseError::NotLive(_)) => {
                    tracing::warn!(error = chain(&error), "the replica's lease ended; taking another");
                    match register(&plane).await {
                        Ok(next) => lease = next,
                        Err(error) => tracing::error!(error = chain(&error), "the replica is not registered"),
                    }
                }
                Err(error) => tracing::error!(error = chain(&error), "the replica's lease is not renewed"),
            }
        }
        // Without it, the lease ends by itself a little later.
        let _ = tokio::time::timeout(TICK, plane.records.store().revoke_lease(lease)).await;
    });
    Ok(())
}

async fn register(plane: &ControlPlane) -> Result<LeaseId, Refusal> {
    let lease = plane.records.store().grant_lease(REPLICA_LEASE).await?.id;
    let key = plane.keys.replica(&plane.incarnation);
    attempt!("the replica", plane.records, change, {
        let held: Option<ReplicaRecord> = change.read(&key).await?;
        let mut record = held.unwrap_or_else(|| ReplicaRecord {
            started_unix_ms: plane.unix_ms(),
            ..ReplicaRecord::default()
        });
        change.put_leased(key.clone(), &mut record, lease);
    });
    Ok(lease)
}

/// Starts the rest.
pub(super) fn spawn(plane: &Arc<ControlPlane>, folder: Folder, tasks: &mut JoinSet<()>) {
    tasks.spawn(plane.releases.clone().keep_fresh(plane.shutdown.clone()));
    tasks.spawn(take_up_commands(Arc::clone(plane), folder.clone()));
    tasks.spawn(keep_identity(Arc::clone(plane), folder));
    tasks.spawn(crate::garbage::keep_tidy(Arc::clone(plane)));
    plane.deny.replace(denied(plane, &plane.mirror.read()));
    tasks.spawn(follow_denials(Arc::clone(plane)));
}

/// Has the audit log say what commands were given on this machine meanwhile.
async fn take_up_commands(plane: Arc<ControlPlane>, folder: Folder) {
    loop {
        tokio::select! {
            () = plane.shutdown.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        if let Err(error) = plane.audit.take_up(&folder).await {
            tracing::error!(
                error = format!("{error:#}"),
                "commands that were given on this machine are not in the audit log yet"
            );
        }
    }
}

/// Renews the controller's own certificate at half its life.
async fn keep_identity(plane: Arc<ControlPlane>, folder: Folder) {
    loop {
        tokio::select! {
            () = plane.shutdown.cancelled() => return,
            () = tokio::time::sleep(TICK * 60) => {}
        }
        if !plane.identity.current().needs_renewal(plane.clock.now()) {
            continue;
        }
        match own_identity(&folder, &plane.authority, &plane.clock) {
            Ok(identity) => plane.identity.replace(identity),
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "the controller's certificate is not renewed"
            ),
        }
    }
}

/// Feeds the deny-list from the registry: at the next change of a device or trainer, its connections are cut.
async fn follow_denials(plane: Arc<ControlPlane>) {
    let mut devices = plane.mirror.subscribe(Topic::Devices);
    let mut trainers = plane.mirror.subscribe(Topic::Trainers);
    loop {
        plane.deny.replace(denied(&plane, &plane.mirror.read()));
        tokio::select! {
            () = plane.shutdown.cancelled() => return,
            changed = devices.changed() => if changed.is_err() { return },
            changed = trainers.changed() => if changed.is_err() { return },
        }
    }
}

fn denied(plane: &ControlPlane, records: &Records) -> DeniedSet {
    let key = |digest: &[u8]| Digest::try_from(digest).ok().map(Denial::Key);
    let device = |(id, record): (&DeviceId, &fieldfare_proto::v1::DeviceRecord)| {
        let revoked = record.standing() == DeviceStanding::Revoked;
        revoked.then(|| {
            [
                Some(Denial::Principal(plane.access.device_principal(*id))),
                key(&record.key_digest),
            ]
        })
    };
    let trainer = |(name, record): (&TrainerName, &fieldfare_proto::v1::PrincipalRecord)| {
        record.revoked.then(|| {
            [
                Some(Denial::Principal(plane.access.trainer_principal(name))),
                key(&record.key_digest),
            ]
        })
    };
    let devices = records.devices.iter().filter_map(device);
    devices
        .chain(records.trainers.iter().filter_map(trainer))
        .flatten()
        .flatten()
        .collect()
}
