//! Rounds as the controller keeps them: a cohort is opened once and closed once.

use std::collections::BTreeSet;

use fieldfare_fleet::{DeviceId, JobName, RoundId};
use fieldfare_proto::OptionExt;
use fieldfare_proto::v1::{
    AcceptedContribution, AcceptedSet, CloseRoundRequest, DropRecord, FederatedJobSpec, JobRecord, JobStage,
    OpenRoundRequest, OpenRoundResponse, PrincipalRecord, RefusalReason, RoundConfiguration, RoundRecord, job_record,
    work_checkpoint,
};
use fieldfare_release::Sha256Digest;
use prost::Message;

use super::claims::HeldClaim;
use super::cohort;
use crate::clock::timestamp;
use crate::limits::{FORGIVEN_BATCH, ROUND_CONFIGURATION_BYTES_MAX, ROUND_DEADLINE_MAX};
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
    let key = plane.keys.round(&round);
    let goes_on = |view: &RoundView| view.record.configuration_sha256 == digest && !view.record.closed;
    let reopened = plane.mirror.read().rounds.get(&round).is_some_and(goes_on);
    if reopened {
        forgive(held, plane, &round).await?;
    }
    Ok(attempt!("the round", plane.records, change, {
        let (job, mut status) = held.job(&mut change).await?;
        let endpoint = endpoint(plane, held).await?;
        let trainer_spiffe_id = plane.access.trainer_principal(&held.trainer).to_string();
        if let Some(mut open) = change.read::<RoundRecord>(&key).await? {
            if open.configuration_sha256 != digest {
                return Err(Refusal::Exists {
                    what: "round",
                    name: round.to_string(),
                });
            }
            if open.closed {
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

/// Whether the same device may answer the same invitation otherwise a moment later.
fn passes(refusal: RefusalReason) -> bool {
    match refusal {
        RefusalReason::NotIdle | RefusalReason::Busy | RefusalReason::BadTicket | RefusalReason::Failed => true,
        RefusalReason::Unspecified
        | RefusalReason::NoConsent
        | RefusalReason::TooLittleMemory
        | RefusalReason::BudgetSpent
        | RefusalReason::TooFewExamples
        | RefusalReason::BadConfiguration
        | RefusalReason::WrongBase => false,
    }
}

/// Takes back the drops whose causes pass: a device whose upload failed with its trainer holds a contribution that it paid for.
async fn forgive(held: &HeldClaim, plane: &ControlPlane, round: &RoundId) -> Result<(), Refusal> {
    let dropped: Vec<DeviceId> = {
        let records = plane.mirror.read();
        let drops = records.drops.get(round).into_iter().flatten();
        drops
            .filter(|(_, drop)| passes(drop.refusal()))
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
    let cohort: BTreeSet<&[u8]> = record.cohort.iter().map(Vec::as_slice).collect();
    let mut seen = BTreeSet::new();
    for (index, contribution) in accepted.iter().enumerate() {
        let at = |field: &str, why: &str| Refusal::invalid(format!("accepted[{index}].{field}"), why);
        let device: DeviceId = contribution
            .device_id
            .parse()
            .map_err(|_| at("device_id", "is no device id"))?;
        if !cohort.contains(device.as_bytes().as_slice()) {
            return Err(at("device_id", "is not of the round's cohort"));
        }
        if !seen.insert(device) {
            return Err(at("device_id", "is named twice: a contribution counts once"));
        }
        if contribution.sha256.len() != 32 {
            return Err(at("sha256", "expected the 32 bytes of SHA-256"));
        }
    }
    if (accepted.len() as u64) < u64::from(quorum) {
        return Err(Refusal::Unready(format!(
            "{} contributions are below the quorum of {quorum}",
            accepted.len()
        )));
    }
    let mut sorted = accepted.to_vec();
    sorted.sort_by(|a, b| a.device_id.cmp(&b.device_id));
    Ok(sorted)
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
        if !record.accepted_sha256.is_empty() {
            let same = record.accepted_sha256 == digest.as_bytes();
            let refusal = || Refusal::Exists {
                what: "accepted set of round",
                name: round.to_string(),
            };
            return if same { Ok(()) } else { Err(refusal()) };
        }
        if record.closed {
            return Err(Refusal::Stale(format!("round {round} was given up")));
        }
        (record.closed, record.accepted) = (true, count);
        record.accepted_sha256 = digest.as_bytes().to_vec();
        change.put(key.clone(), &mut record);
        status.rounds.retain(|earlier| earlier.round < summary.round);
        status.rounds.push(summary);
        let work = Some(work_checkpoint::Work::Federated(checkpoint.clone()));
        status.checkpoint = Some(fieldfare_proto::v1::WorkCheckpoint { work });
        status.set_stage(JobStage::Running);
        held.put_status(&mut change, &mut status);
    });
    Ok(())
}
