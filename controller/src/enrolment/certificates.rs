//! Certificates of principals: who gets one for how long.

use std::time::Duration;

use fieldfare_fleet::Timestamp;
use fieldfare_proto::v1::audit_record::Event;
use fieldfare_proto::v1::{AuditCertificate, AuditCertificateCause, IssuedIdentity, TrustTier};
use fieldfare_release::Sha256Digest;
use fieldfare_tls::limits::CERTIFICATE_BACKDATING;
use fieldfare_tls::{CertificateRequest, HostName, Principal, Role, SerialNumber, ValidityWindow};

use crate::authority::Authorities;
use crate::clock::{random_bytes, unix_ms};
use crate::limits::{CERTIFICATE_LIFETIME, OPERATOR_CERTIFICATE_LIFETIME};
use crate::plane::ControlPlane;
use crate::refusal::Refusal;

/// The span for which a certificate that begins now is good.
fn window(principal: &Principal, now: Timestamp) -> Result<ValidityWindow, Refusal> {
    let lifetime = match principal.role {
        Role::Operator(..) => OPERATOR_CERTIFICATE_LIFETIME,
        Role::Controller(_) | Role::Device(..) | Role::Trainer(..) => CERTIFICATE_LIFETIME,
    };
    let start = Timestamp::from_unix_ms(now.unix_ms().saturating_sub(millis(CERTIFICATE_BACKDATING)));
    let window = ValidityWindow::new(start, now.saturating_add(lifetime));
    window.map_err(|error| Refusal::broken("dating a certificate", error))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Issues the certificate of a principal and has it in the audit log before anybody gets it.
pub(super) async fn hand_out(
    plane: &ControlPlane,
    request: &CertificateRequest,
    principal: &Principal,
    cause: AuditCertificateCause,
    token_id: String,
) -> Result<IssuedIdentity, Refusal> {
    let issued = issue(&plane.authority, request, principal, &[], plane.clock.now())?;
    let leaf = issued.chain_der.first().map(|der| Sha256Digest::of(der));
    let event = AuditCertificate {
        cause: cause.into(),
        spiffe_id: issued.spiffe_id.clone(),
        key_sha256: request.key_digest().as_bytes().to_vec(),
        token_id,
        certificate_sha256: leaf.map(|digest| digest.as_bytes().to_vec()).unwrap_or_default(),
        not_after_unix_ms: issued.not_after_unix_ms,
    };
    plane.audit.record(Event::Certificate(event)).await?;
    Ok(issued)
}

/// Issues the certificate of a principal for the key of a request, from now on. A server also gets the names under which
/// clients that know nothing of SPIFFE reach it.
pub(crate) fn issue(
    authorities: &Authorities,
    request: &CertificateRequest,
    principal: &Principal,
    names: &[HostName],
    now: Timestamp,
) -> Result<IssuedIdentity, Refusal> {
    let window = window(principal, now)?;
    let serial = SerialNumber::from_random(random_bytes()?);
    let leaf = match names {
        [] => authorities.issuing().issue(request, principal, window, serial),
        names => authorities
            .issuing()
            .issue_server(request, principal, names, window, serial),
    };
    let leaf = leaf.map_err(|error| Refusal::broken("issuing a certificate", error))?;
    Ok(IssuedIdentity {
        spiffe_id: principal.to_string(),
        chain_der: vec![leaf.to_vec()],
        authorities_der: authorities
            .trusted()
            .authorities()
            .iter()
            .map(|a| a.der().to_vec())
            .collect(),
        not_after_unix_ms: unix_ms(window.not_after()),
        trust_tier: TrustTier::Unattested.into(),
    })
}
