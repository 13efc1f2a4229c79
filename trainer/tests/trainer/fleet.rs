//! An authority and identities, as a controller gives them out.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use fieldfare_fleet::{DeviceId, Digest, RoundId, TenantName, Timestamp, TrainerName};
use fieldfare_proto::v1::{RoundTicket, SignedTicket};
use fieldfare_release::Sha256Digest;
use fieldfare_tls::{
    CertificateAuthority, CertificateRequest, ControllerName, HostName, Identity, Principal, PrivateKey, SerialNumber,
    TrustBundle, TrustDomain, ValidityWindow,
};
use prost::Message;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn now() -> Timestamp {
    fieldfare_trainer::clock::system().now()
}

/// One authority, and certificates that are valid today.
pub(crate) struct Fleet {
    authority: CertificateAuthority,
    serial: AtomicU8,
    window: ValidityWindow,
}

pub(crate) fn device_id(number: u8) -> DeviceId {
    DeviceId::from_bytes([number; 16])
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let begun = Timestamp::from_unix_ms(now().unix_ms() - 3_600_000);
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
            fieldfare_tls::Role::Controller(_) => {
                self.authority
                    .issue_server(&request, principal, &names, self.window, serial)
            }
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

    pub(crate) fn trainer(&self, name: &str) -> Identity {
        self.identity(&Principal::trainer(
            self.domain(),
            Self::tenant(),
            TrainerName::new(name).unwrap(),
        ))
    }

    pub(crate) fn device(&self, number: u8) -> Identity {
        self.identity(&Principal::device(self.domain(), Self::tenant(), device_id(number)))
    }
}

/// A ticket before it is signed: each field can be made a lie.
#[derive(Clone)]
pub(crate) struct TicketDraft {
    pub(crate) round: RoundId,
    pub(crate) configuration: Digest,
    pub(crate) device: Principal,
    pub(crate) trainer: Principal,
    pub(crate) not_after: Timestamp,
}

impl TicketDraft {
    /// Signs with the key of an identity, which may be no controller's.
    pub(crate) fn sign(&self, signer: &Identity) -> SignedTicket {
        let ticket = RoundTicket {
            round: Some((&self.round).into()),
            configuration_sha256: self.configuration.as_bytes().to_vec(),
            device_spiffe_id: self.device.to_string(),
            trainer_spiffe_id: self.trainer.to_string(),
            not_after_unix_ms: self.not_after.unix_ms() as i64,
        }
        .encode_to_vec();
        let rng = SystemRandom::new();
        let pem = signer.key().to_pem();
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &decode_base64(&body), &rng).unwrap();
        SignedTicket {
            signature: key.sign(&rng, &ticket).unwrap().as_ref().to_vec(),
            ticket,
            chain_der: signer.chain().iter().map(|der| der.to_vec()).collect(),
        }
    }
}

fn decode_base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').map(value).collect();
    let group = |four: &[u8]| {
        let bits = four
            .iter()
            .enumerate()
            .fold(0_u32, |bits, (at, digit)| bits | u32::from(*digit) << (18 - 6 * at));
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_bytes(*Sha256Digest::of(bytes).as_bytes())
}
