//! Certificates of principals: who gets one for how long.

use std::time::Duration;

use fieldfare_fleet::Timestamp;
use fieldfare_proto::v1::{IssuedIdentity, TrustTier};
use fieldfare_tls::{
    CertificateAuthority, CertificateRequest, HostName, Principal, Role, SerialNumber, ValidityWindow,
};

use crate::clock::{random_bytes, unix_ms};
use crate::limits::{CERTIFICATE_BACKDATING, CERTIFICATE_LIFETIME, OPERATOR_CERTIFICATE_LIFETIME};
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

/// Issues the certificate of a principal for the key of a request, from now on. A server also gets the names under which
/// clients that know nothing of SPIFFE reach it.
pub(crate) fn issue(
    authority: &CertificateAuthority,
    request: &CertificateRequest,
    principal: &Principal,
    names: &[HostName],
    now: Timestamp,
) -> Result<IssuedIdentity, Refusal> {
    let window = window(principal, now)?;
    let serial = SerialNumber::from_random(random_bytes()?);
    let leaf = match names {
        [] => authority.issue(request, principal, window, serial),
        names => authority.issue_server(request, principal, names, window, serial),
    };
    let leaf = leaf.map_err(|error| Refusal::broken("issuing a certificate", error))?;
    Ok(IssuedIdentity {
        spiffe_id: principal.to_string(),
        chain_der: vec![leaf.to_vec()],
        authorities_der: vec![authority.certificate().der().to_vec()],
        not_after_unix_ms: unix_ms(window.not_after()),
        trust_tier: TrustTier::Unattested.into(),
    })
}
