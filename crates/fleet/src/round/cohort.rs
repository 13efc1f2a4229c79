//! The cohort of a round: who is chosen, and what comes from whom until collecting is over.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{AbandonCause, Action, Answer, Decline, Refused};
use super::registry::pick;
use super::state::{CohortMember, JobPhase, JobState, RoundPhase};
use crate::{ByteSize, DeviceId, Digest, RoundId, Timestamp};

/// What a device sends when it contributes.
pub(super) struct Upload {
    pub(super) device: DeviceId,
    pub(super) configuration: Digest,
    pub(super) contribution: Digest,
    pub(super) bytes: ByteSize,
}

impl JobState {
    /// Takes in which devices are eligible. The cohort is [`pick`]ed from them. It
    /// is fixed as soon as there are enough devices for a full one, and at the deadline from whoever is there.
    pub(super) fn select(
        &mut self,
        now: Timestamp,
        devices: &BTreeSet<DeviceId>,
        actions: &mut Vec<Action>,
    ) -> Result<Answer, Refused> {
        let (seed, wanted, round) = (self.spec.seed, self.spec.cohort, self.round_id());
        let Some(RoundPhase::Selecting {
            eligible, candidates, ..
        }) = self.round_mut()
        else {
            return Ok(Answer::Known);
        };
        *eligible = u32::try_from(devices.len()).unwrap_or(u32::MAX);
        *candidates = pick(devices.iter().copied(), wanted, seed, &round);
        if *eligible >= wanted {
            self.configure(now, actions);
        } else {
            self.pass_time(now, actions);
        }
        Ok(Answer::Taken)
    }

    /// Fixes the cohort.
    pub(super) fn configure(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
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

    pub(super) fn invite(
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
    pub(super) fn untimely(&self) -> Refused {
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
    pub(super) fn mark(&mut self, device: DeviceId, state: CohortMember) -> Result<Answer, Refused> {
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

    pub(super) fn take(&mut self, upload: Upload) -> Result<Answer, Refused> {
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
    pub(super) fn close_collecting(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
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
