//! An authority and identities, as a controller gives them out.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use fieldfare_agent::clock;
use fieldfare_fleet::{DeviceId, TenantName, Timestamp, TrainerName};
use fieldfare_tls::{
    CertificateAuthority, CertificateRequest, ControllerName, HostName, Identity, Principal, PrivateKey, Role,
    SerialNumber, TrustBundle, TrustDomain, ValidityWindow,
};

const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long there has been an authority: it has issued certificates that expired long ago.
const AGE: Duration = Duration::from_secs(60 * 24 * 3600);

fn ago(time: Duration) -> Timestamp {
    Timestamp::UNIX_EPOCH.saturating_add(clock::now().since(Timestamp::UNIX_EPOCH) - time)
}

/// One authority, and certificates that are valid today.
pub(crate) struct Fleet {
    authority: CertificateAuthority,
    serial: AtomicU8,
    window: ValidityWindow,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let begun = ago(HOUR);
        let window = ValidityWindow::new(begun, begun.saturating_add(DAY)).unwrap();
        let lifetime = ValidityWindow::new(ago(AGE), begun.saturating_add(DAY)).unwrap();
        let domain = TrustDomain::new("farm.example").unwrap();
        let authority = CertificateAuthority::create(&domain, lifetime, SerialNumber::from_random([0; 16])).unwrap();
        Self {
            authority,
            serial: AtomicU8::new(1),
            window,
        }
    }

    fn domain(&self) -> TrustDomain {
        self.authority.certificate().domain().clone()
    }

    fn tenant() -> TenantName {
        TenantName::new("north").unwrap()
    }

    fn identity(&self, principal: &Principal) -> Identity {
        self.identity_within(principal, self.window)
    }

    fn identity_within(&self, principal: &Principal, window: ValidityWindow) -> Identity {
        let key = PrivateKey::generate().unwrap();
        let request = CertificateRequest::parse(&key.certificate_request().unwrap()).unwrap();
        let serial = SerialNumber::from_random([self.serial.fetch_add(1, Ordering::SeqCst); 16]);
        let names: [HostName; 1] = ["127.0.0.1".parse().unwrap()];
        let certificate = match principal.role {
            Role::Controller(_) => self.authority.issue_server(&request, principal, &names, window, serial),
            _ => self.authority.issue(&request, principal, window, serial),
        };
        let bundle = TrustBundle::new(vec![self.authority.certificate().clone()]).unwrap();
        Identity::new(key, vec![certificate.unwrap()], bundle).unwrap()
    }

    pub(crate) fn controller(&self) -> Identity {
        self.identity(&Principal::controller(
            self.domain(),
            ControllerName::new("c0").unwrap(),
        ))
    }

    pub(crate) fn trainer(&self) -> Identity {
        self.identity(&Principal::trainer(
            self.domain(),
            Self::tenant(),
            TrainerName::new("kiln").unwrap(),
        ))
    }

    fn device_principal(&self) -> Principal {
        Principal::device(self.domain(), Self::tenant(), DeviceId::from_bytes([7; 16]))
    }

    pub(crate) fn device(&self) -> Identity {
        self.identity(&self.device_principal())
    }

    /// The device with a certificate that expired so long ago.
    pub(crate) fn device_until(&self, expired: Duration) -> Identity {
        let window = ValidityWindow::new(ago(expired + DAY), ago(expired)).unwrap();
        self.identity_within(&self.device_principal(), window)
    }
}
