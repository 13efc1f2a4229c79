//! The task that takes part in rounds, one at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fieldfare_fleet::{ByteSize, RoundId, Timestamp};
use fieldfare_lm::config::DecoderConfig;
use fieldfare_lm::engine::Mapping;
use fieldfare_lm::gguf::Gguf;
use fieldfare_lm::train::memory::{PhysicalBatch, training_bytes};
use fieldfare_member::ticket::{Ticket, claimed_round};
use fieldfare_privacy::ledger::payment::is_kept;
use fieldfare_proto::v1::{
    InvitationAccepted, InvitationReply, RefusalReason, RoundInvitation, RoundRef, invitation_reply,
};
use fieldfare_tls::{IdentityHandle, TimeSource};
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::child::Order;
use super::exchange::{Configured, Trainer};
use super::plan::RoundPlan;
use super::readiness::Readiness;
use super::refusal::Refusal;
use super::training::train;
use crate::clock;
use crate::config::Consent;
use crate::install::Shelf;
use crate::limits::{INVITATION_QUEUE, MIN_EXAMPLES, READINESS_INTERVAL, TRAIN_ADDRESS_SPACE_SLACK};
use crate::private::{Budgets, Contribution, Offered, PayError, PrivateStore, RoundKey, StoreError, TrainingSet};
use crate::process::{self, Binary};
use crate::serving::{Served, Serving};

/// What the owner sees of training.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RoundsView {
    /// Whether a round is under way.
    pub busy: bool,
    /// How the last invitation ended.
    pub last: Option<String>,
}

/// Takes part in rounds.
#[derive(Debug)]
pub struct Participant {
    /// Who the device is.
    pub identity: IdentityHandle,
    /// The clock of certificates.
    pub time: TimeSource,
    /// The agent's own binary.
    pub binary: Binary,
    /// Examples and ledger.
    pub private: Arc<PrivateStore>,
    /// What serves: the base of training.
    pub serving: Serving,
    /// Where its weights lie.
    pub shelf: Shelf,
    /// Whether the device could train.
    pub readiness: Readiness,
    /// Answers to the session.
    pub replies: mpsc::Sender<InvitationReply>,
    /// What the owner sees.
    pub view: watch::Sender<RoundsView>,
}

/// The present invitation again, to a trainer that listens elsewhere since it restarted: what is under way leads nowhere, and what was
/// paid for goes there. Others wait; beyond as many as may, the session refuses them.
async fn moved(
    current: &RoundInvitation,
    invitations: &mut mpsc::Receiver<RoundInvitation>,
    waiting: &mut VecDeque<RoundInvitation>,
) -> RoundInvitation {
    while waiting.len() < INVITATION_QUEUE {
        let Some(invitation) = invitations.recv().await else {
            break;
        };
        let same = claimed_round(invitation.ticket.as_ref()) == claimed_round(current.ticket.as_ref());
        if same && invitation.trainer_endpoint != current.trainer_endpoint {
            return invitation;
        }
        waiting.push_back(invitation);
    }
    std::future::pending().await
}

impl Participant {
    /// Answers invitations from the session until it is told to stop; a training process ends with it.
    pub async fn run(mut self, mut invitations: mpsc::Receiver<RoundInvitation>, stop: CancellationToken) {
        let mut look = tokio::time::interval(READINESS_INTERVAL);
        let mut waiting = VecDeque::new();
        loop {
            let invitation = match waiting.pop_front() {
                Some(invitation) => invitation,
                None => tokio::select! {
                    () = stop.cancelled() => return,
                    _ = look.tick() => {
                        self.readiness.look(false);
                        continue;
                    }
                    () = self.readiness.settings_changed() => {
                        self.readiness.look(false);
                        continue;
                    }
                    invitation = invitations.recv() => match invitation {
                        Some(invitation) => invitation,
                        None => return,
                    },
                },
            };
            let moved = tokio::select! {
                () = stop.cancelled() => return,
                () = self.answer(&invitation) => None,
                moved = moved(&invitation, &mut invitations, &mut waiting) => Some(moved),
            };
            if let Some(moved) = moved {
                waiting.push_front(moved);
            }
        }
    }

    async fn answer(&self, invitation: &RoundInvitation) {
        let Some(round) = claimed_round(invitation.ticket.as_ref()) else {
            tracing::warn!("an invitation without a readable ticket was passed over");
            return;
        };
        self.readiness.look(true);
        self.view.send_modify(|view| view.busy = true);
        let outcome = self.take_part(invitation, &round).await;
        let last = match &outcome {
            Ok(()) => format!("{round}: contributed"),
            Err(refusal) => format!("{round}: {refusal}"),
        };
        tracing::info!(outcome = last, "the round is over for this device");
        if let Err(refusal) = outcome {
            self.reply(&round, invitation_reply::Reply::Refused(refusal.told()))
                .await;
        }
        self.view.send_replace(RoundsView {
            busy: false,
            last: Some(last),
        });
        self.readiness.look(false);
    }

    async fn reply(&self, round: &RoundId, reply: invitation_reply::Reply) {
        let reply = InvitationReply {
            round: Some(RoundRef::from(round)),
            reply: Some(reply),
        };
        // Without a session nobody waits for the answer.
        let _ = self.replies.send(reply).await;
    }

    async fn take_part(&self, invitation: &RoundInvitation, round: &RoundId) -> Result<(), Refusal> {
        let signed = invitation.ticket.clone().unwrap_or_default();
        let ticket = Ticket::sent_to(&self.identity.current(), Some(&signed), clock::now());
        let ticket = ticket.map_err(|error| Refusal::new(RefusalReason::BadTicket, process::chain(&error)))?;
        let endpoint = invitation.trainer_endpoint.parse();
        let endpoint = endpoint.map_err(|error: fieldfare_tls::EndpointError| {
            Refusal::new(RefusalReason::BadTicket, process::chain(&error))
        })?;
        let left = ticket.not_after.since(clock::now());
        let (identity, time) = (self.identity.clone(), self.time.clone());
        let trainer = Trainer {
            endpoint,
            identity,
            time,
            signed,
            ticket,
        };
        let contributing = self.contribute(&trainer, round);
        let late = || {
            Refusal::new(
                RefusalReason::Failed,
                format!("the round ended after {left:?}, before this device was done"),
            )
        };
        tokio::time::timeout(left, contributing).await.map_err(|_| late())?
    }

    /// The bytes of an earlier payment, or those of training that is paid for now; and their upload.
    async fn contribute(&self, trainer: &Trainer, round: &RoundId) -> Result<(), Refusal> {
        let key = RoundKey::new(round).map_err(|error| Refusal::failed(&error))?;
        let before = self.on_store({
            let key = key.clone();
            move |store| store.contribution(&key)
        });
        let before = before.await?;
        let configuration = trainer.ticket.configuration;
        let kept = before.as_ref().map(|before| *before.configuration.as_bytes());
        let kept = is_kept(kept, *configuration.as_bytes()).map_err(PayError::from)?;
        let paid = match before.filter(|_| kept) {
            Some(before) => before,
            None => self.train_and_pay(trainer, round, &key).await?,
        };
        fieldfare_crash::point("agent.round.paid");
        trainer.contribute(paid.configuration, &paid.bytes).await?;
        fieldfare_crash::point("agent.round.uploaded");
        self.on_store(move |store| store.acknowledge(&key)).await?;
        fieldfare_crash::point("agent.round.acknowledged");
        Ok(())
    }

    async fn train_and_pay(&self, trainer: &Trainer, round: &RoundId, key: &RoundKey) -> Result<Contribution, Refusal> {
        self.check_owner()?;
        let configured = trainer.configure().await?;
        let plan = &configured.plan;
        let served = self.base(plan)?;
        let budgets = Budgets {
            device: self.readiness.settings().budget,
            job: plan.job_budget,
        };
        let mechanism = plan.training.dp.mechanism();
        let quoted = {
            let (private, key) = (Arc::clone(&self.private), key.clone());
            tokio::task::spawn_blocking(move || private.quote(&key, mechanism, budgets, clock::now().unix_ms()))
        };
        quoted.await.map_err(|error| Refusal::failed(&error))??;
        let (order, removals) = self.order(&configured, &served).await?;
        self.reply(round, invitation_reply::Reply::Accepted(InvitationAccepted {}))
            .await;
        let bytes = train(&self.binary, &order)
            .await
            .map_err(|error| Refusal::failed(&error))?;
        fieldfare_crash::point("agent.round.trained");
        // A round that was cancelled or given up meanwhile would take the payment and give nothing for it.
        trainer.confirm().await?;
        // The owner may have changed their mind, too.
        self.check_consent()?;
        let (private, key, configuration) = (Arc::clone(&self.private), key.clone(), trainer.ticket.configuration);
        let now: Timestamp = clock::now();
        let paying = move || {
            let offered = Offered {
                configuration,
                removals,
                bytes: &bytes,
            };
            private.pay(&key, mechanism, budgets, now.unix_ms(), offered)
        };
        Ok(tokio::task::spawn_blocking(paying)
            .await
            .map_err(|error| Refusal::failed(&error))??)
    }

    fn check_consent(&self) -> Result<(), Refusal> {
        match self.readiness.settings().consent {
            Consent::Given => Ok(()),
            Consent::Withheld => Err(Refusal::new(
                RefusalReason::NoConsent,
                "the owner has not consented to training",
            )),
        }
    }

    fn check_owner(&self) -> Result<(), Refusal> {
        self.check_consent()?;
        if self.readiness.is_idle() {
            return Ok(());
        }
        Err(Refusal::new(
            RefusalReason::NotIdle,
            "the owner's idle policy does not allow training now",
        ))
    }

    /// The release that the round trains on top of must be the one that serves: its bytes are verified, and it is what improves.
    fn base(&self, plan: &RoundPlan) -> Result<Arc<Served>, Refusal> {
        let served = self.serving.borrow().clone();
        let served =
            served.ok_or_else(|| Refusal::new(RefusalReason::WrongBase, "no release serves on this device"))?;
        if served.installed.manifest == plan.base_manifest {
            return Ok(served);
        }
        let detail = format!(
            "this device serves {}, and the round trains on another release",
            served.installed.release
        );
        Err(Refusal::new(RefusalReason::WrongBase, detail))
    }

    /// What the training process is told, and how often examples had been taken back before it was.
    async fn order(&self, configured: &Configured, served: &Served) -> Result<(Order, u64), Refusal> {
        let TrainingSet { examples, removals } = self.on_store(PrivateStore::training_set).await?;
        if examples.len() < MIN_EXAMPLES {
            let detail = format!("fewer than {MIN_EXAMPLES} examples are on this device");
            return Err(Refusal::new(RefusalReason::TooFewExamples, detail));
        }
        let weights = self.shelf.artifact(&served.weights);
        let mut training = configured.plan.training.clone();
        let config = {
            let path = weights.clone();
            tokio::task::spawn_blocking(move || decoder_config(&path))
                .await
                .map_err(|error| Refusal::failed(&error))?
        };
        let config = config.map_err(|detail| Refusal::new(RefusalReason::Failed, detail))?;
        training
            .fits(&config)
            .map_err(|detail| Refusal::new(RefusalReason::BadConfiguration, detail))?;
        let (available, spec) = (self.readiness.memory(), training.lora());
        let sequence = training.max_sequence_tokens.min(config.context);
        let batch = PhysicalBatch::fitting(available.get(), &config, &spec, sequence).ok_or_else(|| {
            let needed = ByteSize::new(training_bytes(&config, &spec, PhysicalBatch::new(1), sequence));
            Refusal::new(
                RefusalReason::TooLittleMemory,
                format!("training needs {needed}, and {available} are available"),
            )
        })?;
        training.physical_batch = training.physical_batch.min(batch.get());
        let needed = training_bytes(&config, &spec, PhysicalBatch::new(training.physical_batch), sequence);
        let state = STANDARD.encode(&configured.state);
        let order = Order {
            weights,
            training,
            state,
            examples,
            address_space: needed.saturating_add(TRAIN_ADDRESS_SPACE_SLACK),
        };
        Ok((order, removals))
    }

    /// Runs a call of the store, which blocks.
    async fn on_store<T: Send + 'static>(
        &self,
        call: impl FnOnce(&PrivateStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let private = Arc::clone(&self.private);
        let done = tokio::task::spawn_blocking(move || call(&private)).await;
        done.map_err(|error| Refusal::failed(&error))?
            .map_err(|error| Refusal::failed(&error))
    }
}

/// The shape of a model, from its header.
fn decoder_config(path: &std::path::Path) -> Result<DecoderConfig, String> {
    let mapping = Mapping::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let gguf = Gguf::parse(mapping.as_bytes()).map_err(|error| process::chain(&error))?;
    DecoderConfig::from_gguf(&gguf).map_err(|error| process::chain(&error))
}
