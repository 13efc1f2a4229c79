//! What is kept of a rollout.

use fieldfare_fleet::Timestamp;
use fieldfare_fleet::rollout::{GateReading, GateVerdict, Phase, Rank, RollbackCause, RolloutState, Sampled};

use super::{ConversionError, OptionExt, ResultExt, error::enumerated};
use crate::v1;
use crate::v1::stored_rollback::Cause;
use crate::v1::stored_rollout::Phase as Stored;

fn unix_ms(at: Timestamp) -> i64 {
    i64::try_from(at.unix_ms()).unwrap_or(i64::MAX)
}

fn timestamp(field: &str, unix_ms: i64) -> Result<Timestamp, ConversionError> {
    u64::try_from(unix_ms).map(Timestamp::from_unix_ms).field(field)
}

impl From<&RolloutState> for v1::StoredRollout {
    fn from(state: &RolloutState) -> Self {
        let phase = match &state.phase {
            Phase::Advancing {
                wave,
                opened_at,
                observing_since,
                overdue,
            } => Stored::Advancing(v1::StoredWave {
                wave: *wave,
                opened_unix_ms: unix_ms(*opened_at),
                observing_since_unix_ms: observing_since.map(unix_ms),
                overdue: *overdue,
            }),
            Phase::RollingBack { since, cause } => Stored::RollingBack(rollback(*since, cause)),
            Phase::RolledBack { at, cause } => Stored::RolledBack(rollback(*at, cause)),
            Phase::Completed { at } => Stored::CompletedUnixMs(unix_ms(*at)),
            Phase::Aborted { at, by } => Stored::Aborted(v1::StoredAbort {
                at_unix_ms: unix_ms(*at),
                by: by.clone(),
            }),
        };
        Self {
            deployment: state.deployment.to_string(),
            release: state.release.to_string(),
            previous: state.previous.as_ref().map(ToString::to_string).unwrap_or_default(),
            policy: Some((&state.policy).into()),
            seed: state.seed,
            started_unix_ms: unix_ms(state.started_at),
            assignment: Some(state.assignment.into()),
            previous_assignment: Some(state.previous_assignment.into()),
            generation: Some(state.generation.into()),
            paused_by: state.paused_by.clone(),
            opened_to: state.opened_to.map(Rank::get),
            phase: Some(phase),
        }
    }
}

fn rollback(since: Timestamp, cause: &RollbackCause) -> v1::StoredRollback {
    v1::StoredRollback {
        since_unix_ms: unix_ms(since),
        cause: Some(match cause {
            RollbackCause::Gate { wave, reading } => Cause::Gate(v1::StoredGateFailure {
                wave: *wave,
                reading: Some(reading.into()),
            }),
            RollbackCause::Deadline { wave } => Cause::DeadlineWave(*wave),
            RollbackCause::Operator { by } => Cause::Operator(by.clone()),
        }),
    }
}

impl From<&GateReading> for v1::StoredGateReading {
    fn from(reading: &GateReading) -> Self {
        let sampled = match reading.sampled {
            Sampled::Devices => v1::Sampled::Devices,
            Sampled::Probes => v1::Sampled::Probes,
            Sampled::Requests => v1::Sampled::Requests,
        };
        Self {
            gate: Some(reading.gate.into()),
            value: reading.value,
            devices: reading.devices,
            samples: reading.samples,
            samples_needed: reading.samples_needed,
            sampled: sampled.into(),
            verdict: v1::GateVerdict::from(reading.verdict).into(),
        }
    }
}

impl TryFrom<v1::StoredRollout> for RolloutState {
    type Error = ConversionError;

    fn try_from(stored: v1::StoredRollout) -> Result<Self, ConversionError> {
        let within = |field: &'static str| move |error: ConversionError| error.within(field);
        let phase = match stored.phase.required("phase")? {
            Stored::Advancing(wave) => Phase::Advancing {
                wave: wave.wave,
                opened_at: timestamp("advancing.opened_unix_ms", wave.opened_unix_ms)?,
                observing_since: wave
                    .observing_since_unix_ms
                    .map(|at| timestamp("advancing.observing_since_unix_ms", at))
                    .transpose()?,
                overdue: wave.overdue,
            },
            Stored::RollingBack(back) => {
                let (since, cause) = caused(back).map_err(within("rolling_back"))?;
                Phase::RollingBack { since, cause }
            }
            Stored::RolledBack(back) => {
                let (at, cause) = caused(back).map_err(within("rolled_back"))?;
                Phase::RolledBack { at, cause }
            }
            Stored::CompletedUnixMs(at) => Phase::Completed {
                at: timestamp("completed_unix_ms", at)?,
            },
            Stored::Aborted(abort) => Phase::Aborted {
                at: timestamp("aborted.at_unix_ms", abort.at_unix_ms)?,
                by: abort.by,
            },
        };
        let previous = Some(stored.previous.as_str()).filter(|previous| !previous.is_empty());
        Ok(Self {
            deployment: stored.deployment.parse().field("deployment")?,
            release: stored.release.parse().field("release")?,
            previous: previous.map(str::parse).transpose().field("previous")?,
            policy: stored.policy.required("policy")?.try_into().map_err(within("policy"))?,
            seed: stored.seed,
            started_at: timestamp("started_unix_ms", stored.started_unix_ms)?,
            assignment: stored.assignment.required("assignment")?.into(),
            previous_assignment: stored.previous_assignment.required("previous_assignment")?.into(),
            generation: stored.generation.required("generation")?.into(),
            phase,
            paused_by: stored.paused_by,
            opened_to: stored.opened_to.map(Rank::new),
        })
    }
}

fn caused(back: v1::StoredRollback) -> Result<(Timestamp, RollbackCause), ConversionError> {
    let cause = match back.cause.required("cause")? {
        Cause::Gate(failure) => RollbackCause::Gate {
            wave: failure.wave,
            reading: failure
                .reading
                .required("gate.reading")?
                .try_into()
                .map_err(|error: ConversionError| error.within("gate.reading"))?,
        },
        Cause::DeadlineWave(wave) => RollbackCause::Deadline { wave },
        Cause::Operator(by) => RollbackCause::Operator { by },
    };
    Ok((timestamp("since_unix_ms", back.since_unix_ms)?, cause))
}

impl TryFrom<v1::StoredGateReading> for GateReading {
    type Error = ConversionError;

    fn try_from(stored: v1::StoredGateReading) -> Result<Self, ConversionError> {
        Ok(Self {
            gate: stored.gate.required("gate")?.try_into()?,
            value: stored.value,
            devices: stored.devices,
            samples: stored.samples,
            samples_needed: stored.samples_needed,
            sampled: match enumerated("sampled", stored.sampled)? {
                v1::Sampled::Devices => Sampled::Devices,
                v1::Sampled::Probes => Sampled::Probes,
                v1::Sampled::Requests => Sampled::Requests,
                v1::Sampled::Unspecified => return Err(ConversionError::new("sampled", "is unspecified")),
            },
            verdict: match enumerated("verdict", stored.verdict)? {
                v1::GateVerdict::Passed => GateVerdict::Passed,
                v1::GateVerdict::Failed => GateVerdict::Failed,
                v1::GateVerdict::Missing => GateVerdict::Missing,
                v1::GateVerdict::Unspecified => return Err(ConversionError::new("verdict", "is unspecified")),
            },
        })
    }
}
