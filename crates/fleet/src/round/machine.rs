//! The decisions of a job.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{AbandonCause, Action, Answer, Decline, Event, Refused, VariantEvaluation};
use super::state::{CohortMember, JobFailure, JobPhase, JobState, RoundPhase};
use crate::rollout::Rank;
use crate::{Attempt, ByteSize, DeviceId, Digest, RoundId, RoundNumber, Timestamp, VariantName};

/// What a device sends when it contributes.
struct Upload {
    device: DeviceId,
    configuration: Digest,
    contribution: Digest,
    bytes: ByteSize,
}

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
    fn round_mut(&mut self) -> Option<&mut RoundPhase> {
        match &mut self.phase {
            JobPhase::Running { round } => Some(round),
            _ => None,
        }
    }

    fn enter(&mut self, round: RoundPhase) {
        self.phase = JobPhase::Running { round };
    }

    /// Takes in which devices are eligible. The cohort is those with the lowest rank under the seed of this attempt. It
    /// is fixed as soon as there are enough devices for a full one, and at the deadline from whoever is there.
    fn select(
        &mut self,
        now: Timestamp,
        devices: &BTreeSet<DeviceId>,
        actions: &mut Vec<Action>,
    ) -> Result<Answer, Refused> {
        let seed = self.cohort_seed();
        let wanted = self.spec.cohort;
        let Some(RoundPhase::Selecting {
            eligible, candidates, ..
        }) = self.round_mut()
        else {
            return Ok(Answer::Known);
        };
        let mut ranked: Vec<(Rank, DeviceId)> = devices.iter().map(|d| (Rank::of(*d, seed), *d)).collect();
        ranked.sort_unstable();
        ranked.truncate(wanted as usize);
        *eligible = u32::try_from(devices.len()).unwrap_or(u32::MAX);
        *candidates = ranked.into_iter().map(|(_, device)| device).collect();
        if *eligible >= wanted {
            self.configure(now, actions);
        } else {
            self.pass_time(now, actions);
        }
        Ok(Answer::Taken)
    }

    /// Fixes the cohort.
    fn configure(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let deadline = now.saturating_add(self.spec.compute_within);
        let round = self.round_id();
        let Some(RoundPhase::Selecting { candidates, .. }) = self.round_mut() else {
            return;
        };
        let chosen = std::mem::take(candidates);
        let cohort = chosen.iter().map(|device| (*device, CohortMember::Invited)).collect();
        actions.push(Action::Configure { round, cohort: chosen });
        self.enter(RoundPhase::Configuring { deadline, cohort });
    }

    /// Another cohort for every round and attempt.
    fn cohort_seed(&self) -> u64 {
        self.spec.seed ^ (u64::from(self.round.0) << 32) ^ u64::from(self.attempt.0)
    }

    fn invite(
        &mut self,
        now: Timestamp,
        round: RoundId,
        configuration: Digest,
        actions: &mut Vec<Action>,
    ) -> Result<Answer, Refused> {
        let deadline = now.saturating_add(self.spec.collect_within);
        match self.round_mut() {
            Some(RoundPhase::Configuring { cohort, .. }) => {
                let cohort = std::mem::take(cohort);
                let invited = cohort.keys().copied().collect();
                actions.push(Action::Invite {
                    round,
                    configuration,
                    cohort: invited,
                });
                self.enter(RoundPhase::Collecting {
                    deadline,
                    configuration,
                    cohort,
                });
                Ok(Answer::Taken)
            }
            Some(RoundPhase::Collecting {
                configuration: known, ..
            }) if *known == configuration => Ok(Answer::Known),
            Some(RoundPhase::Collecting {
                configuration: expected,
                ..
            }) => Err(Refused::OtherConfiguration {
                told: configuration,
                expected: *expected,
            }),
            _ => Err(self.untimely()),
        }
    }

    /// An event of collecting that comes in another phase.
    fn untimely(&self) -> Refused {
        match &self.phase {
            JobPhase::Running { round } => match round {
                RoundPhase::Aggregating { .. } | RoundPhase::Evaluating { .. } | RoundPhase::Collecting { .. } => {
                    Refused::Late { phase: round.name() }
                }
                RoundPhase::Waiting { .. } | RoundPhase::Selecting { .. } | RoundPhase::Configuring { .. } => {
                    Refused::Early { phase: round.name() }
                }
            },
            phase => Refused::Over { phase: phase.name() },
        }
    }

    /// Records what became of a device that has not contributed.
    fn mark(&mut self, device: DeviceId, state: CohortMember) -> Result<Answer, Refused> {
        let Some(RoundPhase::Collecting { cohort, .. }) = self.round_mut() else {
            return Err(self.untimely());
        };
        let member = cohort.get_mut(&device).ok_or(Refused::NotInvited { device })?;
        match (&*member, &state) {
            (known, new) if known == new => return Ok(Answer::Known),
            // What has been contributed stays, whatever becomes of the device.
            (CohortMember::Contributed(_), _) => return Ok(Answer::Known),
            (CohortMember::Declined(_), _) => return Err(Refused::LeftRound { device }),
            _ => {}
        }
        *member = state;
        Ok(Answer::Taken)
    }

    fn take(&mut self, upload: Upload) -> Result<Answer, Refused> {
        let Upload {
            device,
            configuration,
            contribution,
            bytes,
        } = upload;
        let expected_length = self.spec.contribution;
        let (expected, cohort) = match self.round_mut() {
            Some(RoundPhase::Collecting {
                configuration, cohort, ..
            }) => (*configuration, cohort),
            Some(RoundPhase::Aggregating { accepted, .. } | RoundPhase::Evaluating { accepted, .. }) => {
                return match accepted.get(&device) {
                    Some(kept) if *kept == contribution => Ok(Answer::Known),
                    Some(kept) => Err(Refused::Conflicting { device, kept: *kept }),
                    None => Err(self.untimely()),
                };
            }
            _ => return Err(self.untimely()),
        };
        let member = cohort.get_mut(&device).ok_or(Refused::NotInvited { device })?;
        match member {
            CohortMember::Contributed(kept) if *kept == contribution => return Ok(Answer::Known),
            CohortMember::Contributed(kept) => return Err(Refused::Conflicting { device, kept: *kept }),
            CohortMember::Declined(_) => return Err(Refused::LeftRound { device }),
            CohortMember::Invited | CohortMember::Training | CohortMember::Lost => {}
        }
        if configuration != expected {
            return Err(Refused::OtherConfiguration {
                told: configuration,
                expected,
            });
        }
        if bytes != expected_length {
            return Err(Refused::Length {
                told: bytes.get(),
                expected: expected_length.get(),
            });
        }
        *member = CohortMember::Contributed(contribution);
        Ok(Answer::Taken)
    }

    /// Ends collecting as soon as more waiting cannot help: enough have contributed, everybody has answered, or the
    /// quorum is out of reach; and at the deadline in any case.
    fn close_collecting(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let JobPhase::Running {
            round: RoundPhase::Collecting { deadline, cohort, .. },
        } = &self.phase
        else {
            return;
        };
        let count = |wanted: fn(&CohortMember) -> bool| {
            u32::try_from(cohort.values().filter(|member| wanted(member)).count()).unwrap_or(u32::MAX)
        };
        let contributed = count(|member| matches!(member, CohortMember::Contributed(_)));
        let open = count(|m| matches!(m, CohortMember::Invited | CohortMember::Training | CohortMember::Lost));
        let (enough, quorum) = (self.spec.enough, self.spec.quorum);
        let over = contributed >= enough || open == 0 || contributed + open < quorum || now >= *deadline;
        if !over {
            return;
        }
        if contributed < quorum {
            let declined = declines(cohort);
            self.abandon(
                now,
                AbandonCause::TooFewContributions {
                    contributions: contributed,
                    quorum,
                    declined,
                },
                actions,
            );
            return;
        }
        let accepted: BTreeMap<DeviceId, Digest> = cohort
            .iter()
            .filter_map(|(device, member)| match member {
                CohortMember::Contributed(digest) => Some((*device, *digest)),
                _ => None,
            })
            .collect();
        actions.push(Action::Aggregate {
            round: self.round_id(),
            accepted: accepted.clone(),
        });
        let deadline = now.saturating_add(self.spec.compute_within);
        self.enter(RoundPhase::Aggregating { deadline, accepted });
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

    fn abandon(&mut self, now: Timestamp, cause: AbandonCause, actions: &mut Vec<Action>) {
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

    fn pass_time(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
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

/// How many devices declined, by reason.
fn declines(cohort: &BTreeMap<DeviceId, CohortMember>) -> BTreeMap<Decline, u32> {
    let mut counts = BTreeMap::new();
    for member in cohort.values() {
        if let CohortMember::Declined(reason) = member {
            *counts.entry(*reason).or_insert(0) += 1;
        }
    }
    counts
}
