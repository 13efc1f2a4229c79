//! The agent's folder: where everything lies.

use std::path::{Path, PathBuf};

use fieldfare_files::{FileError, Secrecy, make_folder};

/// Where everything of one agent lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at a path, which need not exist yet. Children have another working directory: the path is made absolute.
    pub fn new(path: &Path) -> Self {
        Self(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the folder, for its owner alone.
    ///
    /// # Errors
    /// The system refuses.
    pub fn create(&self) -> Result<(), FileError> {
        make_folder(&self.0, Secrecy::Secret)?;
        make_folder(&self.blobs(), Secrecy::Secret)?;
        make_folder(&self.manifests(), Secrecy::Secret)
    }

    /// Key, chain and authorities.
    pub fn identity(&self) -> PathBuf {
        self.0.join("identity")
    }

    /// What enrolment fixed.
    pub fn config(&self) -> PathBuf {
        self.0.join("agent.json")
    }

    /// What the owner may change while the agent runs.
    pub fn settings(&self) -> PathBuf {
        self.0.join("settings.json")
    }

    /// What is trusted of the release repository.
    pub fn trusted_state(&self) -> PathBuf {
        self.0.join("trusted-state.json")
    }

    /// The state of the installation.
    pub fn installation(&self) -> PathBuf {
        self.0.join("installation.json")
    }

    /// Artifacts by digest.
    pub fn blobs(&self) -> PathBuf {
        self.0.join("releases").join("blobs")
    }

    /// Release manifests by digest.
    pub fn manifests(&self) -> PathBuf {
        self.0.join("releases").join("manifests")
    }

    /// Examples, ledger and contributions.
    pub fn private_store(&self) -> PathBuf {
        self.0.join("private.redb")
    }

    /// The audit log, to be copied as it is.
    pub fn audit(&self) -> PathBuf {
        self.0.join("audit")
    }

    /// Where a damaged audit log is set aside, counted from 1 to [`AUDIT_LOGS_KEPT`](crate::limits::AUDIT_LOGS_KEPT).
    pub fn damaged_audit(&self, number: usize) -> PathBuf {
        self.0.join(format!("audit.damaged-{number}"))
    }

    /// The private key of the audit log.
    pub fn audit_key(&self) -> PathBuf {
        self.0.join("audit-key.pem")
    }

    /// The bearer token of the local API.
    pub fn api_token(&self) -> PathBuf {
        self.0.join("api-token")
    }

    /// Where the local API listens, written when it does.
    pub fn endpoints(&self) -> PathBuf {
        self.0.join("endpoints.json")
    }
}
