//! How an attempt ends: its round is committed, or it is abandoned.

use fieldfare_fleet::RoundId;
use fieldfare_fleet::round::Tally;
use fieldfare_proto::v1::{AcceptedContribution, CloseRoundRequest, FederatedCheckpoint, RoundSummary, TurnedAway};

use super::super::bench;
use super::super::privacy::opened;
use super::super::round::Attempted;
use super::Drive;
use crate::clock::unix_ms;
use crate::failure::WorkError;
use crate::limits::{TURNED_AWAY_ROUNDS_MAX, TURNED_AWAY_SHOWN_MAX};

impl Drive<'_> {
    /// Commits the round: its state is with the controller first, then one call makes it count.
    pub(super) async fn commit(&mut self) -> Result<(), WorkError> {
        let Some(attempted) = self.attempted.take() else {
            return Ok(());
        };
        let state_sha256 = self
            .job
            .workshop
            .artifacts
            .store(bench::encode(&attempted.candidate))
            .await?;
        fieldfare_crash::point("trainer.round.stored");
        self.turned_away.add(&attempted.open.turned_away());
        let summary = self.summary(&attempted);
        let checkpoint = FederatedCheckpoint {
            committed_round: attempted.id.round.0,
            attempt: 0,
            state_sha256: state_sha256.as_bytes().to_vec(),
            rounds: shortened(&self.checkpoint.rounds, &summary),
            ..self.checkpoint.clone()
        };
        let accepted = attempted.accepted.iter().map(|(device, digest)| AcceptedContribution {
            device_id: device.to_string(),
            sha256: digest.as_bytes().to_vec(),
        });
        let request = CloseRoundRequest {
            fence: None,
            round: Some((&attempted.id).into()),
            accepted: accepted.collect(),
            summary: Some(summary.clone()),
            checkpoint: Some(checkpoint.clone()),
        };
        self.job.gateway.close_round(request).await?;
        fieldfare_crash::point("trainer.round.closed");
        tracing::info!(
            round = %attempted.id,
            accepted = summary.accepted,
            cohort = summary.cohort,
            loss = summary.loss_nats_per_token,
            exact_match = summary.exact_match,
            epsilon = summary.epsilon,
            turned_away = %self.turned_away,
            "committed"
        );
        self.turned_away = Tally::default();
        self.last_loss = summary.loss_nats_per_token;
        self.state.clone_from(&attempted.candidate);
        self.checkpoint = checkpoint;
        attempted.forget(self.job);
        Ok(())
    }

    fn summary(&self, attempted: &Attempted) -> RoundSummary {
        let now = self.job.workshop.time.now();
        let (cohort, accepted) = (self.machine.spec.cohort, attempted.accepted.len() as u32);
        let attempts = opened(&self.checkpoint.rounds, attempted.id.attempt.0);
        RoundSummary {
            round: attempted.id.round.0,
            attempt: attempted.id.attempt.0,
            cohort,
            accepted,
            dropped: cohort.saturating_sub(accepted),
            loss_nats_per_token: attempted.measured.loss_per_token(),
            exact_match: attempted.measured.exact_rate(),
            epsilon: self.job.plan.privacy.spent(attempts),
            finished_unix_ms: unix_ms(now),
            duration_ms: u64::try_from(now.since(attempted.begun).as_millis()).unwrap_or(u64::MAX),
            turned_away: shown(&self.turned_away),
        }
    }

    pub(super) async fn abandon(&mut self, round: &RoundId, cause: &str) -> Result<(), WorkError> {
        self.computing = None;
        let Some(attempted) = self.attempted.take() else {
            return Ok(());
        };
        self.turned_away.add(&attempted.open.turned_away());
        let turned_away = &self.turned_away;
        tracing::warn!(%round, cause, dropped = ?attempted.dropped, %turned_away, "the attempt is abandoned");
        attempted.forget(self.job);
        self.checkpoint.attempt = round.attempt.0;
        self.job.checkpoint(self.checkpoint.clone()).await.map(drop)
    }
}

/// The rounds of a job with its newest one. Whoever lied long ago is named no more: the record has a bound, and liars have none.
fn shortened(earlier: &[RoundSummary], newest: &RoundSummary) -> Vec<RoundSummary> {
    let mut rounds: Vec<RoundSummary> = earlier.iter().chain([newest]).cloned().collect();
    let older = rounds.len().saturating_sub(TURNED_AWAY_ROUNDS_MAX);
    rounds
        .iter_mut()
        .take(older)
        .for_each(|round| round.turned_away.clear());
    rounds
}

/// What was turned away, as the controller shows it.
fn shown(tally: &Tally) -> Vec<TurnedAway> {
    let reasons = tally.reasons().map(|(why, devices)| TurnedAway {
        reason: why.to_string(),
        devices: u32::try_from(devices.len()).unwrap_or(u32::MAX),
        device_ids: devices
            .iter()
            .take(TURNED_AWAY_SHOWN_MAX)
            .map(ToString::to_string)
            .collect(),
    });
    reasons.collect()
}
