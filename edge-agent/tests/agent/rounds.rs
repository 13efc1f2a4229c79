//! One device's part of a round with the real training process: paid for once, and always the same bytes.

use std::sync::Arc;

use fieldfare_agent::clock;
use fieldfare_agent::config::Settings;
use fieldfare_agent::install::Shelf;
use fieldfare_agent::private::PrivateStore;
use fieldfare_agent::process::Binary;
use fieldfare_agent::rounds::{Participant, Readiness, RoundsView};
use fieldfare_agent::serving::Serving;
use fieldfare_fleet::ByteSize;
use fieldfare_lm::config::DecoderConfig;
use fieldfare_lm::example::Example;
use fieldfare_lm::gguf::Gguf;
use fieldfare_lm::quantize::Precision;
use fieldfare_lm::train::LoraSpec;
use fieldfare_proto::v1::{InvitationReply, RoundInvitation, RoundRef, invitation_reply};
use fieldfare_tls::IdentityHandle;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::binary;
use crate::device::{Device, PATIENCE, impatient};
use crate::fleet::Fleet;
use crate::releases::{Releases, release, weights};
use crate::trainer::{Fate, Trainer};

pub(crate) fn round(attempt: u32) -> RoundRef {
    RoundRef {
        job: "gain".into(),
        round: 1,
        attempt,
    }
}

/// Entries of the state that a round on these weights trains.
pub(crate) fn entries(weights: &[u8]) -> u64 {
    let config = DecoderConfig::from_gguf(&Gguf::parse(weights).unwrap()).unwrap();
    let spec = LoraSpec {
        rank: 4,
        alpha: 8.0,
        seed: 3,
    };
    spec.trained_parameters(&config) as u64
}

/// The part of a running agent that trains, on the private store of its folder.
pub(crate) struct Training {
    pub(crate) store: Arc<PrivateStore>,
    pub(crate) settings: watch::Sender<Settings>,
    invitations: mpsc::Sender<RoundInvitation>,
    replies: mpsc::Receiver<InvitationReply>,
    view: watch::Receiver<RoundsView>,
    /// How the attempt before the last invitation ended.
    before: Option<String>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl Training {
    pub(crate) fn start(device: &Device, serving: &Serving) -> Self {
        Self::on(device, serving, binary(), ByteSize::from_mib(4096))
    }

    /// With this binary as the training process, on a machine with so much memory.
    pub(crate) fn on(device: &Device, serving: &Serving, binary: Binary, memory: ByteSize) -> Self {
        let store = Arc::new(PrivateStore::open(&device.folder.private_store()).unwrap());
        let settings = watch::Sender::new(device.settings.clone());
        let (invitations, invited) = mpsc::channel(4);
        let (told, replies) = mpsc::channel(64);
        let view = watch::Sender::new(RoundsView::default());
        let shown = view.subscribe();
        let participant = Participant {
            identity: IdentityHandle::new(device.identity.clone()),
            time: clock::time_source(),
            binary,
            private: Arc::clone(&store),
            serving: serving.clone(),
            shelf: Shelf::new(device.folder.clone()),
            readiness: Readiness::new(settings.subscribe(), memory),
            replies: told,
            view,
        };
        let stop = CancellationToken::new();
        Self {
            store,
            settings,
            invitations,
            replies,
            view: shown,
            before: None,
            running: tokio::spawn(participant.run(invited, stop.clone())),
            stop,
        }
    }

    pub(crate) async fn invite(&mut self, invitation: &RoundInvitation) {
        self.before = self.view.borrow().last.clone();
        self.invitations.send(invitation.clone()).await.unwrap();
    }

    /// What leaves next for the controller.
    pub(crate) async fn reply(&mut self) -> invitation_reply::Reply {
        let next = timeout(PATIENCE, self.replies.recv()).await;
        next.expect("a reply").unwrap().reply.unwrap()
    }

    /// How the attempt that is under way ended.
    pub(crate) async fn ended(&mut self) -> String {
        let before = self.before.clone();
        let over = |view: &RoundsView| !view.busy && view.last != before;
        let view = timeout(PATIENCE, self.view.wait_for(over))
            .await
            .expect("the round ends");
        view.unwrap().last.clone().unwrap()
    }

    /// Waits until no round is under way.
    pub(crate) async fn idle(&mut self) {
        let idle = timeout(PATIENCE, self.view.wait_for(|view| !view.busy)).await;
        idle.expect("the round ends").unwrap();
    }

    /// Rounds that the examples have paid.
    pub(crate) fn charges(&self, device: &Device) -> usize {
        self.store.spending(device.settings.budget.delta()).unwrap().charges
    }

    /// The agent ends; its private store is closed.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.running).await.unwrap().unwrap();
        assert_eq!(Arc::strong_count(&self.store), 1, "somebody still has the store open");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_is_paid_once_and_sent_again_with_the_same_bytes_also_after_a_restart() {
    let fleet = Fleet::new();
    let mut releases = Releases::start(&fleet).await;
    let base = release(1, weights(Precision::F16));
    releases.publish(&base);
    let device = Device::new(&fleet, &releases);
    let installed = device.start(impatient());
    installed.assign(&releases, &base, 1);
    installed.serving(&base).await;
    let mut trainer = Trainer::start(&fleet).await;
    let entries = entries(&base.weights);
    let first = trainer.invite(&device, &base, round(1), entries);

    let mut training = Training::start(&device, &installed.view.serving);
    let example = |number| Example::Completion {
        prompt: format!("zone {number}"),
        completion: " is dry".into(),
    };
    let examples: Vec<Example> = (0..40).map(example).collect();
    training.store.add(&examples).unwrap().unwrap();

    // The first answer is lost on the way, the second never comes, and then the agent is restarted.
    trainer.fates(&[Fate::Lost, Fate::Silence]);
    training.invite(&first).await;
    let bytes = trainer.contribution().await;
    assert_eq!(training.charges(&device), 1, "paid before the first byte left");
    assert_eq!(trainer.contribution().await, bytes);
    training.stop().await;

    // Training draws new noise each time: equal bytes are those of then.
    let mut training = Training::start(&device, &installed.view.serving);
    training.invite(&first).await;
    assert_eq!(trainer.contribution().await, bytes);
    let outcome = training.ended().await;
    assert!(outcome.contains("contributed"), "{outcome}");
    assert_eq!(training.charges(&device), 1);

    // The trainer is silent, and restarts on another port: the controller invites again, and the same bytes go there.
    trainer.fates(&[Fate::Silence]);
    training.invite(&first).await;
    assert_eq!(trainer.contribution().await, bytes);
    let elsewhere = RoundInvitation {
        trainer_endpoint: trainer.restarted().await,
        ..first.clone()
    };
    training.invite(&elsewhere).await;
    assert_eq!(trainer.contribution().await, bytes);
    training.idle().await;
    assert_eq!(training.charges(&device), 1);

    // Another attempt is another contribution, and is paid for; another configuration of the same attempt is refused.
    let second = trainer.invite(&device, &base, round(2), entries);
    training.invite(&second).await;
    assert_ne!(trainer.contribution().await, bytes);
    let outcome = training.ended().await;
    assert!(outcome.contains("contributed"), "{outcome}");
    assert_eq!(training.charges(&device), 2);
    training.stop().await;

    let mut training = Training::start(&device, &installed.view.serving);
    let changed = release(1, weights(Precision::Q8_0));
    training
        .invite(&trainer.invite(&device, &changed, round(1), entries))
        .await;
    let outcome = training.ended().await;
    assert!(outcome.contains("another configuration"), "{outcome}");
    assert_eq!(training.charges(&device), 2);
    training.stop().await;
    installed.stop().await;
}
