//! Tickets: what the controller signs for a device that it invites to a round.

use fieldfare_fleet::{DeviceId, Digest, RoundId, Timestamp};
use fieldfare_proto::v1::{RoundTicket, SignedTicket};
use fieldfare_proto::{ConversionError, OptionExt, ResultExt};
use fieldfare_tls::{CertificateError, Identity, LeafCertificate, Principal, Role};
use prost::Message;
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::limits::{TICKET_CERTIFICATE_BYTES_MAX, TICKET_CHAIN_MAX};

/// A genuine ticket of the device that shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The round.
    pub round: RoundId,
    /// Digest of the round's configuration.
    pub configuration: Digest,
    /// The invited device.
    pub device: DeviceId,
}

/// Why a ticket is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    /// A field is missing or of the wrong form.
    #[error("the ticket is malformed: {0}")]
    Malformed(#[from] ConversionError),
    /// The signer's certificate is none of ours.
    #[error("the certificate of the ticket's signer")]
    Certificate(#[from] CertificateError),
    /// The signer is no controller.
    #[error("the ticket is signed by {signer}, expected a controller")]
    Signer {
        /// Who signed it.
        signer: Box<Principal>,
    },
    /// The signer's certificate or the signature is not genuine.
    #[error("the ticket is not genuine: {0}")]
    NotGenuine(webpki::Error),
    /// It is for another device than the one that shows it.
    #[error("the ticket is for {named}, shown by {shown_by}")]
    OtherDevice {
        /// Whom it names.
        named: String,
        /// Who shows it.
        shown_by: Box<Principal>,
    },
    /// It leads to another trainer.
    #[error("the ticket is for trainer {named}")]
    OtherTrainer {
        /// Whom it names.
        named: String,
    },
    /// It is too old.
    #[error("the ticket ended at {not_after}, now it is {now}")]
    Over {
        /// Its end.
        not_after: Timestamp,
        /// The time.
        now: Timestamp,
    },
}

impl Ticket {
    /// Judges a ticket that `shown_by` shows to the trainer `own`.
    ///
    /// # Errors
    /// [`TicketError`]
    pub fn verify(
        signed: Option<SignedTicket>,
        own: &Identity,
        shown_by: &Principal,
        now: Timestamp,
    ) -> Result<Self, TicketError> {
        let signed = signed.required("ticket")?;
        genuine(&signed, own, now)?;
        let ticket = RoundTicket::decode(signed.ticket.as_slice()).field("ticket.ticket")?;
        let round: RoundId = ticket.round.required("ticket.round")?.try_into().map_err(within)?;
        let configuration = Digest::try_from(ticket.configuration_sha256.as_slice());
        let configuration = configuration.field("ticket.configuration_sha256")?;
        let Role::Device(_, device) = &shown_by.role else {
            return Err(TicketError::OtherDevice {
                named: ticket.device_spiffe_id,
                shown_by: Box::new(shown_by.clone()),
            });
        };
        if ticket.device_spiffe_id != shown_by.to_string() {
            return Err(TicketError::OtherDevice {
                named: ticket.device_spiffe_id,
                shown_by: Box::new(shown_by.clone()),
            });
        }
        if ticket.trainer_spiffe_id != own.principal().to_string() {
            return Err(TicketError::OtherTrainer {
                named: ticket.trainer_spiffe_id,
            });
        }
        let not_after = Timestamp::from_unix_ms(u64::try_from(ticket.not_after_unix_ms).unwrap_or(0));
        if now > not_after {
            return Err(TicketError::Over { not_after, now });
        }
        Ok(Self {
            round,
            configuration,
            device: *device,
        })
    }
}

fn within(error: ConversionError) -> ConversionError {
    error.within("ticket.round")
}

/// Whether a controller of this fleet signed these bytes.
fn genuine(signed: &SignedTicket, own: &Identity, now: Timestamp) -> Result<(), TicketError> {
    let too_much = signed.chain_der.len() > TICKET_CHAIN_MAX
        || signed
            .chain_der
            .iter()
            .any(|der| der.len() > TICKET_CERTIFICATE_BYTES_MAX);
    let (leaf, links) = match signed.chain_der.split_first() {
        Some(parts) if !too_much => parts,
        _ => {
            return Err(
                ConversionError::new("ticket.chain_der", "expected 1 to 4 certificates of at most 8 KiB").into(),
            );
        }
    };
    let signer = LeafCertificate::parse(leaf)?.principal;
    if !matches!(signer.role, Role::Controller(_)) || signer.domain != own.principal().domain {
        return Err(TicketError::Signer {
            signer: Box::new(signer),
        });
    }
    let authorities = own.bundle().authorities();
    let anchors: Vec<_> = authorities
        .iter()
        .filter_map(|authority| webpki::anchor_from_trusted_cert(authority.der()).ok())
        .collect();
    let links: Vec<_> = links
        .iter()
        .filter(|der| {
            !authorities
                .iter()
                .any(|authority| authority.der().as_ref() == der.as_slice())
        })
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    let leaf = CertificateDer::from(leaf.as_slice());
    let certificate = webpki::EndEntityCert::try_from(&leaf).map_err(TicketError::NotGenuine)?;
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_millis(now.unix_ms()));
    certificate
        .verify_for_usage(
            &[webpki::ring::ECDSA_P256_SHA256],
            &anchors,
            &links,
            at,
            webpki::KeyUsage::server_auth(),
            None,
            None,
        )
        .map_err(TicketError::NotGenuine)?;
    certificate
        .verify_signature(webpki::ring::ECDSA_P256_SHA256, &signed.ticket, &signed.signature)
        .map_err(TicketError::NotGenuine)
}
