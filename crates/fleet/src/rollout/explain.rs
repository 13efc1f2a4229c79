//! Why a device runs what it runs, and why a wave does not pass.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::event::{Outcome, Progress, RollbackCause};
use super::gate::{GateReading, GateVerdict};
use super::machine::Rollout;
use super::population::{Census, Member};
use super::state::Phase;
use super::wave::{Rank, Slot};
use crate::install::Stage;
use crate::{DeviceId, Generation, Obstacle, ReleaseId, Timestamp};

/// Why the present wave has not passed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Hold {
    /// The operator stopped the rollout.
    Paused {
        /// Who.
        by: String,
    },
    /// The controller has begun or restarted a moment ago and waits for devices to report.
    Gathering {
        /// Until when at most.
        until: Timestamp,
    },
    /// No device is heard from.
    NobodyHeardFrom,
    /// The wave is opening, no faster than `max_unavailable` allows.
    Opening {
        /// Devices that have been offered the release.
        offered: u32,
        /// Devices of the wave.
        size: u32,
    },
    /// Devices are at work.
    Working {
        /// How many.
        devices: u32,
    },
    /// The wave is being watched.
    Observing {
        /// Until when.
        until: Timestamp,
    },
    /// Too few devices converged.
    TooFewConverged {
        /// Devices that converged.
        converged: u32,
        /// Devices that cannot.
        cannot_converge: u32,
    },
    /// Gates have seen too little.
    MissingEvidence {
        /// What they read.
        readings: Vec<GateReading>,
    },
    /// Nothing holds the wave: the next decision opens the next one.
    Nothing,
}

/// Why a device runs what it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Explanation {
    /// The device is not part of the deployment.
    NotInDeployment,
    /// The device runs the new release.
    OnTarget {
        /// The release.
        release: ReleaseId,
    },
    /// The device has not been heard from.
    NotHeardFrom {
        /// When it was last heard since the controller started, if it was.
        last_heard: Option<Timestamp>,
        /// The release that waits for it.
        target: Option<ReleaseId>,
    },
    /// The device has not seen its target yet.
    NotYetSeen {
        /// Newest generation that it reported.
        seen: Generation,
        /// Newest generation published.
        published: Generation,
    },
    /// The device is at work.
    Working {
        /// The step.
        stage: Stage,
        /// What it works towards.
        target: Option<ReleaseId>,
    },
    /// The device cannot run its target.
    CannotConverge {
        /// Why.
        obstacle: Obstacle,
        /// The target.
        target: Option<ReleaseId>,
    },
    /// The device waits for its wave.
    WaitsForWave {
        /// Its wave, from 0, as the fleet stands now.
        wave: u32,
        /// The wave that is open.
        current: u32,
        /// What that one waits for.
        hold: Hold,
    },
    /// The device came after the rollout began and gets the release when it is complete.
    WaitsForCompletion {
        /// The wave that is open.
        current: u32,
        /// What that one waits for.
        hold: Hold,
    },
    /// The rollout went back, and the device runs the previous release.
    WentBack {
        /// Why the rollout went back.
        cause: RollbackCause,
    },
    /// The operator ended the rollout before the device's turn.
    Aborted {
        /// Who.
        by: String,
    },
}

/// A rollout at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct RolloutStatus {
    /// Where it is.
    pub phase: Phase,
    /// Devices of the deployment.
    pub devices: u32,
    /// Devices heard from that were there when it began.
    pub heard: u32,
    /// Devices of the present wave when it is fully open.
    pub wave_size: u32,
    /// Devices heard from that have been offered the release.
    pub offered: u32,
    /// Of these, at work.
    pub working: u32,
    /// Of these, converged.
    pub converged: u32,
    /// Of these, unable to converge.
    pub cannot_converge: u32,
    /// Devices that have been offered the release and are not heard from.
    pub not_heard_from: u32,
    /// What the gates read.
    pub readings: Vec<GateReading>,
    /// What the present wave waits for; none when no wave is open.
    pub hold: Option<Hold>,
}

impl Rollout {
    /// The rollout at a glance.
    pub fn status(&self, now: Timestamp) -> RolloutStatus {
        let census = self.population.census(&self.state, now);
        let wave = match self.state.phase {
            Phase::Advancing { wave, .. } => Some(wave),
            _ => None,
        };
        RolloutStatus {
            phase: self.state.phase.clone(),
            devices: u32::try_from(self.population.len()).unwrap_or(u32::MAX),
            heard: census.heard,
            wave_size: wave.map_or(census.heard, |wave| self.wave_size(wave, census.heard)),
            offered: census.offered,
            working: census.working,
            converged: census.converged,
            cannot_converge: census.cannot_converge,
            not_heard_from: census.silent,
            readings: if wave.is_some() {
                self.readings(&census, now)
            } else {
                Vec::new()
            },
            hold: wave.map(|wave| self.hold(wave, &census, now)),
        }
    }

    /// Why a device runs what it runs.
    pub fn explain(&self, now: Timestamp, device: DeviceId) -> Explanation {
        let Some(member) = self.population.get(device) else {
            return Explanation::NotInDeployment;
        };
        let target = self.state.target_for(member.slot).release;
        match member.outcome(&self.state, now) {
            Some(Outcome::NotHeardFrom) => Explanation::NotHeardFrom {
                last_heard: member.last_heard,
                target,
            },
            Some(Outcome::CannotConverge(obstacle)) => Explanation::CannotConverge { obstacle, target },
            Some(Outcome::Converged) => self.explain_settled(now, member),
            None => match member.observation.as_ref().map(|o| (&o.progress, o.target == target)) {
                Some((Progress::Working(stage), true)) => Explanation::Working { stage: *stage, target },
                _ if target.is_none() => self.explain_settled(now, member),
                _ => Explanation::NotYetSeen {
                    seen: member.seen,
                    published: self.state.generation,
                },
            },
        }
    }

    /// For a device that has what it shall have now.
    fn explain_settled(&self, now: Timestamp, member: &Member) -> Explanation {
        if self.state.has_new_release(member.slot) {
            return Explanation::OnTarget {
                release: self.state.release.clone(),
            };
        }
        match &self.state.phase {
            Phase::Advancing { wave, .. } => {
                let census = self.population.census(&self.state, now);
                let hold = self.hold(*wave, &census, now);
                match member.slot {
                    Slot::Late => Explanation::WaitsForCompletion { current: *wave, hold },
                    Slot::Ranked(rank) => {
                        let own = self.wave_of(now, rank, &census).max(*wave);
                        Explanation::WaitsForWave {
                            wave: own,
                            current: *wave,
                            hold,
                        }
                    }
                }
            }
            Phase::RollingBack { cause, .. } | Phase::RolledBack { cause, .. } => {
                Explanation::WentBack { cause: cause.clone() }
            }
            Phase::Aborted { by, .. } => Explanation::Aborted { by: by.clone() },
            Phase::Completed { .. } => Explanation::OnTarget {
                release: self.state.release.clone(),
            },
        }
    }

    /// The wave that will offer the release to the device of this rank, as the fleet stands now.
    fn wave_of(&self, now: Timestamp, rank: Rank, census: &Census) -> u32 {
        let place = self.population.heard_before(&self.state, now, rank) + 1;
        let waves = u32::try_from(self.state.policy.waves.len()).unwrap_or(u32::MAX);
        (0..waves)
            .find(|wave| self.wave_size(*wave, census.heard) >= place)
            .unwrap_or(waves.saturating_sub(1))
    }

    fn hold(&self, wave: u32, census: &Census, now: Timestamp) -> Hold {
        let Phase::Advancing { observing_since, .. } = self.state.phase else {
            return Hold::Nothing;
        };
        if let Some(by) = &self.state.paused_by {
            return Hold::Paused { by: by.clone() };
        }
        if let Some(until) = self.gathering_until(now) {
            return Hold::Gathering { until };
        }
        if census.heard == 0 {
            return Hold::NobodyHeardFrom;
        }
        let until = observing_since.map(|since| since.saturating_add(self.state.policy.observation));
        match until {
            None if !self.is_open(wave, census) => {
                return Hold::Opening {
                    offered: census.offered,
                    size: self.wave_size(wave, census.heard),
                };
            }
            None if census.working > 0 => {
                return Hold::Working {
                    devices: census.working,
                };
            }
            Some(until) if now < until => return Hold::Observing { until },
            _ => {}
        }
        if !self.has_enough_converged(census) {
            let (converged, cannot_converge) = (census.converged, census.cannot_converge);
            return Hold::TooFewConverged {
                converged,
                cannot_converge,
            };
        }
        let mut readings = self.readings(census, now);
        readings.retain(|reading| reading.verdict == GateVerdict::Missing);
        if readings.is_empty() {
            Hold::Nothing
        } else {
            Hold::MissingEvidence { readings }
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused { by } => write!(f, "paused by {by}"),
            Self::Gathering { until } => write!(f, "waiting until {until} for devices to report"),
            Self::NobodyHeardFrom => write!(f, "no device is heard from"),
            Self::Opening { offered, size } => write!(f, "{offered} of {size} devices have been offered the release"),
            Self::Working { devices } => write!(f, "{devices} devices are at work"),
            Self::Observing { until } => write!(f, "watched until {until}"),
            Self::TooFewConverged {
                converged,
                cannot_converge,
            } => {
                write!(f, "{converged} devices converged, {cannot_converge} cannot")
            }
            Self::MissingEvidence { readings } => {
                let readings: Vec<String> = readings.iter().map(ToString::to_string).collect();
                write!(f, "evidence is missing: {}", readings.join("; "))
            }
            Self::Nothing => write!(f, "nothing"),
        }
    }
}

impl fmt::Display for RollbackCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gate { wave, reading } => write!(f, "gate failed in wave {}: {reading}", wave + 1),
            Self::Deadline { wave } => write!(f, "wave {} missed its deadline", wave + 1),
            Self::Operator { by } => write!(f, "rolled back by {by}"),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |release: &Option<ReleaseId>| release.as_ref().map_or("no release".to_owned(), ToString::to_string);
        match self {
            Self::NotInDeployment => write!(f, "not part of the deployment"),
            Self::OnTarget { release } => write!(f, "runs its target, {release}"),
            Self::NotHeardFrom {
                last_heard: None,
                target,
            } => {
                write!(
                    f,
                    "not heard from since the controller started; {} waits for it",
                    name(target)
                )
            }
            Self::NotHeardFrom {
                last_heard: Some(last),
                target,
            } => {
                write!(f, "not heard from since {last}; {} waits for it", name(target))
            }
            Self::NotYetSeen { seen, published } => {
                write!(
                    f,
                    "has not seen its target yet (reports generation {seen}, {published} is published)"
                )
            }
            Self::Working { stage, target } => write!(f, "{stage} {}", name(target)),
            Self::CannotConverge { obstacle, target } => write!(f, "cannot run {}: {obstacle}", name(target)),
            Self::WaitsForWave { wave, current, hold } => {
                write!(f, "waits for wave {}; wave {} is open: {hold}", wave + 1, current + 1)
            }
            Self::WaitsForCompletion { current, hold } => {
                write!(
                    f,
                    "came after the rollout began and waits for its end; wave {} is open: {hold}",
                    current + 1
                )
            }
            Self::WentBack { cause } => write!(f, "runs the previous release: {cause}"),
            Self::Aborted { by } => write!(f, "the rollout was ended by {by}"),
        }
    }
}
