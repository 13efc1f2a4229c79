//! How work ends early, and what that means for the claim.

use std::error::Error;

pub use fieldfare_service::chain;
use tonic::Code;

use crate::gateway::CallError;
use crate::limits::REASON_BYTES_MAX;

/// Why a job was not carried through.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// Another trainer has the job: nothing more may be done or said about it.
    #[error("another trainer has taken the job over")]
    Superseded,
    /// The operator cancelled the job.
    #[error("the operator cancelled the job")]
    Cancelled,
    /// This trainer cannot go on for reasons that have nothing to do with the job; another, or this one later, can.
    #[error("{doing}")]
    Interrupted {
        /// What it was doing.
        doing: &'static str,
        /// What went wrong.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The job can never succeed as it is.
    #[error("{0}")]
    Impossible(String),
}

impl WorkError {
    /// An interruption while doing something.
    pub(crate) fn interrupted<E: Into<Box<dyn Error + Send + Sync>>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Interrupted {
            doing,
            source: source.into(),
        }
    }

    /// The job is at fault; says what about it and why.
    pub(crate) fn impossible<E: Error>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |error| Self::Impossible(format!("{what}: {}", chain(&error)))
    }
}

impl From<CallError> for WorkError {
    fn from(error: CallError) -> Self {
        match error.status.code() {
            Code::Aborted => Self::Superseded,
            Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound | Code::AlreadyExists => {
                Self::Impossible(chain(&error))
            }
            _ => Self::Interrupted {
                doing: "calling the controller",
                source: Box::new(error),
            },
        }
    }
}

/// A reason as it is told to the controller: bounded.
pub(crate) fn told(mut reason: String) -> String {
    if reason.len() > REASON_BYTES_MAX {
        let end = (0..=REASON_BYTES_MAX)
            .rev()
            .find(|end| reason.is_char_boundary(*end))
            .unwrap_or(0);
        reason.truncate(end);
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Status;

    #[test]
    fn the_controllers_answer_decides_what_becomes_of_the_claim() {
        let of = |code| {
            WorkError::from(CallError {
                call: "Checkpoint",
                status: Status::new(code, "no"),
            })
        };
        assert!(matches!(of(Code::Aborted), WorkError::Superseded));
        assert!(matches!(of(Code::Unavailable), WorkError::Interrupted { .. }));
        assert!(matches!(of(Code::PermissionDenied), WorkError::Interrupted { .. }));
        assert!(matches!(of(Code::InvalidArgument), WorkError::Impossible(reason) if reason.contains("Checkpoint")));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let cut = told("ö".repeat(REASON_BYTES_MAX));
        assert!(cut.len() <= REASON_BYTES_MAX && cut.ends_with('ö'));
    }
}
