//! Tickets: what a controller signs for a device that it invites.

use std::time::Duration;

use fieldfare_fleet::{Digest, RoundId, Timestamp};
use fieldfare_proto::v1::{RoundTicket, SignedTicket};
use fieldfare_proto::{ConversionError, OptionExt, ResultExt};
use fieldfare_tls::limits::{MAX_CERTIFICATE_BYTES, MAX_CHAIN_CERTIFICATES};
use fieldfare_tls::{CertificateError, Identity, LeafCertificate, Principal, PrincipalError, Role};
use prost::Message;
use rustls::pki_types::{CertificateDer, UnixTime};

/// A genuine ticket for this device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The round.
    pub round: RoundId,
    /// Digest of the round's configuration.
    pub configuration: Digest,
    /// The trainer that it leads to.
    pub trainer: Principal,
    /// Its last moment.
    pub not_after: Timestamp,
}

/// Why a ticket is not followed.
#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    /// A field is missing or of the wrong form.
    #[error("the ticket is malformed")]
    Malformed(#[from] ConversionError),
    /// The chain has no certificate, too many, or one that is too long.
    #[error(
        "the ticket has {found} certificates, expected 1 to {MAX_CHAIN_CERTIFICATES} of at most {MAX_CERTIFICATE_BYTES} bytes"
    )]
    Chain {
        /// How many.
        found: usize,
    },
    /// The signer's certificate is none of ours.
    #[error("the certificate of the ticket's signer")]
    Certificate(#[from] CertificateError),
    /// The signer is no controller of this fleet.
    #[error("the ticket is signed by {signer}, expected a controller of {domain}")]
    Signer {
        /// Who signed it.
        signer: Box<Principal>,
        /// This fleet.
        domain: String,
    },
    /// The signer's certificate or the signature is not genuine.
    #[error("the ticket is not genuine: {0}")]
    NotGenuine(webpki::Error),
    /// It is for another device.
    #[error("the ticket is for {named}")]
    OtherDevice {
        /// Whom it names.
        named: String,
    },
    /// The principal that it leads to has no name of ours.
    #[error("the trainer that the ticket names")]
    Principal(#[from] PrincipalError),
    /// It leads to somebody who is no trainer of this device's tenant.
    #[error("the ticket leads to {named}, expected a trainer of this device's tenant")]
    NoTrainer {
        /// Whom it names.
        named: Box<Principal>,
    },
    /// It is too old.
    #[error("the ticket ended at {not_after}, and now it is {now}")]
    Over {
        /// Its end.
        not_after: Timestamp,
        /// The time.
        now: Timestamp,
    },
}

/// The round that a ticket names, genuine or not: so that a refusal can name it too.
pub(super) fn claimed_round(signed: Option<&SignedTicket>) -> Option<RoundId> {
    let ticket = RoundTicket::decode(signed?.ticket.as_slice()).ok()?;
    ticket.round?.try_into().ok()
}

impl Ticket {
    /// Judges a ticket that this device was sent.
    ///
    /// # Errors
    /// [`TicketError`] says what is wrong with it.
    pub fn verify(signed: Option<&SignedTicket>, own: &Identity, now: Timestamp) -> Result<Self, TicketError> {
        let signed = signed.required("ticket")?;
        genuine(signed, own, now)?;
        let ticket = RoundTicket::decode(signed.ticket.as_slice()).field("ticket.ticket")?;
        let round = ticket.round.required("ticket.round")?;
        let round: RoundId = round
            .try_into()
            .map_err(|error: ConversionError| error.within("ticket.round"))?;
        let configuration = Digest::try_from(ticket.configuration_sha256.as_slice());
        let configuration = configuration.field("ticket.configuration_sha256")?;
        if ticket.device_spiffe_id != own.principal().to_string() {
            return Err(TicketError::OtherDevice {
                named: ticket.device_spiffe_id,
            });
        }
        let trainer: Principal = ticket.trainer_spiffe_id.parse()?;
        let ours = trainer.domain == own.principal().domain && trainer.tenant() == own.principal().tenant();
        if !ours || !matches!(trainer.role, Role::Trainer(..)) {
            return Err(TicketError::NoTrainer {
                named: Box::new(trainer),
            });
        }
        let not_after = Timestamp::from_unix_ms(u64::try_from(ticket.not_after_unix_ms).unwrap_or(0));
        if now > not_after {
            return Err(TicketError::Over { not_after, now });
        }
        Ok(Self {
            round,
            configuration,
            trainer,
            not_after,
        })
    }
}

/// Whether a controller of this fleet signed these bytes.
fn genuine(signed: &SignedTicket, own: &Identity, now: Timestamp) -> Result<(), TicketError> {
    let found = signed.chain_der.len();
    let too_long =
        found > MAX_CHAIN_CERTIFICATES || signed.chain_der.iter().any(|der| der.len() > MAX_CERTIFICATE_BYTES);
    let (leaf, links) = signed
        .chain_der
        .split_first()
        .filter(|_| !too_long)
        .ok_or(TicketError::Chain { found })?;
    let signer = LeafCertificate::parse(leaf)?.principal;
    if !matches!(signer.role, Role::Controller(_)) || signer.domain != own.principal().domain {
        return Err(TicketError::Signer {
            signer: Box::new(signer),
            domain: own.principal().domain.to_string(),
        });
    }
    let authorities = own.bundle().authorities();
    let anchors: Vec<_> = authorities
        .iter()
        .filter_map(|authority| webpki::anchor_from_trusted_cert(authority.der()).ok())
        .collect();
    let is_anchor = |der: &[u8]| authorities.iter().any(|authority| authority.der().as_ref() == der);
    let links: Vec<_> = links
        .iter()
        .filter(|der| !is_anchor(der))
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    let leaf = CertificateDer::from(leaf.as_slice());
    let certificate = webpki::EndEntityCert::try_from(&leaf).map_err(TicketError::NotGenuine)?;
    let at = UnixTime::since_unix_epoch(Duration::from_millis(now.unix_ms()));
    let algorithm = webpki::ring::ECDSA_P256_SHA256;
    certificate
        .verify_for_usage(
            &[algorithm],
            &anchors,
            &links,
            at,
            webpki::KeyUsage::server_auth(),
            None,
            None,
        )
        .map_err(TicketError::NotGenuine)?;
    certificate
        .verify_signature(algorithm, &signed.ticket, &signed.signature)
        .map_err(TicketError::NotGenuine)
}

#[cfg(test)]
mod tests {
    use fieldfare_fleet::{DeviceId, TenantName, TrainerName};
    use fieldfare_proto::v1::RoundRef;
    use fieldfare_release::tuf::SigningKey;
    use fieldfare_tls::{
        CertificateAuthority, CertificateRequest, ControllerName, PrivateKey, SerialNumber, TrustBundle, TrustDomain,
        ValidityWindow,
    };
    use ring::rand::SystemRandom;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);

    struct Fleet {
        authority: CertificateAuthority,
        domain: TrustDomain,
    }

    fn tenant() -> TenantName {
        TenantName::new("north").unwrap()
    }

    impl Fleet {
        fn new() -> Self {
            let domain = TrustDomain::new("farm.example").unwrap();
            let serial = SerialNumber::from_random([7; 16]);
            Self {
                authority: CertificateAuthority::create(&domain, window(), serial).unwrap(),
                domain,
            }
        }

        fn identity(&self, principal: &Principal) -> Identity {
            let key = PrivateKey::generate().unwrap();
            let request = CertificateRequest::parse(&key.certificate_request().unwrap()).unwrap();
            let serial = SerialNumber::from_random([9; 16]);
            let leaf = self.authority.issue(&request, principal, window(), serial).unwrap();
            let bundle = TrustBundle::new(vec![self.authority.certificate().clone()]).unwrap();
            Identity::new(key, vec![leaf], bundle).unwrap()
        }

        fn device(&self, number: u8) -> Identity {
            self.identity(&Principal::device(
                self.domain.clone(),
                tenant(),
                DeviceId::from_bytes([number; 16]),
            ))
        }

        fn controller(&self) -> Identity {
            self.identity(&Principal::controller(
                self.domain.clone(),
                ControllerName::new("c0").unwrap(),
            ))
        }

        fn trainer(&self) -> Principal {
            Principal::trainer(self.domain.clone(), tenant(), TrainerName::new("t0").unwrap())
        }
    }

    fn window() -> ValidityWindow {
        let hour = Duration::from_secs(3600);
        ValidityWindow::new(
            Timestamp::from_unix_ms(NOW.unix_ms() - 3_600_000),
            NOW.saturating_add(hour),
        )
        .unwrap()
    }

    fn ticket(device: &Identity, trainer: &Principal) -> RoundTicket {
        RoundTicket {
            round: Some(RoundRef {
                job: "gain".into(),
                round: 1,
                attempt: 1,
            }),
            configuration_sha256: vec![5; 32],
            device_spiffe_id: device.principal().to_string(),
            trainer_spiffe_id: trainer.to_string(),
            not_after_unix_ms: 1_800_000_060_000,
        }
    }

    fn sign(signer: &Identity, ticket: &RoundTicket) -> SignedTicket {
        let random = SystemRandom::new();
        let key = SigningKey::from_pem(&signer.key().to_pem(), &random).unwrap();
        let bytes = ticket.encode_to_vec();
        let signature = hex::decode(key.sign(&bytes, &random).unwrap().sig).unwrap();
        SignedTicket {
            ticket: bytes,
            signature,
            chain_der: signer.chain().iter().map(|der| der.to_vec()).collect(),
        }
    }

    #[test]
    fn a_controllers_ticket_is_followed() {
        let fleet = Fleet::new();
        let (device, trainer) = (fleet.device(1), fleet.trainer());
        let signed = sign(&fleet.controller(), &ticket(&device, &trainer));
        let verified = Ticket::verify(Some(&signed), &device, NOW).unwrap();
        assert_eq!(
            (verified.trainer, verified.configuration),
            (trainer, Digest::from_bytes([5; 32]))
        );
        assert_eq!(claimed_round(Some(&signed)), Some(verified.round));
    }

    #[test]
    fn forged_stolen_and_stale_tickets_are_refused() {
        let (fleet, foreign) = (Fleet::new(), Fleet::new());
        let (device, trainer) = (fleet.device(1), fleet.trainer());
        let good = ticket(&device, &trainer);
        let refused = |signed: &SignedTicket| Ticket::verify(Some(signed), &device, NOW).unwrap_err();

        // Signed by a device of the fleet, by a trainer, and by the controller of another authority with the same names.
        let by_device = sign(&fleet.device(2), &good);
        assert!(matches!(refused(&by_device), TicketError::Signer { .. }));
        let by_trainer = sign(&fleet.identity(&trainer), &good);
        assert!(matches!(refused(&by_trainer), TicketError::Signer { .. }));
        assert!(matches!(
            refused(&sign(&foreign.controller(), &good)),
            TicketError::NotGenuine(_)
        ));

        // The controller's chain under somebody else's signature, and bytes changed after signing.
        let controller = fleet.controller();
        let mut borrowed = by_device;
        borrowed.chain_der = controller.chain().iter().map(|der| der.to_vec()).collect();
        assert!(matches!(refused(&borrowed), TicketError::NotGenuine(_)));
        let mut changed = sign(&controller, &good);
        changed.ticket = ticket(&device, &trainer)
            .encode_to_vec()
            .into_iter()
            .map(|b| if b == 5 { 6 } else { b })
            .collect();
        assert!(matches!(refused(&changed), TicketError::NotGenuine(_)));

        let other = sign(&controller, &ticket(&fleet.device(3), &trainer));
        assert!(matches!(refused(&other), TicketError::OtherDevice { .. }));
        let to_a_device = sign(&controller, &ticket(&device, fleet.device(4).principal()));
        assert!(matches!(refused(&to_a_device), TicketError::NoTrainer { .. }));
        let other_tenant = TenantName::new("south").unwrap();
        let stranger = Principal::trainer(fleet.domain.clone(), other_tenant, TrainerName::new("t0").unwrap());
        assert!(matches!(
            refused(&sign(&controller, &ticket(&device, &stranger))),
            TicketError::NoTrainer { .. }
        ));
        let stale = sign(
            &controller,
            &RoundTicket {
                not_after_unix_ms: 1_799_999_999_999,
                ..good.clone()
            },
        );
        assert!(matches!(refused(&stale), TicketError::Over { .. }));
        let no_round = sign(
            &controller,
            &RoundTicket {
                round: None,
                ..good.clone()
            },
        );
        assert!(matches!(refused(&no_round), TicketError::Malformed(_)));
        let short = sign(
            &controller,
            &RoundTicket {
                configuration_sha256: vec![1; 31],
                ..good
            },
        );
        assert!(matches!(refused(&short), TicketError::Malformed(_)));
        assert!(matches!(
            refused(&SignedTicket::default()),
            TicketError::Chain { found: 0 }
        ));
        assert!(matches!(
            Ticket::verify(None, &device, NOW),
            Err(TicketError::Malformed(_))
        ));
    }
}
