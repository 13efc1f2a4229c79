//! Serving: a process with one engine, and the agent's side of it.

mod child;
mod engine;
pub(crate) mod evaluate;
pub mod protocol;

pub use child::{ChildError, serve};
pub use engine::{Engine, Piece, Request, RequestError, StartError};

use std::sync::Arc;

use fieldfare_fleet::install::Installed;
use fieldfare_release::{ReleaseManifest, Sha256Digest, TargetName};
use tokio::sync::watch;

/// A release that serves.
#[derive(Debug)]
pub struct Served {
    /// The process.
    pub engine: Engine,
    /// What is installed.
    pub installed: Installed,
    /// The manifest's name in the repository.
    pub manifest_target: TargetName,
    /// The manifest.
    pub manifest: ReleaseManifest,
    /// Digest of the weights.
    pub weights: Sha256Digest,
    /// Digest of the adapter, if there is one.
    pub adapter: Option<Sha256Digest>,
}

/// What serves now, for all who ask; nothing before the first release.
pub type Serving = watch::Receiver<Option<Arc<Served>>>;
