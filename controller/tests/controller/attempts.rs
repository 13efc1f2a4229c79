//! Attempts that go on after a restart: of their trainer, or of the controller.

use std::time::Duration;

use fieldfare_controller_peers::device::{Obedient, Session, hello, message};
use fieldfare_controller_peers::release::{Signer, release};
use fieldfare_controller_peers::trainer::{self, Trainer, claimed, connected, finish};
use fieldfare_controller_peers::{Fleet, PATIENCE, refusal};
use fieldfare_proto::v1::{
    AcceptedContribution, CancelJobRequest, CheckpointRequest, Claim, CloseRoundRequest, DeviceDropped,
    FederatedCheckpoint, GetJobRequest, Heartbeat, JobFailed, OpenRoundRequest, RefusalReason, RoundConfiguration,
    RoundEvent, RoundInvitation, RoundRef, RoundSummary, StartJobRequest, TokenRole, TurnedAway, WatchRoundRequest,
    WorkCheckpoint, device_message, finish_request, round_event, work_checkpoint,
};
use fieldfare_tls::Identity;
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Code, Streaming};

use crate::jobs::federated;
use crate::rollouts::{apply, outcome, spec};

/// A federated job over two devices, and the trainer that holds it.
struct Night {
    fleet: Fleet,
    devices: Vec<(Identity, mpsc::Receiver<RoundInvitation>)>,
    kiln: Identity,
    claim: Claim,
    open: OpenRoundRequest,
}

impl Night {
    async fn begin(refusals: [Option<RefusalReason>; 2]) -> (Self, Trainer) {
        let fleet = Fleet::start().await;
        let mut signer = Signer::new(&fleet);
        signer.install_root(&fleet).await;
        signer.publish(&fleet, &release(1)).await.unwrap();
        signer.delegate(&fleet).await;
        let mut devices = Vec::new();
        for (name, refusal) in ["north", "south"].into_iter().zip(refusals) {
            let identity = fleet.join(TokenRole::Device, name).await;
            let device = Obedient::default().run_refusing(&fleet, &identity, hello(name), refusal);
            let invited = device.await;
            devices.push((identity, invited));
        }
        apply(&fleet, spec(1)).await.unwrap();
        outcome(&fleet).await;
        let spec = Some(federated(&fleet).await);
        fleet
            .operator()
            .await
            .start_job(StartJobRequest { spec })
            .await
            .unwrap();
        let kiln = fleet.join(TokenRole::Trainer, "kiln").await;
        let mut trainer = connected(&fleet, &kiln).await;
        trainer.watch(trainer::hello()).await.unwrap();
        let claim = claimed(&mut trainer).await.unwrap();
        let now = i64::try_from(fleet.time.now().unix_ms()).unwrap();
        let configuration = RoundConfiguration {
            round: Some(round()),
            deadline_unix_ms: now + 3_600_000,
            ..RoundConfiguration::default()
        };
        let open = OpenRoundRequest {
            fence: claim.fence.clone(),
            configuration: configuration.encode_to_vec(),
            training_memory_bytes: 1 << 20,
        };
        let night = Self {
            fleet,
            devices,
            kiln,
            claim,
            open,
        };
        assert_eq!(night.opened(&mut trainer).await, 2);
        (night, trainer)
    }

    async fn opened(&self, trainer: &mut Trainer) -> usize {
        let answer = trainer.open_round(self.open.clone()).await.unwrap().into_inner();
        answer.cohort_device_ids.len()
    }

    async fn watch(&self, trainer: &mut Trainer) -> Streaming<RoundEvent> {
        let watch = WatchRoundRequest {
            fence: self.claim.fence.clone(),
            round: Some(round()),
        };
        trainer.watch_round(watch).await.unwrap().into_inner()
    }

    async fn invited(&mut self, device: usize) {
        let invitation = tokio::time::timeout(PATIENCE, self.devices[device].1.recv()).await;
        assert!(invitation.expect("it is invited").is_some());
    }
}

fn round() -> RoundRef {
    RoundRef {
        job: "night".into(),
        round: 1,
        attempt: 1,
    }
}

async fn event(events: &mut Streaming<RoundEvent>) -> round_event::Event {
    let event = tokio::time::timeout(PATIENCE, events.message()).await;
    event.expect("it is told").unwrap().unwrap().event.unwrap()
}

async fn dropped(events: &mut Streaming<RoundEvent>) -> DeviceDropped {
    match event(events).await {
        round_event::Event::Dropped(dropped) => dropped,
        other => panic!("no drop: {other:?}"),
    }
}

#[tokio::test]
async fn an_attempt_opened_again_invites_again_whoever_may_answer_otherwise() {
    let refusals = [Some(RefusalReason::Failed), Some(RefusalReason::BudgetSpent)];
    let (mut night, mut trainer) = Night::begin(refusals).await;
    let expected = [
        (RefusalReason::BudgetSpent, "budget spent".to_owned()),
        (RefusalReason::Failed, "training or upload failed".to_owned()),
    ];
    night.invited(0).await;
    night.invited(1).await;
    for again in [false, true] {
        if again {
            // The trainer restarted: the device that could not upload may do so now, the one without a budget has none.
            assert_eq!(night.opened(&mut trainer).await, 2);
            night.invited(0).await;
        }
        let mut events = night.watch(&mut trainer).await;
        let mut told = Vec::new();
        for _ in 0..2 {
            let dropped = dropped(&mut events).await;
            told.push((dropped.refusal(), dropped.reason));
        }
        told.sort();
        assert_eq!(told, expected);
    }
    assert!(night.devices[1].1.try_recv().is_err(), "no budget is final");

    let failed = finish_request::Outcome::Failed(JobFailed {
        reason: "no quorum".into(),
    });
    trainer.finish(finish(&night.claim, failed)).await.unwrap();
    let asked = GetJobRequest { name: "night".into() };
    let job = night.fleet.operator().await.get_job(asked).await.unwrap().into_inner();
    assert!(job.reason.contains("1 declined: budget spent"), "{}", job.reason);
    assert!(!job.reason.contains("learns from"), "{}", job.reason);
    night.fleet.stop().await;
}

#[tokio::test]
async fn a_checkpoint_that_comes_late_undoes_no_committed_round() {
    let (night, mut trainer) = Night::begin([None, None]).await;
    let cohort = trainer
        .open_round(night.open.clone())
        .await
        .unwrap()
        .into_inner()
        .cohort_device_ids;
    let liar = TurnedAway {
        reason: "entries out of range".into(),
        devices: 1,
        device_ids: cohort[..1].to_vec(),
    };
    let close = CloseRoundRequest {
        fence: night.claim.fence.clone(),
        round: Some(round()),
        accepted: cohort
            .into_iter()
            .map(|device_id| AcceptedContribution {
                device_id,
                sha256: vec![1; 32],
            })
            .collect(),
        summary: Some(RoundSummary {
            round: 1,
            attempt: 1,
            turned_away: vec![liar.clone()],
            ..RoundSummary::default()
        }),
        checkpoint: Some(reached(1, 0)),
    };
    let mut loud = close.clone();
    loud.summary.as_mut().unwrap().turned_away = vec![liar.clone(); 17];
    let (code, text) = refusal(trainer.close_round(loud).await);
    assert!(
        code == Code::InvalidArgument && text.contains("turned_away"),
        "{code:?} {text}"
    );
    trainer.close_round(close).await.unwrap();
    // What the trainer said before the commit, again.
    let early = CheckpointRequest {
        fence: night.claim.fence.clone(),
        checkpoint: Some(WorkCheckpoint {
            work: Some(work_checkpoint::Work::Federated(reached(0, 1))),
        }),
    };
    trainer.checkpoint(early).await.unwrap();
    // Another attempt at the round that counts already.
    let again = RoundRef { attempt: 2, ..round() };
    let configuration = RoundConfiguration {
        round: Some(again),
        ..RoundConfiguration::decode(night.open.configuration.as_slice()).unwrap()
    };
    let open = OpenRoundRequest {
        configuration: configuration.encode_to_vec(),
        ..night.open.clone()
    };
    let (code, text) = refusal(trainer.open_round(open).await);
    assert!(code == Code::Aborted && text.contains("has gone on"), "{code:?} {text}");
    let claim = claimed(&mut trainer).await.unwrap();
    let kept = claim.checkpoint.unwrap().work.unwrap();
    assert_eq!(kept, work_checkpoint::Work::Federated(reached(1, 0)));
    let asked = GetJobRequest { name: "night".into() };
    let job = night.fleet.operator().await.get_job(asked).await.unwrap().into_inner();
    assert_eq!(job.rounds.len(), 1);
    assert_eq!(job.rounds[0].turned_away, [liar], "an operator sees who lied, and how");
    night.fleet.stop().await;
}

fn reached(committed_round: u32, attempt: u32) -> FederatedCheckpoint {
    FederatedCheckpoint {
        committed_round,
        attempt,
        ..FederatedCheckpoint::default()
    }
}

#[tokio::test]
async fn after_a_restart_of_the_controller_every_device_has_time_to_come_back() {
    let (night, trainer) = Night::begin([None, None]).await;
    drop(trainer);
    let Night {
        fleet,
        devices,
        kiln,
        claim,
        open,
    } = night;
    // Nobody is heard from for longer than the grace, because nobody listened.
    fleet.pass(Duration::from_secs(20));
    let fleet = fleet.restart().await;
    let night = Night {
        fleet,
        devices,
        kiln,
        claim,
        open,
    };
    let mut trainer = connected(&night.fleet, &night.kiln).await;
    assert_eq!(night.opened(&mut trainer).await, 2);
    let mut events = night.watch(&mut trainer).await;
    let identity = &night.devices[0].0;
    let north = Session::open(&night.fleet, identity, hello("north")).await.unwrap();
    // The other one does not come back.
    let waited = async {
        loop {
            north
                .out
                .send(message(device_message::Message::Heartbeat(Heartbeat::default())))
                .await
                .unwrap();
            night.fleet.pass(Duration::from_secs(16));
            let told = tokio::time::timeout(Duration::from_secs(3), dropped(&mut events)).await;
            if let Ok(dropped) = told {
                break dropped;
            }
        }
    };
    let lost = tokio::time::timeout(PATIENCE, waited).await.unwrap();
    assert_eq!(lost.reason, "session lost");
    let cancel = CancelJobRequest { name: "night".into() };
    night.fleet.operator().await.cancel_job(cancel).await.unwrap();
    // Nothing was said of the device that came back.
    assert!(matches!(event(&mut events).await, round_event::Event::Cancelled(_)));
    drop(north);
    night.fleet.stop().await;
}
