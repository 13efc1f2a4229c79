//! Renewal: the holder of a certificate gets the next one, for the same key or another.

use fieldfare_fleet::{DeviceId, Digest};
use fieldfare_proto::v1::{
    AuditCertificateCause, DeviceRecord, DeviceStanding, IssuedIdentity, KeyRecord, PrincipalRecord, TokenRole,
};
use fieldfare_tls::{CertificateRequest, LeafCertificate, Principal};
use tonic::Extensions;

use super::certificates::hand_out;
use crate::access::Caller;
use crate::keys::Keys;
use crate::plane::ControlPlane;
use crate::records::{Change, attempt};
use crate::refusal::Refusal;

/// Somebody who presented a certificate that may be renewed.
#[derive(Debug)]
pub(super) struct Renewing {
    caller: Caller,
    presented: LeafCertificate,
}

impl Renewing {
    /// Reads who calls from the connection; an expired certificate within its grace is enough.
    pub(super) fn from(plane: &ControlPlane, extensions: &Extensions) -> Result<Self, Refusal> {
        let (caller, presented) = plane.access.renewing(extensions)?;
        Ok(Self { caller, presented })
    }
}

/// Issues the next certificate, unless the holder was revoked.
pub(super) async fn renew(
    plane: &ControlPlane,
    renewing: Renewing,
    request: &CertificateRequest,
) -> Result<IssuedIdentity, Refusal> {
    let next = request.key_digest();
    if plane.deny.is_key_denied(next) {
        return Err(Refusal::Forbidden("the key is revoked".to_owned()));
    }
    attempt!("the renewing principal", plane.records, change, {
        match &renewing.caller {
            Caller::Device(id) => rotate_device(plane, &mut change, *id, next).await?,
            Caller::Trainer(name) => {
                let holder = (TokenRole::Trainer, name.to_string());
                rotate_named(plane, &mut change, plane.keys.trainer(name), holder, next).await?;
            }
            Caller::Operator(name) => {
                let holder = (TokenRole::Operator, name.to_string());
                rotate_named(plane, &mut change, plane.keys.operator(name), holder, next).await?;
            }
        }
    });
    let principal: &Principal = &renewing.presented.principal;
    hand_out(plane, request, principal, AuditCertificateCause::Renewed, String::new()).await
}

async fn rotate_device(
    plane: &ControlPlane,
    change: &mut Change<'_>,
    id: DeviceId,
    next: Digest,
) -> Result<(), Refusal> {
    let key = plane.keys.device(id);
    let record: Option<DeviceRecord> = change.read(&key).await?;
    let mut record = record.ok_or_else(|| Refusal::Forbidden(format!("device {id} is not registered")))?;
    if record.standing() != DeviceStanding::Enrolled {
        return Err(Refusal::Forbidden(format!("device {id} is not enrolled")));
    }
    if move_key(
        &plane.keys,
        change,
        &record.key_digest,
        next,
        TokenRole::Device,
        id.to_string(),
    )
    .await?
    {
        record.key_digest = next.as_bytes().to_vec();
        change.put(key, &mut record);
    }
    Ok(())
}

async fn rotate_named(
    plane: &ControlPlane,
    change: &mut Change<'_>,
    key: fieldfare_store::Key,
    (role, name): (TokenRole, String),
    next: Digest,
) -> Result<(), Refusal> {
    let record: Option<PrincipalRecord> = change.read(&key).await?;
    let mut record = record.filter(|record| !record.revoked);
    let record = record
        .as_mut()
        .ok_or_else(|| Refusal::Forbidden(format!("{name} is not registered, or is revoked")))?;
    if move_key(&plane.keys, change, &record.key_digest, next, role, name).await? {
        record.key_digest = next.as_bytes().to_vec();
        change.put(key, record);
    }
    Ok(())
}

/// Hands the name over from one key to another. Tells whether there was anything to do.
async fn move_key(
    keys: &Keys,
    change: &mut Change<'_>,
    held: &[u8],
    next: Digest,
    role: TokenRole,
    id: String,
) -> Result<bool, Refusal> {
    if held == next.as_bytes() {
        return Ok(false);
    }
    let place = keys.holder(&next);
    if change.read::<KeyRecord>(&place).await?.is_some() {
        return Err(Refusal::invalid("csr_der", "the key belongs to another principal"));
    }
    change.put(
        place,
        &mut KeyRecord {
            generation: None,
            role: role.into(),
            id,
        },
    );
    if let Ok(before) = Digest::try_from(held) {
        change.delete(keys.holder(&before));
    }
    Ok(true)
}
