//! Devices at the door of a trainer.

use std::rc::Rc;

use fieldfare_fleet::round::{Answer, Event, OpenAttempt, Refused};
use fieldfare_fleet::{ByteSize, DeviceId, Digest};

use super::{Attempted, Trainer};
use crate::ground::Ground;
use crate::round::{Answered, Knock, Ticket, digest_of};

/// What a device tells a round, and where the answer goes.
#[derive(Debug)]
pub(super) struct Offer {
    device: u32,
    id: DeviceId,
    number: u64,
    /// Nothing for a device that fetched the configuration.
    contribution: Option<(Digest, ByteSize)>,
}

impl Attempted {
    fn door(&self) -> OpenAttempt {
        OpenAttempt {
            round: self.configuration.round.clone(),
            configuration: self.digest,
            contribution: ByteSize::new(self.configuration.codec.byte_length() as u64),
        }
    }
}

impl Trainer {
    /// A device knocks. Only the device that a ticket names is answered, and only about the round that the ticket names.
    pub(crate) fn knock(&mut self, ground: &mut Ground, id: DeviceId, number: u64, ticket: &Rc<Ticket>, what: &Knock) {
        let device = crate::setting::number_of(id);
        match self.receive(ground, id, ticket, what) {
            Ok(contribution) => {
                let offer = Offer {
                    device,
                    id,
                    number,
                    contribution,
                };
                if let Some(job) = self.job() {
                    job.offers.push_back(offer);
                }
                self.drive(ground);
            }
            Err(outage) => ground.reply(device, number, Answered::TurnedAway { outage }),
        }
    }

    /// Takes a knock in as far as the round need not be asked; whether it is an outage where it is turned away.
    fn receive(
        &mut self,
        ground: &mut Ground,
        id: DeviceId,
        ticket: &Ticket,
        what: &Knock,
    ) -> Result<Option<(Digest, ByteSize)>, bool> {
        let (own, now) = (self.number, ground.now);
        let process = self.process.as_ref().ok_or(true)?;
        if ticket.trainer != own || ticket.device != crate::setting::number_of(id) || ticket.not_after <= now {
            return Err(false);
        }
        let attempted = process
            .job
            .as_ref()
            .and_then(|job| job.attempted.as_ref())
            .ok_or(true)?;
        let door = attempted.door();
        door.admit(&ticket.round, ticket.configuration).map_err(|_| false)?;
        let Knock::Contribute { configuration, bytes } = what else {
            return Ok(None);
        };
        door.announced(*configuration, bytes.len() as u64).map_err(|_| false)?;
        let codec = attempted.configuration.codec;
        let told = digest_of(bytes);
        let kept = self.disk.contributions.entry(door.round.clone()).or_default();
        match kept.get(&id) {
            Some(known) if digest_of(known) != told => return Err(false),
            Some(_) => {}
            None => {
                codec.validate(bytes).map_err(|_| false)?;
                kept.insert(id, Rc::clone(bytes));
                if self.dies(ground) {
                    return Err(true);
                }
            }
        }
        Ok(Some((told, ByteSize::new(bytes.len() as u64))))
    }

    /// Asks the round, and answers.
    pub(super) fn answer(&mut self, ground: &mut Ground, offer: Offer) {
        let Some(attempted) = self.job().and_then(|job| job.attempted.as_ref()) else {
            let answered = Answered::TurnedAway { outage: true };
            return ground.reply(offer.device, offer.number, answered);
        };
        let (configured, configuration) = (Rc::clone(&attempted.configuration), attempted.digest);
        let (round, device) = (configured.round.clone(), offer.id);
        let taken_in = round.clone();
        let event = match offer.contribution {
            None => Event::Joined { round, device },
            Some((contribution, bytes)) => Event::Contributed {
                round,
                device,
                configuration,
                contribution,
                bytes,
            },
        };
        let decided = self.decide(ground, event);
        let answered = match (decided, offer.contribution) {
            (Some(Ok(Answer::Taken | Answer::Known)), None) => Answered::Configured(configured),
            (Some(Ok(Answer::Taken | Answer::Known)), Some((digest, _))) => {
                ground.checks.takes(&taken_in, device, digest);
                Answered::Taken(digest)
            }
            (Some(Err(Refused::Early { .. })) | None, _) => Answered::TurnedAway { outage: true },
            (Some(Err(_)), _) => Answered::TurnedAway { outage: false },
        };
        ground.reply(offer.device, offer.number, answered);
    }
}
