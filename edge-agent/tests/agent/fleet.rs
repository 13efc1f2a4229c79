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

/// One authority, and certificates that are valid today.
pub(crate) struct Fleet {
    authority: CertificateAuthority,
    serial: AtomicU8,
    window: ValidityWindow,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let begun = Timestamp::from_unix_ms(clock::now().unix_ms() - 3_600_000);
        let window = ValidityWindow::new(begun, begun.saturating_add(24 * HOUR)).unwrap();
        let domain = TrustDomain::new("farm.example").unwrap();
        let authority = CertificateAuthority::create(&domain, window, SerialNumber::from_random([0; 16])).unwrap();
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
        let key = PrivateKey::generate().unwrap();
        let request = CertificateRequest::parse(&key.certificate_request().unwrap()).unwrap();
        let serial = SerialNumber::from_random([self.serial.fetch_add(1, Ordering::SeqCst); 16]);
        let names: [HostName; 1] = ["127.0.0.1".parse().unwrap()];
        let certificate = match principal.role {
            Role::Controller(_) => self
                .authority
                .issue_server(&request, principal, &names, self.window, serial),
            _ => self.authority.issue(&request, principal, self.window, serial),
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

    pub(crate) fn device(&self) -> Identity {
        self.identity(&Principal::device(
            self.domain(),
            Self::tenant(),
            DeviceId::from_bytes([7; 16]),
        ))
    }
}
