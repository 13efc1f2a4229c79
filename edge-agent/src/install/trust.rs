//! What the device trusts of the release repository: one file, which protects from going back to older metadata.

use std::path::PathBuf;
use std::sync::Arc;

use fieldfare_files::{self as files, FileError, Secrecy};
use fieldfare_release::tuf::{TrustError, TrustedState};
use tokio::sync::{Mutex, MutexGuard};

/// Why what is trusted cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeptTrustError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// Owns the file of the trusted state. Look-ups overlap, and each reads the state, learns from the server and writes the state
/// back: they take turns, so that none writes back what another one has outgrown.
#[derive(Clone, Debug)]
pub struct TrustFile {
    path: PathBuf,
    turn: Arc<Mutex<()>>,
}

impl TrustFile {
    /// The file at this path. A folder has one owner of its trusted state, and this is cloned from it.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            turn: Arc::default(),
        }
    }

    /// Waits for the turn to change what is trusted.
    pub(super) async fn turn(&self) -> TrustTurn<'_> {
        TrustTurn {
            path: &self.path,
            _turn: self.turn.lock().await,
        }
    }
}

/// The turn of one look-up: nobody else reads or writes the state until this is dropped.
#[derive(Debug)]
pub(super) struct TrustTurn<'a> {
    path: &'a PathBuf,
    _turn: MutexGuard<'a, ()>,
}

impl TrustTurn<'_> {
    /// What is trusted so far; nothing before the first look-up.
    pub(super) fn read(&self) -> Result<Option<TrustedState>, KeptTrustError> {
        let bytes = files::read(self.path)?;
        Ok(bytes.map(|bytes| TrustedState::from_bytes(&bytes)).transpose()?)
    }

    /// Keeps what is trusted now: learnt from what [`Self::read`] gave in this same turn.
    pub(super) fn keep(&self, state: &TrustedState) -> Result<(), FileError> {
        files::replace(self.path, &state.to_bytes(), Secrecy::Secret)?;
        fieldfare_crash::point("agent.trust.persisted");
        Ok(())
    }
}
