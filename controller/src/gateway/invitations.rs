//! Invitations to rounds: read from the round's record in the store, signed where the device is connected.

use std::collections::BTreeSet;

use fieldfare_fleet::round::registry;
use fieldfare_fleet::{DeviceId, Generation, RoundId};
use fieldfare_proto::OptionExt;
use fieldfare_proto::v1::{
    DropRecord, InvitationReply, RefusalReason, RoundInvitation, RoundTicket, SignedTicket, invitation_reply,
};
use fieldfare_release::tuf::SigningKey;
use fieldfare_tls::Identity;
use prost::Message;
use ring::rand::SystemRandom;

use crate::jobs::opened;
use crate::mirror::RoundView;
use crate::plane::ControlPlane;
use crate::records::{Record, attempt};
use crate::refusal::Refusal;

/// One opening of an attempt: a trainer that opens the same attempt again has its devices invited again.
pub(super) type Opening = (RoundId, Generation);

/// Invitations that a device has not been sent in this session.
pub(super) fn open_for(
    plane: &ControlPlane,
    device: DeviceId,
    sent: &BTreeSet<Opening>,
) -> Result<Vec<(Opening, RoundInvitation)>, Refusal> {
    let now = plane.clock.now();
    let records = plane.mirror.read();
    let dropped = |round: &RoundId| {
        records
            .drops
            .get(round)
            .is_some_and(|drops| drops.contains_key(&device))
    };
    let open = records.rounds.iter().filter(|(id, round)| {
        registry::invites(&opened(&round.record), now) && round.cohort.contains(&device) && !dropped(id)
    });
    let openings = open.map(|(id, round)| ((id.clone(), round.record.generation()), round));
    openings
        .filter(|(opening, _)| !sent.contains(opening))
        .map(|(opening, round)| Ok((opening, invitation(plane, device, round)?)))
        .collect()
}

fn invitation(plane: &ControlPlane, device: DeviceId, round: &RoundView) -> Result<RoundInvitation, Refusal> {
    let record = &round.record;
    let ticket = RoundTicket {
        round: record.round.clone(),
        configuration_sha256: record.configuration_sha256.clone(),
        device_spiffe_id: plane.access.device_principal(device).to_string(),
        trainer_spiffe_id: record.trainer_spiffe_id.clone(),
        not_after_unix_ms: record.deadline_unix_ms,
    };
    Ok(RoundInvitation {
        ticket: Some(sign_ticket(&plane.identity.current(), &ticket)?),
        trainer_endpoint: record.trainer_endpoint.clone(),
        deadline_unix_ms: record.deadline_unix_ms,
    })
}

/// Signs a ticket with the controller's own key; its chain, which names the controller, goes with it.
pub fn sign_ticket(identity: &Identity, ticket: &RoundTicket) -> Result<SignedTicket, Refusal> {
    let random = SystemRandom::new();
    let broken = |error: fieldfare_release::tuf::KeyError| Refusal::broken("signing a ticket", error);
    let key = SigningKey::from_pem(&identity.key().to_pem(), &random).map_err(broken)?;
    let ticket = ticket.encode_to_vec();
    let signature = key.sign(&ticket, &random).map_err(broken)?;
    let signature = hex::decode(signature.sig).map_err(|error| Refusal::broken("signing a ticket", error))?;
    Ok(SignedTicket {
        ticket,
        signature,
        chain_der: identity.chain().iter().map(|der| der.to_vec()).collect(),
    })
}

/// Takes a device's answer. A refusal is written, for the trainer to see wherever it is connected.
pub(super) async fn take_reply(plane: &ControlPlane, device: DeviceId, reply: InvitationReply) -> Result<(), Refusal> {
    let round = RoundId::try_from(reply.round.required("invitation_reply.round")?)?;
    let refused = match reply.reply {
        Some(invitation_reply::Reply::Accepted(_)) => return Ok(()),
        Some(invitation_reply::Reply::Refused(refused)) => refused,
        None => return Err(Refusal::invalid("invitation_reply.reply", "is missing")),
    };
    let invited = plane
        .mirror
        .read()
        .rounds
        .get(&round)
        .is_some_and(|view| view.cohort.contains(&device));
    if !invited {
        return Err(Refusal::missing("invitation", &round));
    }
    // Its own words are not kept: they may tell of what it learns from.
    drop_from(plane, &round, device, refused.reason()).await
}

/// Records that a device will not contribute. The first reason stays.
async fn drop_from(
    plane: &ControlPlane,
    round: &RoundId,
    device: DeviceId,
    refusal: RefusalReason,
) -> Result<(), Refusal> {
    let key = plane.keys.drop(round, device);
    attempt!("the round", plane.records, change, {
        if change.read::<DropRecord>(&key).await?.is_some() {
            return Ok(());
        }
        let mut record = DropRecord::default();
        record.set_refusal(refusal);
        change.put(key.clone(), &mut record);
    });
    Ok(())
}
