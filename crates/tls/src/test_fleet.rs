//! An authority and identities for the tests of this crate, at a time that stands still unless a test moves it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use fieldfare_fleet::{DeviceId, TenantName, Timestamp, TrainerName};

use crate::{
    CertificateAuthority, CertificateRequest, ControllerName, HostName, Identity, Principal, PrivateKey, SerialNumber,
    TimeSource, TrustBundle, TrustDomain, ValidityWindow,
};

/// 2026-01-01T00:00:00Z.
pub(crate) const START: Timestamp = Timestamp::from_unix_ms(1_767_225_600_000);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn after(duration: Duration) -> Timestamp {
    START.saturating_add(duration)
}

pub(crate) fn window(from: Duration, to: Duration) -> ValidityWindow {
    ValidityWindow::new(after(from), after(to)).unwrap()
}

pub(crate) fn tenant() -> TenantName {
    TenantName::new("north").unwrap()
}

/// A clock that a test moves.
#[derive(Clone)]
pub(crate) struct Clock(Arc<AtomicU64>);

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(after(HOUR).unix_ms())))
    }

    pub(crate) fn set(&self, since_start: Duration) {
        self.0.store(after(since_start).unix_ms(), Ordering::SeqCst);
    }

    pub(crate) fn source(&self) -> TimeSource {
        let shared = Arc::clone(&self.0);
        TimeSource::new(move || Timestamp::from_unix_ms(shared.load(Ordering::SeqCst)))
    }
}

/// A fleet: one authority, and certificates that live a day from [`START`] unless a test asks otherwise.
pub(crate) struct Fleet {
    pub(crate) authority: CertificateAuthority,
    serial: AtomicU8,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        Self::of("farm.example")
    }

    pub(crate) fn of(domain: &str) -> Self {
        let domain = TrustDomain::new(domain).unwrap();
        let serial = SerialNumber::from_random([0; 16]);
        let authority = CertificateAuthority::create(&domain, window(Duration::ZERO, 3650 * DAY), serial).unwrap();
        Self {
            authority,
            serial: AtomicU8::new(1),
        }
    }

    pub(crate) fn domain(&self) -> TrustDomain {
        self.authority.certificate().domain().clone()
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::new(vec![self.authority.certificate().clone()]).unwrap()
    }

    pub(crate) fn next_serial(&self) -> SerialNumber {
        SerialNumber::from_random([self.serial.fetch_add(1, Ordering::SeqCst); 16])
    }

    pub(crate) fn identity(&self, principal: &Principal, window: ValidityWindow) -> Identity {
        let key = PrivateKey::generate().unwrap();
        let request = CertificateRequest::parse(&key.certificate_request().unwrap()).unwrap();
        let certificate = self
            .authority
            .issue(&request, principal, window, self.next_serial())
            .unwrap();
        Identity::new(key, vec![certificate], self.bundle()).unwrap()
    }

    pub(crate) fn device_principal(&self, number: u8) -> Principal {
        Principal::device(self.domain(), tenant(), DeviceId::from_bytes([number; 16]))
    }

    pub(crate) fn device(&self, number: u8) -> Identity {
        self.identity(&self.device_principal(number), window(Duration::ZERO, DAY))
    }

    pub(crate) fn trainer(&self, name: &str) -> Identity {
        let principal = Principal::trainer(self.domain(), tenant(), TrainerName::new(name).unwrap());
        self.identity(&principal, window(Duration::ZERO, DAY))
    }

    pub(crate) fn controller(&self) -> Identity {
        let key = PrivateKey::generate().unwrap();
        let request = CertificateRequest::parse(&key.certificate_request().unwrap()).unwrap();
        let principal = Principal::controller(self.domain(), ControllerName::new("c0").unwrap());
        let names: [HostName; 2] = ["localhost".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        let window = window(Duration::ZERO, 3650 * DAY);
        let certificate = self
            .authority
            .issue_server(&request, &principal, &names, window, self.next_serial())
            .unwrap();
        Identity::new(key, vec![certificate], self.bundle()).unwrap()
    }
}
