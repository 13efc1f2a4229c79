//! The shell around the decider of rounds: it tells what happened, and does what is decided.

mod ending;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use fieldfare_fleet::round::{Action, Answer, Event, JobFailure, JobState, Refused, Tally, VariantEvaluation};
use fieldfare_fleet::{ByteSize, DeviceId, Digest, NatsPerToken, RoundId, VariantName};
use fieldfare_proto::v1::{FederatedCheckpoint, JobStage, RoundEvent, round_event};

use super::Job;
use super::round::{Attempted, kept_configuration};
use crate::evaluation::{EvaluationError, Measured};
use crate::failure::{WorkError, chain};
use crate::limits::SELECT_INTERVAL;
use crate::rounds::{AggregateError, Offer, sum};

/// A long computation of the round.
enum Computed {
    /// The mean over the accepted set.
    Mean(Result<Vec<f32>, AggregateError>),
    /// How the candidate does.
    Measured(Result<Measured, EvaluationError>),
}

type Computing = Pin<Box<dyn Future<Output = Result<Computed, WorkError>> + Send>>;

/// What happened next.
enum Happened {
    Computed(Result<Computed, WorkError>),
    Offered(Offer),
    Told(RoundEvent),
    Time,
}

struct Drive<'a> {
    job: &'a Job<'a>,
    machine: JobState,
    state: Vec<f32>,
    checkpoint: FederatedCheckpoint,
    attempted: Option<Attempted>,
    computing: Option<Computing>,
    actions: VecDeque<Action>,
    /// Loss of the most precise variant with the present state.
    last_loss: f64,
    /// What devices brought to earlier attempts at the round under way and was turned away.
    turned_away: Tally,
}

/// Carries out the rounds that the checkpoint leaves; the last checkpoint and the state after it.
pub(super) async fn rounds(
    job: &Job<'_>,
    checkpoint: FederatedCheckpoint,
    state: Vec<f32>,
) -> Result<(FederatedCheckpoint, Vec<f32>), WorkError> {
    let mut drive = Drive::resume(job, checkpoint, state)?;
    drive.tell(Event::Tick);
    loop {
        while let Some(action) = drive.actions.pop_front() {
            if drive.act(action).await? {
                return Ok((drive.checkpoint, drive.state));
            }
        }
        drive.step().await?;
    }
}

fn nats(loss: f64) -> NatsPerToken {
    NatsPerToken::clamped(if loss.is_finite() { loss } else { f64::MAX })
}

impl<'a> Drive<'a> {
    /// Goes on after the last committed round, and with the attempt that was under way if its configuration is here and its time
    /// is not over; otherwise another attempt takes its place.
    fn resume(job: &'a Job<'a>, checkpoint: FederatedCheckpoint, state: Vec<f32>) -> Result<Self, WorkError> {
        let now = job.workshop.time.now();
        let spec = job.plan.rounds()?;
        let (committed, attempt) = (checkpoint.committed_round, checkpoint.attempt);
        let mut goes_on = Ok(false);
        let kept = |round: &RoundId| {
            goes_on = kept_configuration(job, round).map(|kept| kept.is_some());
            matches!(goes_on, Ok(true))
        };
        let machine = JobState::resume(spec, committed, attempt, kept, now);
        let machine = machine.map_err(WorkError::impossible("the job"))?;
        goes_on?;
        let last_loss = match (checkpoint.rounds.last(), checkpoint.before.first()) {
            (Some(round), _) => round.loss_nats_per_token,
            (None, Some(before)) => before.loss_before,
            (None, None) => f64::NAN,
        };
        let (attempted, computing, actions) = (None, None, VecDeque::new());
        Ok(Self {
            job,
            machine,
            state,
            checkpoint,
            attempted,
            computing,
            actions,
            last_loss,
            turned_away: Tally::default(),
        })
    }

    /// Tells the decider, and keeps what it wants done.
    fn tell(&mut self, event: Event) {
        if let Err(refused) = self.decide(event) {
            tracing::debug!(%refused, "the round takes no notice");
        }
    }

    fn decide(&mut self, event: Event) -> Result<Answer, Refused> {
        let mut actions = Vec::new();
        let answer = self.machine.handle(self.job.workshop.time.now(), event, &mut actions);
        self.actions.extend(actions);
        answer
    }

    /// Waits for the next thing to happen, and tells it.
    async fn step(&mut self) -> Result<(), WorkError> {
        let now = self.job.workshop.time.now();
        let wait = self.machine.next_deadline().map(|deadline| deadline.since(now));
        let (offers, events) = match &mut self.attempted {
            Some(attempted) => (Some(&mut attempted.offers), Some(&mut attempted.events)),
            None => (None, None),
        };
        let happened = tokio::select! {
            Some(computed) = next(self.computing.as_mut(), |computing| async move { Some(computing.await) }) => Happened::Computed(computed),
            Some(offer) = next(offers, |offers| offers.recv()) => Happened::Offered(offer),
            Some(event) = next(events, |events| events.recv()) => Happened::Told(event),
            () = tokio::time::sleep(wait.unwrap_or(SELECT_INTERVAL)) => Happened::Time,
        };
        match happened {
            Happened::Time => self.tell(Event::Tick),
            Happened::Offered(offer) => self.offered(offer),
            Happened::Told(event) => self.told(event)?,
            Happened::Computed(computed) => {
                self.computing = None;
                self.computed(computed?)?;
            }
        }
        Ok(())
    }

    fn offered(&mut self, offer: Offer) {
        let Some(attempted) = &self.attempted else { return };
        let (round, configuration) = (attempted.id.clone(), attempted.configuration_sha256);
        match offer {
            Offer::Joined { device, answer } => {
                // A device that hung up asks again, and gets the same answer.
                let _ = answer.send(self.decide(Event::Joined { round, device }));
            }
            Offer::Contributed {
                device,
                contribution,
                bytes,
                answer,
            } => {
                let event = Event::Contributed {
                    round,
                    device,
                    configuration,
                    contribution,
                    bytes,
                };
                let decided = self.decide(event);
                fieldfare_crash::point("trainer.contribution.decided");
                tracing::info!(%device, %contribution, decided = ?decided.as_ref().map_err(ToString::to_string), "a contribution");
                // A device that hung up asks again, and gets the same answer.
                let _ = answer.send(decided);
            }
        }
    }

    fn told(&mut self, event: RoundEvent) -> Result<(), WorkError> {
        match event.event {
            Some(round_event::Event::Cancelled(_)) => Err(WorkError::Cancelled),
            Some(round_event::Event::Dropped(dropped)) => {
                let (Some(attempted), Ok(device)) = (&mut self.attempted, dropped.device_id.parse::<DeviceId>()) else {
                    return Ok(());
                };
                tracing::info!(%device, reason = dropped.reason, "a device dropped out");
                let reason = dropped.refusal().into();
                attempted.dropped.insert(device, dropped.reason);
                let round = attempted.id.clone();
                self.tell(Event::Declined { round, device, reason });
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Does what was decided. True when the rounds are over.
    async fn act(&mut self, action: Action) -> Result<bool, WorkError> {
        match action {
            Action::FindEligible { round } => self.open(round).await?,
            Action::Configure { round, .. } => {
                let Some(attempted) = &self.attempted else {
                    return Ok(false);
                };
                let configuration = attempted.configuration_sha256;
                self.tell(Event::Configured { round, configuration });
            }
            // The controller invited them when it chose them; what they sent before a restart is here already.
            Action::Invite { .. } => self.recall()?,
            Action::Aggregate { accepted, .. } => self.aggregate(accepted),
            Action::Evaluate { .. } => self.evaluate(),
            Action::Commit { .. } => self.commit().await?,
            Action::Abandon { round, cause } => self.abandon(&round, &cause.to_string()).await?,
            Action::Publish => return Ok(true),
            // Whether the gain is enough is the gate's to say, with all its numbers.
            Action::Fail(JobFailure::NoGain { .. }) => return Ok(true),
            Action::Fail(failure) if self.turned_away.is_empty() => {
                return Err(WorkError::Impossible(failure.to_string()));
            }
            Action::Fail(failure) => return Err(WorkError::Impossible(format!("{failure}; {}", self.turned_away))),
        }
        Ok(false)
    }

    /// Opens an attempt, and asks the controller for its cohort until there is a quorum or the time is over.
    async fn open(&mut self, round: RoundId) -> Result<(), WorkError> {
        self.checkpoint.attempt = round.attempt.0;
        self.checkpoint.stage = JobStage::Running.into();
        self.job.checkpoint(self.checkpoint.clone()).await?;
        let attempted = self.attempted.insert(Attempted::open(self.job, round, &self.state)?);
        let (configuration, id) = (attempted.configuration.to_vec(), attempted.id.clone());
        fieldfare_crash::point("trainer.attempt.configured");
        let cohort = loop {
            let answer = self
                .job
                .gateway
                .open_round(configuration.clone(), self.job.plan.training_memory)
                .await?;
            let cohort: BTreeSet<DeviceId> = answer
                .cohort_device_ids
                .iter()
                .filter_map(|id| id.parse().ok())
                .collect();
            for device in &answer.ineligible {
                tracing::info!(
                    device = device.device_id,
                    reason = device.reason,
                    "not eligible for the round"
                );
            }
            let over = self
                .machine
                .next_deadline()
                .is_none_or(|deadline| self.job.workshop.time.now() >= deadline);
            if cohort.len() >= self.machine.spec.quorum as usize || over {
                break cohort;
            }
            tokio::time::sleep(SELECT_INTERVAL).await;
        };
        tracing::info!(round = %id, cohort = cohort.len(), "the round is open");
        fieldfare_crash::point("trainer.attempt.opened");
        self.tell(Event::Chosen { devices: cohort });
        Ok(())
    }

    /// Takes in what devices had contributed to this attempt before a restart.
    fn recall(&mut self) -> Result<(), WorkError> {
        let Some(attempted) = &self.attempted else {
            return Ok(());
        };
        let (round, configuration) = (attempted.id.clone(), attempted.configuration_sha256);
        for kept in attempted
            .store
            .all()
            .map_err(WorkError::interrupted("reading contributions"))?
        {
            self.tell(Event::Contributed {
                round: round.clone(),
                device: kept.device,
                configuration,
                contribution: kept.digest,
                bytes: ByteSize::new(kept.length),
            });
        }
        Ok(())
    }

    fn aggregate(&mut self, accepted: BTreeMap<DeviceId, Digest>) {
        let Some(attempted) = &mut self.attempted else { return };
        attempted.accepted.clone_from(&accepted);
        let (store, codec, compute) = (
            attempted.store.clone(),
            self.job.plan.codec,
            self.job.workshop.compute.clone(),
        );
        self.computing = Some(Box::pin(async move {
            let mean = compute.run(move |stop| {
                let sum = sum(&store, codec, &accepted, stop)?;
                // The accepted set meets its quorum, so that there is a mean.
                Ok(sum.mean().unwrap_or_default())
            });
            Ok(Computed::Mean(
                mean.await.map_err(WorkError::computing("summing a round"))?,
            ))
        }));
    }

    fn evaluate(&mut self) {
        let Some(attempted) = &self.attempted else { return };
        let candidate = attempted.candidate.clone();
        let (bench, evaluation) = (Arc::clone(&self.job.bench), Arc::clone(&self.job.evaluation));
        let compute = self.job.workshop.compute.clone();
        self.computing = Some(Box::pin(async move {
            let measured = compute.run(move |stop| bench.measure(0, &candidate, &evaluation, stop));
            Ok(Computed::Measured(
                measured.await.map_err(WorkError::computing("evaluating a round"))?,
            ))
        }));
    }

    fn computed(&mut self, computed: Computed) -> Result<(), WorkError> {
        let Some(attempted) = &mut self.attempted else {
            return Ok(());
        };
        let round = attempted.id.clone();
        match computed {
            Computed::Mean(Ok(mean)) if mean.len() == self.state.len() => {
                fieldfare_crash::point("trainer.round.summed");
                attempted.candidate = self.state.iter().zip(&mean).map(|(state, mean)| state + mean).collect();
                self.tell(Event::Aggregated { round });
            }
            Computed::Mean(failed) => {
                let detail = failed
                    .err()
                    .map_or("the sum is empty".to_owned(), |error| chain(&error));
                self.tell(Event::TrainerFailed { round, detail });
            }
            Computed::Measured(Ok(measured)) => {
                attempted.measured = measured;
                let name =
                    VariantName::new(self.job.bench.name(0)).map_err(WorkError::impossible("a variant's name"))?;
                let (before, after) = (nats(self.last_loss), nats(measured.loss_per_token()));
                let variants = BTreeMap::from([(name, VariantEvaluation { before, after })]);
                self.tell(Event::Evaluated { round, variants });
            }
            Computed::Measured(Err(error)) => {
                self.tell(Event::TrainerFailed {
                    round,
                    detail: chain(&error),
                });
            }
        }
        Ok(())
    }
}

/// What comes next from something that may not be there; nothing ever comes from nothing.
async fn next<T, A, F: Future<Output = Option<A>>>(from: Option<T>, receive: impl FnOnce(T) -> F) -> Option<A> {
    match from {
        Some(from) => receive(from).await,
        None => std::future::pending().await,
    }
}
