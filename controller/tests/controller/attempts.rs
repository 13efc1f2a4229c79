//! Attempts that go on after a restart: of their trainer, or of the controller.

use std::time::Duration;

use fieldfare_controller_peers::device::{Obedient, Session, hello, message};
use fieldfare_controller_peers::release::{Signer, release};
use fieldfare_controller_peers::trainer::{self, Trainer, claimed, connected, finish};
use fieldfare_controller_peers::{Fleet, PATIENCE};
use fieldfare_proto::v1::{
    CancelJobRequest, Claim, DeviceDropped, GetJobRequest, Heartbeat, JobFailed, OpenRoundRequest, RefusalReason,
    RoundConfiguration, RoundEvent, RoundInvitation, RoundRef, StartJobRequest, TokenRole, WatchRoundRequest,
    device_message, finish_request, round_event,
};
use fieldfare_tls::Identity;
use prost::Message;
use tokio::sync::mpsc;
use tonic::Streaming;

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
