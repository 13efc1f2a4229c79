//! Why a request is not carried out, and the one place where that becomes a gRPC status.

use std::fmt::Display;

use fieldfare_audit::writer::Unwritten;
use fieldfare_proto::ConversionError;
pub use fieldfare_service::chain;
use fieldfare_store::{CommitError, Key, LeaseError, ListError, StoreError, WatchError};
use tonic::{Code, Status};

/// Why a request is not carried out. The text tells the caller what was wrong and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A field of the request has a value that it must not have.
    #[error("{field}: {expected}")]
    Invalid {
        /// The path of the field, as in the `.proto` files.
        field: String,
        /// What is wrong and what is expected.
        expected: String,
    },
    /// What the request names does not exist.
    #[error("{what} {name:?} does not exist")]
    Missing {
        /// The kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// What the request would create exists, and differs.
    #[error("{what} {name:?} exists already")]
    Exists {
        /// The kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The request is right, and the state of things forbids it now.
    #[error("{0}")]
    Unready(String),
    /// The caller did not say who it is.
    #[error("{0}")]
    Anonymous(String),
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// The caller's claim, session or expected generation is no longer the current one.
    #[error("{0}")]
    Stale(String),
    /// A limit is reached.
    #[error("{0}")]
    Full(String),
    /// Others changed the same records at the same time, again and again. The caller tries again.
    #[error("{what} changed too often meanwhile: try again")]
    Contended {
        /// What was being changed.
        what: &'static str,
    },
    /// The caller took too long.
    #[error("{0}")]
    TooLate(String),
    /// The caller does not read what it is sent.
    #[error("{0}")]
    Unread(String),
    /// The process is ending.
    #[error("the controller is shutting down: connect again")]
    ShuttingDown,
    /// A stored record cannot be read: the store belongs to a newer version, or is damaged.
    #[error("the record {key} cannot be read")]
    Undecodable {
        /// Where it lies.
        key: Key,
        /// What the decoder says.
        source: prost::DecodeError,
    },
    /// The store failed. The outcome of a write is unknown.
    #[error("the state store failed")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It could not be written into the audit log, and was not done for that.
    #[error("nothing is done that cannot be logged")]
    Unrecorded(#[source] Unwritten),
    /// Something of the controller's own failed.
    #[error("{doing} failed")]
    Broken {
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Refusal {
    /// A field of the request has a value that it must not have.
    pub fn invalid(field: impl Display, expected: impl Display) -> Self {
        Self::Invalid {
            field: field.to_string(),
            expected: expected.to_string(),
        }
    }

    /// What the request names does not exist.
    pub fn missing(what: &'static str, name: impl Display) -> Self {
        Self::Missing {
            what,
            name: name.to_string(),
        }
    }

    /// Something of the controller's own failed.
    pub fn broken(doing: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Broken {
            doing,
            source: source.into(),
        }
    }

    /// Whether the caller is to blame, and not the controller or the time.
    pub(crate) const fn is_the_callers(&self) -> bool {
        match self {
            Self::Invalid { .. }
            | Self::Missing { .. }
            | Self::Exists { .. }
            | Self::Anonymous(_)
            | Self::Forbidden(_)
            | Self::Stale(_)
            | Self::TooLate(_)
            | Self::Unread(_) => true,
            Self::Unready(_)
            | Self::Full(_)
            | Self::Contended { .. }
            | Self::ShuttingDown
            | Self::Undecodable { .. }
            | Self::Store(_)
            | Self::Unrecorded(_)
            | Self::Broken { .. } => false,
        }
    }

    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Invalid { .. } => Code::InvalidArgument,
            Self::Missing { .. } => Code::NotFound,
            Self::Exists { .. } => Code::AlreadyExists,
            Self::Unready(_) => Code::FailedPrecondition,
            Self::Anonymous(_) => Code::Unauthenticated,
            Self::Forbidden(_) => Code::PermissionDenied,
            Self::Stale(_) | Self::Contended { .. } => Code::Aborted,
            Self::Full(_) | Self::Unread(_) => Code::ResourceExhausted,
            Self::TooLate(_) => Code::DeadlineExceeded,
            Self::ShuttingDown | Self::Store(_) | Self::Unrecorded(_) => Code::Unavailable,
            Self::Undecodable { .. } | Self::Broken { .. } => Code::Internal,
        }
    }
}

impl From<Refusal> for Status {
    /// The status of every service. What is the controller's own fault is logged here, once, and told without its causes.
    fn from(refusal: Refusal) -> Self {
        let code = refusal.code();
        if matches!(
            refusal,
            Refusal::Undecodable { .. } | Refusal::Broken { .. } | Refusal::Store(_) | Refusal::Unrecorded(_)
        ) {
            tracing::error!(error = chain(&refusal), "a request failed");
            return Status::new(code, refusal.to_string());
        }
        Status::new(code, chain(&refusal))
    }
}

macro_rules! store_errors {
    ($($error:ty),*) => {$(
        impl From<$error> for Refusal {
            fn from(error: $error) -> Self {
                Self::Store(Box::new(error))
            }
        }
    )*};
}

impl From<ConversionError> for Refusal {
    fn from(error: ConversionError) -> Self {
        Self::Invalid {
            field: error.field,
            expected: error.reason,
        }
    }
}

store_errors!(StoreError, CommitError, ListError, WatchError, LeaseError);

impl From<crate::clock::NoRandomness> for Refusal {
    fn from(error: crate::clock::NoRandomness) -> Self {
        Self::broken("drawing random bytes", error)
    }
}
