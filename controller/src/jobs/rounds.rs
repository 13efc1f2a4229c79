//! Rounds as the controller keeps them: a cohort is opened once and closed once.

use std::collections::BTreeSet;

use fieldfare_fleet::round::Decline;
use fieldfare_fleet::round::registry::{self, AcceptedError, Closing, Opened, Opening, Reached, Unchanged};
use fieldfare_fleet::{DeviceId, Digest, JobName, RoundId};
use fieldfare_proto::OptionExt;
use fieldfare_proto::v1::{
    AcceptedContribution, AcceptedSet, CloseRoundRequest, DropRecord, FederatedCheckpoint, FederatedJobSpec, JobRecord,
    JobStage, JobStatusRecord, OpenRoundRequest, OpenRoundResponse, PrincipalRecord, RoundConfiguration, RoundRecord,
    RoundSummary, job_record, work_checkpoint,
};
use fieldfare_release::Sha256Digest;
use prost::Message;

use super::claims::HeldClaim;
use super::cohort;
use crate::clock::timestamp;
use crate::limits::{
    FORGIVEN_BATCH, FREE_TEXT_BYTES_MAX, ROUND_CONFIGURATION_BYTES_MAX, ROUND_DEADLINE_MAX, TURNED_AWAY_REASONS_MAX,
    TURNED_AWAY_ROUNDS_MAX,
};
use crate::mirror::RoundView;
use crate::plane::ControlPlane;
use crate::records::{Change, attempt};
use crate::refusal::Refusal;
use crate::repository::manifests::release_id;

fn federated(record: &JobRecord) -> Result<&FederatedJobSpec, Refusal> {
    match &record.work {
        Some(job_record::Work::Federated(spec)) => Ok(spec),
        _ => Err(Refusal::Unready(
            "the job is no federated job: it has no rounds".to_owned(),
        )),
    }
}

/// Checks what the controller itself depends on in a configuration; the rest is between trainer and devices.
fn configuration(
    plane: &ControlPlane,
    held: &HeldClaim,
    bytes: &[u8],
) -> Result<(RoundId, RoundConfiguration), Refusal> {
    if bytes.len() > ROUND_CONFIGURATION_BYTES_MAX {
        let expected = format!(
            "has {} bytes, at most {ROUND_CONFIGURATION_BYTES_MAX} are accepted",
            bytes.len()
        );
        return Err(Refusal::invalid("configuration", expected));
    }
    let configuration = RoundConfiguration::decode(bytes).map_err(|error| Refusal::invalid("configuration", error))?;
    let round = RoundId::try_from(configuration.round.clone().required("configuration.round")?)?;
    if round.job != held.job {
        return Err(Refusal::invalid(
            "configuration.round.job",
            format!("is {}, the claim is on {}", round.job, held.job),
        ));
    }
    let now = plane.clock.now();
    let deadline = timestamp(configuration.deadline_unix_ms);
    if deadline <= now || deadline > now.saturating_add(ROUND_DEADLINE_MAX) {
        let expected = format!(
            "is {deadline}; expected within {} s from now, {now}",
            ROUND_DEADLINE_MAX.as_secs()
        );
        return Err(Refusal::invalid("configuration.deadline_unix_ms", expected));
    }
    Ok((round, configuration))
}

/// A digest of a record: one that is not whole equals no other.
fn digest_of(bytes: &[u8]) -> Digest {
    Digest::try_from(bytes).unwrap_or(Digest::from_bytes([0; 32]))
}

/// What a record says of what may become of its attempt.
pub(crate) fn opened(record: &RoundRecord) -> Opened {
    Opened {
        configuration: digest_of(&record.configuration_sha256),
        closed: record.closed,
        accepted: (!record.accepted_sha256.is_empty()).then(|| digest_of(&record.accepted_sha256)),
        deadline: timestamp(record.deadline_unix_ms),
    }
}

/// How far a checkpoint says that its job is.
pub(super) fn reached(checkpoint: &FederatedCheckpoint) -> Reached {
    Reached {
        committed: checkpoint.committed_round,
        attempt: checkpoint.attempt,
    }
}

/// How far a job is.
pub(super) fn reached_by(status: &JobStatusRecord) -> Reached {
    match status
        .checkpoint
        .as_ref()
        .and_then(|checkpoint| checkpoint.work.as_ref())
    {
        Some(work_checkpoint::Work::Federated(checkpoint)) => reached(checkpoint),
        _ => Reached::default(),
    }
}

fn answer(record: &RoundRecord) -> OpenRoundResponse {
    let ids = record
        .cohort
        .iter()
        .filter_map(|id| DeviceId::try_from(id.as_slice()).ok());
    OpenRoundResponse {
        cohort_device_ids: ids.map(|id| id.to_string()).collect(),
        ineligible: record.ineligible.clone(),
    }
}

/// Picks a cohort and writes the round; from then on the sessions of its devices invite them. With fewer devices than the
/// quorum nothing is written, and the answer says why. A trainer that goes on with the same attempt after a restart opens it
/// again: the cohort stays, and is invited again.
pub(super) async fn open(
    held: &HeldClaim,
    plane: &ControlPlane,
    request: OpenRoundRequest,
) -> Result<OpenRoundResponse, Refusal> {
    let (round, configured) = configuration(plane, held, &request.configuration)?;
    let digest = Sha256Digest::of(&request.configuration).as_bytes().to_vec();
    let told = digest_of(&digest);
    let key = plane.keys.round(&round);
    let goes_on = |view: &RoundView| {
        let known = opened(&view.record);
        registry::open(Some(&known), &round, told, Reached::default()) == Ok(Opening::Again)
    };
    let reopened = plane.mirror.read().rounds.get(&round).is_some_and(goes_on);
    if reopened {
        forgive(held, plane, &round).await?;
    }
    Ok(attempt!("the round", plane.records, change, {
        let (job, mut status) = held.job(&mut change).await?;
        let endpoint = endpoint(plane, held).await?;
        let trainer_spiffe_id = plane.access.trainer_principal(&held.trainer).to_string();
        let known = change.read::<RoundRecord>(&key).await?;
        let opening = registry::open(known.as_ref().map(opened).as_ref(), &round, told, reached_by(&status));
        let opening = opening.map_err(|unchanged| match unchanged {
            Unchanged::Overtaken { .. } => Refusal::Stale(format!("{round}: {unchanged}")),
            _ => Refusal::Exists {
                what: "round",
                name: round.to_string(),
            },
        })?;
        if let Some(mut open) = known {
            if opening == Opening::Over {
                return Ok(answer(&open));
            }
            (open.trainer_spiffe_id, open.trainer_endpoint) = (trainer_spiffe_id, endpoint);
            let answer = answer(&open);
            // Its new generation tells sessions that it was opened again.
            change.put(key.clone(), &mut open);
            answer
        } else {
            let spec = federated(&job)?;
            let release = release_id(&job.base_manifest_target)?;
            let picked = {
                let records = plane.mirror.read();
                let (deployment, needs) = cohort::needs(&records, spec, release, request.training_memory_bytes)?;
                cohort::pick(plane, &records, &deployment, &needs, &round, (spec.cohort, spec.seed))
            };
            fieldfare_crash::point("controller.round.picked");
            status.ineligible.clone_from(&picked.ineligible);
            held.put_status(&mut change, &mut status);
            if (picked.invited.len() as u64) < u64::from(spec.quorum) {
                OpenRoundResponse {
                    cohort_device_ids: Vec::new(),
                    ineligible: picked.ineligible,
                }
            } else {
                give_up(plane, &mut change, &round.job, Some(&round)).await?;
                let mut record = RoundRecord {
                    round: Some((&round).into()),
                    configuration_sha256: digest.clone(),
                    cohort: picked.invited.iter().map(|device| device.as_bytes().to_vec()).collect(),
                    ineligible: picked.ineligible,
                    trainer_spiffe_id,
                    trainer_endpoint: endpoint,
                    deadline_unix_ms: configured.deadline_unix_ms,
                    opened_unix_ms: plane.unix_ms(),
                    ..RoundRecord::default()
                };
                change.put(key.clone(), &mut record);
                answer(&record)
            }
        }
    }))
}

/// Where devices reach the trainer that holds a claim.
async fn endpoint(plane: &ControlPlane, held: &HeldClaim) -> Result<String, Refusal> {
    let trainer: Option<PrincipalRecord> = plane.records.get(&plane.keys.trainer(&held.trainer)).await?;
    let endpoint = trainer
        .map(|record| record.rounds_endpoint)
        .filter(|endpoint| !endpoint.is_empty());
    endpoint.ok_or_else(|| Refusal::Unready("the trainer has not told its rounds endpoint: call Watch".to_owned()))
}

/// Takes back the drops whose causes pass: a device whose upload failed with its trainer holds a contribution that it paid for.
async fn forgive(held: &HeldClaim, plane: &ControlPlane, round: &RoundId) -> Result<(), Refusal> {
    let dropped: Vec<DeviceId> = {
        let records = plane.mirror.read();
        let drops = records.drops.get(round).into_iter().flatten();
        drops
            .filter(|(_, drop)| Decline::from(drop.refusal()).passes())
            .map(|(device, _)| *device)
            .collect()
    };
    for batch in dropped.chunks(FORGIVEN_BATCH) {
        attempt!("the round", plane.records, change, {
            held.job(&mut change).await?;
            for device in batch {
                let key = plane.keys.drop(round, *device);
                if change.read::<DropRecord>(&key).await?.is_some() {
                    change.delete(key);
                }
            }
        });
    }
    Ok(())
}

/// Nobody is invited any more to the rounds of a job that were not committed, but for the one that is kept.
async fn give_up(
    plane: &ControlPlane,
    change: &mut Change<'_>,
    job: &JobName,
    keep: Option<&RoundId>,
) -> Result<(), Refusal> {
    let open: Vec<RoundId> = {
        let records = plane.mirror.read();
        let of_job = records
            .rounds
            .iter()
            .filter(|(id, round)| id.job == *job && Some(*id) != keep && !round.record.closed);
        of_job.map(|(id, _)| id.clone()).collect()
    };
    for round in open {
        let key = plane.keys.round(&round);
        if let Some(mut record) = change.read::<RoundRecord>(&key).await?.filter(|record| !record.closed) {
            record.closed = true;
            change.put(key, &mut record);
        }
    }
    Ok(())
}

/// Nobody is invited any more to any round of a job that has ended.
pub(super) async fn give_up_all(plane: &ControlPlane, change: &mut Change<'_>, job: &JobName) -> Result<(), Refusal> {
    give_up(plane, change, job, None).await
}

/// Checks an accepted set: devices of the cohort, each once, at least the quorum.
fn check_accepted(
    record: &RoundRecord,
    quorum: u32,
    accepted: &[AcceptedContribution],
) -> Result<Vec<AcceptedContribution>, Refusal> {
    let at = |index: usize, field: &str, why: &str| Refusal::invalid(format!("accepted[{index}].{field}"), why);
    let cohort: BTreeSet<&[u8]> = record.cohort.iter().map(Vec::as_slice).collect();
    let mut named = Vec::with_capacity(accepted.len());
    for (index, contribution) in accepted.iter().enumerate() {
        let device = contribution.device_id.parse::<DeviceId>();
        let device = device.map_err(|_| at(index, "device_id", "is no device id"))?;
        let digest = Digest::try_from(contribution.sha256.as_slice());
        let digest = digest.map_err(|_| at(index, "sha256", "expected the 32 bytes of SHA-256"))?;
        named.push((device, digest));
    }
    let is_invited = |device: DeviceId| cohort.contains(device.as_bytes().as_slice());
    let set = registry::check_accepted(is_invited, quorum, named).map_err(|error| match error {
        AcceptedError::NotInvited { index } | AcceptedError::Twice { index } => {
            at(index, "device_id", &error.to_string())
        }
        AcceptedError::TooFew { .. } => Refusal::Unready(error.to_string()),
    })?;
    let accepted = set.into_iter().map(|(device, digest)| AcceptedContribution {
        device_id: device.to_string(),
        sha256: digest.as_bytes().to_vec(),
    });
    Ok(accepted.collect())
}

/// What a trainer says of liars is shown, and bounded: there may be as many as they like.
fn check_turned_away(summary: &RoundSummary) -> Result<(), Refusal> {
    let of_all = summary.turned_away.len() <= TURNED_AWAY_REASONS_MAX;
    let of_each = summary.turned_away.iter().all(|turned_away| {
        let ids = turned_away.device_ids.iter().all(|id| id.parse::<DeviceId>().is_ok());
        ids && turned_away.device_ids.len() <= TURNED_AWAY_REASONS_MAX
            && turned_away.reason.len() <= FREE_TEXT_BYTES_MAX
    });
    if of_all && of_each {
        return Ok(());
    }
    let expected = format!(
        "expected at most {TURNED_AWAY_REASONS_MAX} reasons of {FREE_TEXT_BYTES_MAX} bytes, each with at most as many device ids"
    );
    Err(Refusal::invalid("summary.turned_away", expected))
}

/// Commits the accepted set and the job's checkpoint after the round, in one compare-and-swap. Repeating it with the same set
/// changes nothing; another set is refused.
pub(super) async fn close(held: &HeldClaim, plane: &ControlPlane, request: CloseRoundRequest) -> Result<(), Refusal> {
    let round = RoundId::try_from(request.round.required("round")?)?;
    if round.job != held.job {
        return Err(Refusal::invalid(
            "round.job",
            format!("is {}, the claim is on {}", round.job, held.job),
        ));
    }
    let summary = request.summary.required("summary")?;
    check_turned_away(&summary)?;
    let checkpoint = request.checkpoint.required("checkpoint")?;
    let key = plane.keys.round(&round);
    attempt!("the round", plane.records, change, {
        let (job, mut status) = held.job(&mut change).await?;
        let record: Option<RoundRecord> = change.read(&key).await?;
        let mut record = record.ok_or_else(|| Refusal::missing("round", &round))?;
        let accepted = check_accepted(&record, federated(&job)?.quorum, &request.accepted)?;
        let count = u32::try_from(accepted.len()).unwrap_or(u32::MAX);
        let set = AcceptedSet {
            round: Some((&round).into()),
            accepted,
        };
        let digest = plane.releases.blobs().put(set.encode_to_vec()).await?;
        fieldfare_crash::point("controller.round.accepted-set-written");
        let (told, committed) = (digest_of(digest.as_bytes()), reached_by(&status).committed);
        let closing = registry::close(&opened(&record), round.round, told, committed);
        let closing = closing.map_err(|unchanged| match unchanged {
            Unchanged::GivenUp => Refusal::Stale(format!("round {round} was given up")),
            Unchanged::NotNext { .. } | Unchanged::Overtaken { .. } => Refusal::Stale(format!("{round}: {unchanged}")),
            Unchanged::OtherAcceptedSet | Unchanged::OtherConfiguration => Refusal::Exists {
                what: "accepted set of round",
                name: round.to_string(),
            },
        })?;
        if closing == Closing::Known {
            return Ok(());
        }
        (record.closed, record.accepted) = (true, count);
        record.accepted_sha256 = digest.as_bytes().to_vec();
        change.put(key.clone(), &mut record);
        status.rounds.retain(|earlier| earlier.round < summary.round);
        status.rounds.push(summary.clone());
        let older = status.rounds.len().saturating_sub(TURNED_AWAY_ROUNDS_MAX);
        status
            .rounds
            .iter_mut()
            .take(older)
            .for_each(|earlier| earlier.turned_away.clear());
        let work = Some(work_checkpoint::Work::Federated(checkpoint.clone()));
        status.checkpoint = Some(fieldfare_proto::v1::WorkCheckpoint { work });
        status.set_stage(JobStage::Running);
        held.put_status(&mut change, &mut status);
    });
    Ok(())
}
