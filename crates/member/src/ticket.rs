//! Tickets: what a controller signs for a device that it invites to a round, as the device and the trainer judge it.

use fieldfare_fleet::{DeviceId, Digest, RoundId, Timestamp};
use fieldfare_proto::v1::{RoundTicket, SignedTicket};
use fieldfare_proto::{ConversionError, OptionExt, ResultExt};
use fieldfare_tls::{ExpectedServer, Identity, PeerRefused, Principal, Role, ServerTrust};
use prost::Message;

/// A genuine ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The round.
    pub round: RoundId,
    /// Digest of the round's configuration.
    pub configuration: Digest,
    /// The invited device.
    pub device: DeviceId,
    /// The trainer that it leads to.
    pub trainer: Principal,
    /// Its last moment.
    pub not_after: Timestamp,
}

/// Why a ticket is not followed, or not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    /// A field is missing or of the wrong form.
    #[error("the ticket is malformed")]
    Malformed(#[from] ConversionError),
    /// No controller of this fleet signed it.
    #[error("the ticket is not genuine")]
    NotGenuine(#[from] PeerRefused),
    /// It is for another device than the one that was sent it, or shows it.
    #[error("the ticket is for {named}, not for {here}")]
    OtherDevice {
        /// Whom it names.
        named: Box<Principal>,
        /// Who was sent it, or shows it.
        here: Box<Principal>,
    },
    /// It leads to somebody who is no trainer of this device's tenant.
    #[error("the ticket leads to {named}, expected a trainer of this device's tenant")]
    NoTrainer {
        /// Whom it names.
        named: Box<Principal>,
    },
    /// It leads to another trainer.
    #[error("the ticket is for trainer {named}")]
    OtherTrainer {
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
pub fn claimed_round(signed: Option<&SignedTicket>) -> Option<RoundId> {
    let ticket = RoundTicket::decode(signed?.ticket.as_slice()).ok()?;
    ticket.round?.try_into().ok()
}

impl Ticket {
    /// Judges a ticket that the device `own` was sent.
    ///
    /// # Errors
    /// [`TicketError`] says what is wrong with it.
    pub fn sent_to(own: &Identity, signed: Option<&SignedTicket>, now: Timestamp) -> Result<Self, TicketError> {
        let ticket = Self::genuine(own, own.principal(), signed, now)?;
        let trainer = &ticket.trainer;
        let ours = trainer.domain == own.principal().domain && trainer.tenant() == own.principal().tenant();
        if !ours || !matches!(trainer.role, Role::Trainer(..)) {
            return Err(TicketError::NoTrainer {
                named: Box::new(trainer.clone()),
            });
        }
        Ok(ticket)
    }

    /// Judges a ticket that the device `shown_by` shows to the trainer `own`.
    ///
    /// # Errors
    /// [`TicketError`] says what is wrong with it.
    pub fn shown_to(
        own: &Identity,
        shown_by: &Principal,
        signed: Option<&SignedTicket>,
        now: Timestamp,
    ) -> Result<Self, TicketError> {
        let ticket = Self::genuine(own, shown_by, signed, now)?;
        if ticket.trainer != *own.principal() {
            return Err(TicketError::OtherTrainer {
                named: Box::new(ticket.trainer),
            });
        }
        Ok(ticket)
    }

    /// What a controller of the fleet of `own` signed for this device and for the time that it is now.
    fn genuine(
        own: &Identity,
        device: &Principal,
        signed: Option<&SignedTicket>,
        now: Timestamp,
    ) -> Result<Self, TicketError> {
        let signed = signed.required("ticket")?;
        ServerTrust::by(own, ExpectedServer::Controller).judge_signed(
            &signed.chain_der,
            &signed.ticket,
            &signed.signature,
            now,
        )?;
        let ticket = RoundTicket::decode(signed.ticket.as_slice()).field("ticket.ticket")?;
        let round: RoundId = ticket
            .round
            .required("ticket.round")?
            .try_into()
            .map_err(|error: ConversionError| error.within("ticket.round"))?;
        let configuration = Digest::try_from(ticket.configuration_sha256.as_slice());
        let named: Principal = ticket.device_spiffe_id.parse().field("ticket.device_spiffe_id")?;
        let id = match &device.role {
            Role::Device(_, id) if named == *device => *id,
            _ => {
                return Err(TicketError::OtherDevice {
                    named: Box::new(named),
                    here: Box::new(device.clone()),
                });
            }
        };
        let not_after = Timestamp::from_unix_ms(u64::try_from(ticket.not_after_unix_ms).unwrap_or(0));
        if now > not_after {
            return Err(TicketError::Over { not_after, now });
        }
        Ok(Self {
            round,
            configuration: configuration.field("ticket.configuration_sha256")?,
            device: id,
            trainer: ticket.trainer_spiffe_id.parse().field("ticket.trainer_spiffe_id")?,
            not_after,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fieldfare_fleet::{TenantName, TrainerName};
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
        let verified = Ticket::sent_to(&device, Some(&signed), NOW).unwrap();
        assert_eq!(
            (verified.trainer, verified.configuration),
            (trainer, Digest::from_bytes([5; 32]))
        );
        assert_eq!(claimed_round(Some(&signed)), Some(verified.round));
    }

    #[test]
    fn a_trainer_takes_only_its_own_tickets_from_those_whom_they_name() {
        let fleet = Fleet::new();
        let (device, own) = (fleet.device(1), fleet.identity(&fleet.trainer()));
        let signed = sign(&fleet.controller(), &ticket(&device, own.principal()));
        let judge = |shown_by: &Identity, signed| Ticket::shown_to(&own, shown_by.principal(), Some(signed), NOW);
        assert_eq!(judge(&device, &signed).unwrap().device, DeviceId::from_bytes([1; 16]));
        assert!(matches!(
            judge(&fleet.device(2), &signed),
            Err(TicketError::OtherDevice { .. })
        ));
        // A trainer that shows a ticket with its own name in it is no device.
        let to_itself = sign(&fleet.controller(), &ticket(&own, own.principal()));
        assert!(matches!(judge(&own, &to_itself), Err(TicketError::OtherDevice { .. })));
        let name = TrainerName::new("t1").unwrap();
        let elsewhere = Principal::trainer(fleet.domain.clone(), tenant(), name);
        let elsewhere = sign(&fleet.controller(), &ticket(&device, &elsewhere));
        assert!(matches!(
            judge(&device, &elsewhere),
            Err(TicketError::OtherTrainer { .. })
        ));
    }

    #[test]
    fn forged_stolen_and_stale_tickets_are_refused() {
        let (fleet, foreign) = (Fleet::new(), Fleet::new());
        let (device, trainer) = (fleet.device(1), fleet.trainer());
        let good = ticket(&device, &trainer);
        let refused = |signed: &SignedTicket| Ticket::sent_to(&device, Some(signed), NOW).unwrap_err();

        // Signed by a device of the fleet, by a trainer, and by the controller of another authority with the same names.
        let by_device = sign(&fleet.device(2), &good);
        assert!(matches!(
            refused(&by_device),
            TicketError::NotGenuine(PeerRefused::Path { .. })
        ));
        let by_trainer = sign(&fleet.identity(&trainer), &good);
        assert!(matches!(
            refused(&by_trainer),
            TicketError::NotGenuine(PeerRefused::WrongRole { .. })
        ));
        assert!(matches!(
            refused(&sign(&foreign.controller(), &good)),
            TicketError::NotGenuine(PeerRefused::UnknownAuthority { .. })
        ));

        // The controller's chain under somebody else's signature, and bytes changed after signing.
        let controller = fleet.controller();
        let mut borrowed = by_device;
        borrowed.chain_der = controller.chain().iter().map(|der| der.to_vec()).collect();
        assert!(matches!(
            refused(&borrowed),
            TicketError::NotGenuine(PeerRefused::BadSignature { .. })
        ));
        let mut changed = sign(&controller, &good);
        changed.ticket = ticket(&device, &trainer)
            .encode_to_vec()
            .into_iter()
            .map(|b| if b == 5 { 6 } else { b })
            .collect();
        assert!(matches!(
            refused(&changed),
            TicketError::NotGenuine(PeerRefused::BadSignature { .. })
        ));

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
            TicketError::NotGenuine(PeerRefused::Form(_))
        ));
        assert!(matches!(
            Ticket::sent_to(&device, None, NOW),
            Err(TicketError::Malformed(_))
        ));
    }
}
