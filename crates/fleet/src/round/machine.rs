//! The decisions of a job.

use std::collections::{BTreeMap, BTreeSet};

use super::cohort::Upload;
use super::event::{AbandonCause, Action, Answer, Event, Refused, VariantEvaluation};
use super::state::{CohortMember, JobFailure, JobPhase, JobState, RoundPhase};
use crate::{Attempt, RoundId, RoundNumber, Timestamp, VariantName};

impl JobState {
    /// When the next [`Event::Tick`] is due; none when the job is over.
    pub const fn next_deadline(&self) -> Option<Timestamp> {
        match &self.phase {
            JobPhase::Running { round } => Some(round.deadline()),
            _ => None,
        }
    }

    /// Takes in an event and says what to do. Contributions and acknowledgements may be repeated in any order and any
    /// number: those that are known already are answered with [`Answer::Known`].
    ///
    /// # Errors
    /// [`Refused`] says why the event changed nothing.
    pub fn handle(&mut self, now: Timestamp, event: Event, actions: &mut Vec<Action>) -> Result<Answer, Refused> {
        let JobPhase::Running { .. } = self.phase else {
            return self.answer_when_over(&event);
        };
        match event {
            Event::Eligible { devices } => self.select(now, &devices, actions),
            Event::Chosen { devices } => {
                if let JobPhase::Running {
                    round: RoundPhase::Selecting { .. },
                } = self.phase
                {
                    let chosen = u32::try_from(devices.len()).unwrap_or(u32::MAX).max(self.spec.quorum);
                    (self.spec.cohort, self.spec.enough) = (chosen, chosen);
                }
                self.select(now, &devices, actions)
            }
            Event::Configured { round, configuration } => {
                self.check_round(&round)?;
                self.invite(now, round, configuration, actions)
            }
            Event::Joined { round, device } => {
                self.check_round(&round)?;
                self.mark(device, CohortMember::Training)
            }
            Event::Declined { round, device, reason } => {
                self.check_round(&round)?;
                self.mark(device, CohortMember::Declined(reason))?;
                self.close_collecting(now, actions);
                Ok(Answer::Taken)
            }
            Event::Lost { round, device } => {
                self.check_round(&round)?;
                self.mark(device, CohortMember::Lost)
            }
            Event::Contributed {
                round,
                device,
                configuration,
                contribution,
                bytes,
            } => {
                self.check_round(&round)?;
                let answer = self.take(Upload {
                    device,
                    configuration,
                    contribution,
                    bytes,
                })?;
                self.close_collecting(now, actions);
                Ok(answer)
            }
            Event::Aggregated { round } => {
                self.check_round(&round)?;
                self.evaluate(now, round, actions)
            }
            Event::Evaluated { round, variants } => {
                self.check_round(&round)?;
                self.judge(now, &variants, actions)
            }
            Event::TrainerFailed { round, detail } => {
                self.check_round(&round)?;
                self.abandon(now, AbandonCause::Trainer { detail }, actions);
                Ok(Answer::Taken)
            }
            Event::Tick => {
                self.pass_time(now, actions);
                Ok(Answer::Taken)
            }
            Event::Cancel { by } => {
                let cause = AbandonCause::Cancelled { by: by.clone() };
                actions.push(Action::Abandon {
                    round: self.round_id(),
                    cause,
                });
                self.phase = JobPhase::Cancelled { at: now, by };
                Ok(Answer::Taken)
            }
        }
    }

    fn answer_when_over(&self, event: &Event) -> Result<Answer, Refused> {
        match event {
            Event::Tick => Ok(Answer::Known),
            _ => Err(Refused::Over {
                phase: self.phase.name(),
            }),
        }
    }

    fn check_round(&self, told: &RoundId) -> Result<(), Refused> {
        let current = self.round_id();
        if *told == current {
            Ok(())
        } else {
            Err(Refused::OtherRound {
                told: told.clone(),
                current,
            })
        }
    }

    /// The round under way. Only called while the job runs; another phase has no round to change.
    pub(super) fn round_mut(&mut self) -> Option<&mut RoundPhase> {
        match &mut self.phase {
            JobPhase::Running { round } => Some(round),
            _ => None,
        }
    }

    pub(super) fn enter(&mut self, round: RoundPhase) {
        self.phase = JobPhase::Running { round };
    }

    fn evaluate(&mut self, now: Timestamp, round: RoundId, actions: &mut Vec<Action>) -> Result<Answer, Refused> {
        let deadline = now.saturating_add(self.spec.compute_within);
        match self.round_mut() {
            Some(RoundPhase::Aggregating { accepted, .. }) => {
                let accepted = std::mem::take(accepted);
                actions.push(Action::Evaluate { round });
                self.enter(RoundPhase::Evaluating { deadline, accepted });
                Ok(Answer::Taken)
            }
            Some(RoundPhase::Evaluating { .. }) => Ok(Answer::Known),
            Some(phase) => Err(Refused::Early { phase: phase.name() }),
            None => Err(self.untimely()),
        }
    }

    fn judge(
        &mut self,
        now: Timestamp,
        variants: &BTreeMap<VariantName, VariantEvaluation>,
        actions: &mut Vec<Action>,
    ) -> Result<Answer, Refused> {
        match self.round_mut() {
            Some(RoundPhase::Evaluating { .. }) => {}
            Some(phase) => return Err(Refused::Early { phase: phase.name() }),
            None => return Err(self.untimely()),
        }
        if variants.is_empty() {
            return Err(Refused::EmptyEvaluation);
        }
        if let Some(variant) = self
            .first_losses
            .keys()
            .find(|variant| !variants.contains_key(*variant))
        {
            return Err(Refused::MissingVariant {
                variant: variant.clone(),
            });
        }
        let allowed = self.spec.evaluation.max_round_increase;
        let worse = variants.iter().find(|(_, e)| e.after.get() - e.before.get() > allowed);
        if let Some((variant, evaluation)) = worse {
            let cause = AbandonCause::LossRose {
                variant: variant.clone(),
                evaluation: *evaluation,
                allowed,
            };
            self.abandon(now, cause, actions);
            return Ok(Answer::Taken);
        }
        for (variant, evaluation) in variants {
            self.first_losses.entry(variant.clone()).or_insert(evaluation.before);
            self.last_losses.insert(variant.clone(), evaluation.after);
        }
        actions.push(Action::Commit { round: self.round_id() });
        self.go_on(now, actions);
        Ok(Answer::Taken)
    }

    /// After a committed round: the next one, or the end.
    fn go_on(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if self.round.0 < self.spec.rounds {
            self.round = RoundNumber(self.round.0 + 1);
            self.attempt = Attempt(1);
            self.begin_selecting(now, actions);
            return;
        }
        let needed = self.spec.evaluation.min_job_gain;
        let losses = self.first_losses.iter().filter_map(|(variant, before)| {
            self.last_losses
                .get(variant)
                .map(|after| (variant.clone(), *before, *after))
        });
        let short = losses
            .into_iter()
            .find(|(_, before, after)| before.get() - after.get() < needed);
        match short {
            Some((variant, before, after)) => {
                self.fail(
                    now,
                    JobFailure::NoGain {
                        variant,
                        before,
                        after,
                        needed,
                    },
                    actions,
                );
            }
            None => {
                self.phase = JobPhase::Finished { at: now };
                actions.push(Action::Publish);
            }
        }
    }

    fn begin_selecting(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let deadline = now.saturating_add(self.spec.select_within);
        self.enter(RoundPhase::Selecting {
            deadline,
            eligible: 0,
            candidates: BTreeSet::new(),
        });
        actions.push(Action::FindEligible { round: self.round_id() });
    }

    fn fail(&mut self, now: Timestamp, failure: JobFailure, actions: &mut Vec<Action>) {
        self.phase = JobPhase::Failed {
            at: now,
            failure: failure.clone(),
        };
        actions.push(Action::Fail(failure));
    }

    pub(super) fn abandon(&mut self, now: Timestamp, cause: AbandonCause, actions: &mut Vec<Action>) {
        let round = self.round_id();
        actions.push(Action::Abandon {
            round: round.clone(),
            cause: cause.clone(),
        });
        if self.attempt.0 >= self.spec.max_attempts {
            self.fail(now, JobFailure::RoundAbandoned { round, cause }, actions);
            return;
        }
        self.attempt = Attempt(self.attempt.0 + 1);
        self.enter(RoundPhase::Waiting {
            until: now.saturating_add(self.spec.retry_after),
        });
    }

    pub(super) fn pass_time(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let JobPhase::Running { round } = &self.phase else {
            return;
        };
        if now < round.deadline() {
            return;
        }
        let phase = round.name().to_owned();
        match round {
            RoundPhase::Waiting { .. } => self.begin_selecting(now, actions),
            RoundPhase::Selecting { eligible, .. } if *eligible >= self.spec.quorum => self.configure(now, actions),
            RoundPhase::Selecting { eligible, .. } => {
                let (eligible, quorum) = (*eligible, self.spec.quorum);
                self.abandon(now, AbandonCause::TooFewEligible { eligible, quorum }, actions);
            }
            RoundPhase::Collecting { .. } => self.close_collecting(now, actions),
            RoundPhase::Configuring { .. } | RoundPhase::Aggregating { .. } | RoundPhase::Evaluating { .. } => {
                self.abandon(now, AbandonCause::TrainerSilent { phase }, actions);
            }
        }
    }
}
