//! Who may call what: decided here, by the role that the caller's certificate names, and nowhere else.

use fieldfare_fleet::{DeviceId, TenantName, TrainerName};
use fieldfare_proto::PROTOCOL_VERSION;
use fieldfare_proto::v1::DeviceStanding;
use fieldfare_tls::{LeafCertificate, OperatorName, PeerIdentity, Principal, Role, TrustDomain};
use tonic::Extensions;

use crate::mirror::{Mirror, Records};
use crate::refusal::Refusal;

/// The tenant that this process serves. The tenant of a call is that of its credential, and no other is let in.
#[derive(Clone, Debug)]
pub struct Access {
    domain: TrustDomain,
    tenant: TenantName,
}

/// A caller that belongs to the tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A device; whether it is enrolled is asked of the registry.
    Device(DeviceId),
    /// A trainer.
    Trainer(TrainerName),
    /// An operator.
    Operator(OperatorName),
}

impl Access {
    /// Lets principals of this tenant in.
    pub fn new(domain: TrustDomain, tenant: TenantName) -> Self {
        Self { domain, tenant }
    }

    /// The trust domain of every principal.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The tenant.
    pub fn tenant(&self) -> &TenantName {
        &self.tenant
    }

    /// The principal of a device.
    pub fn device_principal(&self, id: DeviceId) -> Principal {
        Principal::device(self.domain.clone(), self.tenant.clone(), id)
    }

    /// The principal of a trainer.
    pub fn trainer_principal(&self, name: &TrainerName) -> Principal {
        Principal::trainer(self.domain.clone(), self.tenant.clone(), name.clone())
    }

    /// The principal of an operator.
    pub fn operator_principal(&self, name: &OperatorName) -> Principal {
        Principal::operator(self.domain.clone(), self.tenant.clone(), name.clone())
    }

    /// Who calls, by a certificate that is valid now.
    pub fn caller(&self, extensions: &Extensions) -> Result<Caller, Refusal> {
        let principal = peer(extensions)?
            .principal()
            .map_err(|error| Refusal::Anonymous(error.to_string()))?;
        self.member(principal)
    }

    /// Who renews: by a certificate that is valid, or expired within the grace.
    pub fn renewing(&self, extensions: &Extensions) -> Result<(Caller, LeafCertificate), Refusal> {
        let leaf = peer(extensions)?.presented();
        let leaf =
            leaf.ok_or_else(|| Refusal::Anonymous("a renewal needs the certificate that is renewed".to_owned()))?;
        Ok((self.member(&leaf.principal)?, leaf.clone()))
    }

    /// The caller, if it is an operator.
    pub fn operator(&self, extensions: &Extensions) -> Result<OperatorName, Refusal> {
        match self.caller(extensions)? {
            Caller::Operator(name) => Ok(name),
            _ => Err(Refusal::Forbidden("this is for operators".to_owned())),
        }
    }

    /// The caller, if it is a trainer.
    pub fn trainer(&self, extensions: &Extensions) -> Result<TrainerName, Refusal> {
        match self.caller(extensions)? {
            Caller::Trainer(name) => Ok(name),
            _ => Err(Refusal::Forbidden("this is for trainers".to_owned())),
        }
    }

    /// The caller, if it is a device that is enrolled and not revoked.
    pub fn device(&self, extensions: &Extensions, mirror: &Mirror) -> Result<DeviceId, Refusal> {
        match self.caller(extensions)? {
            Caller::Device(id) => is_enrolled(id, mirror).map(|()| id),
            _ => Err(Refusal::Forbidden("this is for devices".to_owned())),
        }
    }

    fn member(&self, principal: &Principal) -> Result<Caller, Refusal> {
        let ours = principal.domain == self.domain && principal.tenant() == Some(&self.tenant);
        match &principal.role {
            Role::Device(_, id) if ours => Ok(Caller::Device(*id)),
            Role::Trainer(_, name) if ours => Ok(Caller::Trainer(name.clone())),
            Role::Operator(_, name) if ours => Ok(Caller::Operator(name.clone())),
            _ => Err(Refusal::Forbidden(format!(
                "{principal} does not belong to tenant {} here",
                self.tenant
            ))),
        }
    }
}

/// Whether a device may take part, by the registry's copy in memory; the deny-list cuts its connections besides.
pub fn is_enrolled(id: DeviceId, mirror: &Mirror) -> Result<(), Refusal> {
    is_enrolled_in(id, &mirror.read())
}

/// As [`is_enrolled`], where the copy is being read already.
pub fn is_enrolled_in(id: DeviceId, records: &Records) -> Result<(), Refusal> {
    let standing = records
        .devices
        .get(&id)
        .map(fieldfare_proto::v1::DeviceRecord::standing);
    match standing {
        Some(DeviceStanding::Enrolled) => Ok(()),
        Some(DeviceStanding::Pending) => Err(Refusal::Forbidden(format!("device {id} waits for approval"))),
        Some(DeviceStanding::Revoked) => Err(Refusal::Forbidden(format!("device {id} is revoked"))),
        Some(DeviceStanding::Unspecified) | None => Err(Refusal::Forbidden(format!("device {id} is not registered"))),
    }
}

/// The version of the protocol that a peer of version `theirs` is spoken with by a controller of version `ours`: the lower of the two.
/// Understood are our own, the one before, and every later one, whose peers speak ours.
fn agreed(theirs: u32, ours: u32) -> Option<u32> {
    (theirs >= oldest(ours)).then(|| theirs.min(ours))
}

fn oldest(ours: u32) -> u32 {
    ours.saturating_sub(1).max(1)
}

/// The version of the protocol that a peer is spoken with.
///
/// # Errors
/// The peer's is more than one behind.
pub fn check_protocol(field: &str, version: u32) -> Result<u32, Refusal> {
    agreed(version, PROTOCOL_VERSION).ok_or_else(|| {
        let oldest = oldest(PROTOCOL_VERSION);
        Refusal::invalid(field, format!("is {version}, expected {oldest} to {PROTOCOL_VERSION}"))
    })
}

pub(crate) fn peer(extensions: &Extensions) -> Result<&PeerIdentity, Refusal> {
    extensions
        .get()
        .ok_or_else(|| Refusal::Anonymous("the connection has no identity".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_one_version_behind_is_spoken_with_in_its_own_version() {
        for (theirs, ours, expected) in [
            (1, 1, Some(1)),
            (0, 1, None),
            (1, 2, Some(1)),
            (2, 2, Some(2)),
            (0, 2, None),
            (1, 3, None),
            (2, 3, Some(2)),
            (3, 2, Some(2)),
            (u32::MAX, 2, Some(2)),
        ] {
            assert_eq!(agreed(theirs, ours), expected, "{theirs} to {ours}");
        }
    }
}
