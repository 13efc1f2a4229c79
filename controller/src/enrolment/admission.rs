//! Admission: what a join token and a key make of a newcomer.

use std::collections::BTreeMap;

use fieldfare_fleet::{CapabilityProfile, DeviceId, Digest, Labels, TenantName, TrainerName};
use fieldfare_proto::OptionExt;
use fieldfare_proto::v1::audit_record::Event;
use fieldfare_proto::v1::{
    self, AuditCertificate, AuditCertificateCause, DeviceRecord, DeviceStanding, DeviceStatusRecord, EnrolStart,
    KeyRecord, PendingApproval, PrincipalRecord, TokenRecord, TokenRole, TrustTier, enrol_response::Step,
};
use fieldfare_tls::{CertificateRequest, JoinSecret, OperatorName, Principal};

use super::certificates::hand_out;
use crate::clock::new_id;
use crate::keys::TokenId;
use crate::limits::{APPROVAL_RETRY, PENDING_DEVICES_MAX};
use crate::plane::ControlPlane;
use crate::records::{Change, attempt};
use crate::refusal::Refusal;

/// What a newcomer says of itself, checked.
pub(super) struct Application {
    token_hash: Digest,
    token_id: TokenId,
    request: CertificateRequest,
    /// A DNS-1123 label.
    name: String,
    /// Devices only.
    profile: Option<v1::CapabilityProfile>,
    labels: BTreeMap<String, String>,
}

impl Application {
    /// Checks everything that can be checked without the store.
    pub(super) fn read(plane: &ControlPlane, start: EnrolStart) -> Result<Self, Refusal> {
        let secret = JoinSecret::from_slice(&start.token_secret);
        let secret =
            secret.ok_or_else(|| Refusal::invalid("token_secret", "expected the 32 bytes of a join token's secret"))?;
        let request = super::certificate_request(&start.csr_der)?;
        if plane.deny.is_key_denied(request.key_digest()) {
            return Err(Refusal::Forbidden("the key is revoked".to_owned()));
        }
        // Names of all kinds follow one rule; that of tenants stands for it.
        let name = TenantName::new(start.display_name).map_err(|error| Refusal::invalid("display_name", error))?;
        let profile = match start.profile {
            Some(profile) => Some(v1::CapabilityProfile::from(&CapabilityProfile::try_from(profile)?)),
            None => None,
        };
        let labels = Labels::new(start.labels).map_err(|error| Refusal::invalid("labels", error))?;
        let token_hash = secret.hash();
        let token_id = TokenId::of(token_hash.as_bytes());
        Ok(Self {
            token_hash,
            token_id,
            request,
            name: name.into(),
            profile,
            labels: labels.into(),
        })
    }
}

/// Whom the token makes of the newcomer.
enum Admitted {
    Named(Principal),
    Pending(DeviceId),
}

/// Uses the token and issues the certificate. Repeating it with the same key and token gives the same principal and uses
/// the token once.
pub(super) async fn admit(plane: &ControlPlane, application: &Application) -> Result<Step, Refusal> {
    let admitted = attempt!("the join token", plane.records, change, {
        let token = usable_token(plane, &mut change, application).await?;
        match holder(plane, &mut change, application, &token).await? {
            Some(known) => known,
            None => newcomer(plane, &mut change, application, token).await?,
        }
    });
    match admitted {
        Admitted::Named(principal) => {
            plane.metrics.enrolled();
            tracing::info!(%principal, "enrolled");
            let (cause, token) = (AuditCertificateCause::Enrolled, application.token_id.to_string());
            let issued = hand_out(plane, &application.request, &principal, cause, token).await?;
            Ok(Step::Issued(issued))
        }
        Admitted::Pending(id) => {
            let key = application.request.key_digest();
            tracing::info!(device = %id, name = application.name, %key, "waits for approval");
            let event = AuditCertificate {
                cause: AuditCertificateCause::Pending.into(),
                spiffe_id: plane.access.device_principal(id).to_string(),
                key_sha256: key.as_bytes().to_vec(),
                token_id: application.token_id.to_string(),
                ..AuditCertificate::default()
            };
            plane.audit.record(Event::Certificate(event)).await?;
            Ok(Step::Pending(PendingApproval {
                spiffe_id: plane.access.device_principal(id).to_string(),
                key_digest: key.as_bytes().to_vec(),
                retry_after_ms: u32::try_from(APPROVAL_RETRY.as_millis()).unwrap_or(u32::MAX),
            }))
        }
    }
}

/// The same text for a token that never was and for a wrong secret: a caller learns nothing by guessing.
fn unknown_token() -> Refusal {
    Refusal::Forbidden("the join token is unknown".to_owned())
}

async fn usable_token(
    plane: &ControlPlane,
    change: &mut Change<'_>,
    application: &Application,
) -> Result<TokenRecord, Refusal> {
    let token: Option<TokenRecord> = change.read(&plane.keys.token(&application.token_id)).await?;
    let token = token.ok_or_else(unknown_token)?;
    if token.secret_hash != application.token_hash.as_bytes() {
        return Err(unknown_token());
    }
    if token.revoked {
        return Err(Refusal::Forbidden(format!(
            "the join token {:?} is revoked",
            token.name
        )));
    }
    Ok(token)
}

/// The principal that already holds the key, if the token made it.
async fn holder(
    plane: &ControlPlane,
    change: &mut Change<'_>,
    application: &Application,
    token: &TokenRecord,
) -> Result<Option<Admitted>, Refusal> {
    let key = application.request.key_digest();
    let Some(held) = change.read::<KeyRecord>(&plane.keys.holder(&key)).await? else {
        return Ok(None);
    };
    let other = || Refusal::Forbidden("the key belongs to a principal that another token enrolled".to_owned());
    if held.role() != token.role() {
        return Err(other());
    }
    let unreadable = || Refusal::broken("reading the holder of a key", format!("{:?} is no name", held.id));
    Ok(Some(match held.role() {
        TokenRole::Trainer => {
            let name: TrainerName = held.id.parse().map_err(|_| unreadable())?;
            not_revoked(change, &plane.keys.trainer(&name)).await?;
            Admitted::Named(plane.access.trainer_principal(&name))
        }
        TokenRole::Operator => {
            let name: OperatorName = held.id.parse().map_err(|_| unreadable())?;
            not_revoked(change, &plane.keys.operator(&name)).await?;
            Admitted::Named(plane.access.operator_principal(&name))
        }
        TokenRole::Device | TokenRole::Unspecified => {
            let id: DeviceId = held.id.parse().map_err(|_| unreadable())?;
            let record: Option<DeviceRecord> = change.read(&plane.keys.device(id)).await?;
            let record = record
                .filter(|record| record.token_id == application.token_id.to_string())
                .ok_or_else(other)?;
            match record.standing() {
                DeviceStanding::Enrolled => Admitted::Named(plane.access.device_principal(id)),
                DeviceStanding::Pending => Admitted::Pending(id),
                DeviceStanding::Revoked | DeviceStanding::Unspecified => {
                    return Err(Refusal::Forbidden(format!("device {id} is revoked")));
                }
            }
        }
    }))
}

async fn not_revoked(change: &mut Change<'_>, key: &fieldfare_store::Key) -> Result<(), Refusal> {
    let record: Option<PrincipalRecord> = change.read(key).await?;
    match record {
        Some(record) if !record.revoked => Ok(()),
        _ => Err(Refusal::Forbidden("the principal is revoked".to_owned())),
    }
}

async fn newcomer(
    plane: &ControlPlane,
    change: &mut Change<'_>,
    application: &Application,
    mut token: TokenRecord,
) -> Result<Admitted, Refusal> {
    if token.expires_unix_ms <= plane.unix_ms() {
        return Err(Refusal::Forbidden(format!(
            "the join token {:?} has expired",
            token.name
        )));
    }
    if token.uses_left == 0 {
        return Err(Refusal::Forbidden(format!(
            "the join token {:?} is used up",
            token.name
        )));
    }
    token.uses_left -= 1;
    change.put(plane.keys.token(&application.token_id), &mut token);
    let (id, admitted) = match token.role() {
        TokenRole::Trainer => {
            let name = TrainerName::new(&application.name).map_err(|error| Refusal::invalid("display_name", error))?;
            named(plane, change, application, plane.keys.trainer(&name), "trainer").await?;
            (name.to_string(), Admitted::Named(plane.access.trainer_principal(&name)))
        }
        TokenRole::Operator => {
            let name = OperatorName::new(&application.name).map_err(|error| Refusal::invalid("display_name", error))?;
            named(plane, change, application, plane.keys.operator(&name), "operator").await?;
            (
                name.to_string(),
                Admitted::Named(plane.access.operator_principal(&name)),
            )
        }
        TokenRole::Device | TokenRole::Unspecified => {
            let id = new_id()?;
            (id.to_string(), device(plane, change, application, &token, id)?)
        }
    };
    let mut held = KeyRecord {
        generation: None,
        role: token.role,
        id,
    };
    change.put(plane.keys.holder(&application.request.key_digest()), &mut held);
    Ok(admitted)
}

async fn named(
    plane: &ControlPlane,
    change: &mut Change<'_>,
    application: &Application,
    key: fieldfare_store::Key,
    what: &'static str,
) -> Result<(), Refusal> {
    if change.read::<PrincipalRecord>(&key).await?.is_some() {
        return Err(Refusal::Exists {
            what,
            name: application.name.clone(),
        });
    }
    let key_digest = application.request.key_digest().as_bytes().to_vec();
    let mut record = PrincipalRecord {
        key_digest,
        enrolled_unix_ms: plane.unix_ms(),
        ..PrincipalRecord::default()
    };
    change.put(key, &mut record);
    Ok(())
}

fn device(
    plane: &ControlPlane,
    change: &mut Change<'_>,
    application: &Application,
    token: &TokenRecord,
    id: DeviceId,
) -> Result<Admitted, Refusal> {
    let profile = application.profile.clone().required("profile")?;
    let standing = if token.require_approval {
        DeviceStanding::Pending
    } else {
        DeviceStanding::Enrolled
    };
    if standing == DeviceStanding::Pending {
        let waiting = plane
            .mirror
            .read()
            .devices
            .values()
            .filter(|d| d.standing() == DeviceStanding::Pending)
            .count();
        if waiting >= PENDING_DEVICES_MAX {
            return Err(Refusal::Full(format!(
                "{PENDING_DEVICES_MAX} devices wait for approval already"
            )));
        }
    }
    let now = plane.unix_ms();
    let mut record = DeviceRecord {
        generation: None,
        name: application.name.clone(),
        standing: standing.into(),
        trust_tier: TrustTier::Unattested.into(),
        key_digest: application.request.key_digest().as_bytes().to_vec(),
        token_id: application.token_id.to_string(),
        labels: token.labels.clone(),
        enrolled_unix_ms: now,
        reason: String::new(),
    };
    change.put(plane.keys.device(id), &mut record);
    let labels = application.labels.clone();
    let mut status = DeviceStatusRecord {
        profile: Some(profile),
        labels,
        changed_unix_ms: now,
        ..DeviceStatusRecord::default()
    };
    change.put(plane.keys.device_status(id), &mut status);
    Ok(match standing {
        DeviceStanding::Pending => Admitted::Pending(id),
        _ => Admitted::Named(plane.access.device_principal(id)),
    })
}
