//! How work ends early, and what that means for the claim.

use std::error::Error;

pub use fieldfare_service::chain;
use tonic::Code;

use crate::compute::ComputeError;
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

    /// A computation without a result: one that panicked does so on every trainer, and is the job's end.
    pub(crate) fn computing(doing: &'static str) -> impl FnOnce(ComputeError) -> Self {
        move |error| match error {
            ComputeError::Panicked(_) => Self::Impossible(format!("{doing}: {error}")),
            ComputeError::Ended => Self::interrupted(doing)(error),
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

    #[tokio::test]
    async fn a_panic_ends_the_job_with_its_message() {
        let compute = crate::compute::Compute::new();
        let computed = compute.run(|_| -> () { panic!("capacity overflow") });
        let error = computed
            .await
            .map_err(WorkError::computing("answering the probes"))
            .unwrap_err();
        let WorkError::Impossible(reason) = error else {
            panic!("{error:?}")
        };
        assert!(
            reason.contains("answering the probes") && reason.contains("capacity overflow"),
            "{reason}"
        );
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let cut = told("ö".repeat(REASON_BYTES_MAX));
        assert!(cut.len() <= REASON_BYTES_MAX && cut.ends_with('ö'));
    }
}
