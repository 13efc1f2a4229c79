//! Installing releases: the shell around [`fieldfare_fleet::install`], which makes every choice.

mod assign;
pub(crate) mod audited;
mod bytes;
mod context;
mod download;
mod kept;
mod look;
mod outage;
mod probes;
mod processes;
mod repository;
mod steps;
mod task;
mod trust;

pub(crate) use bytes::digest;
pub use bytes::{BytesError, Described, Shelf};
pub use download::Fetched;
pub use kept::{Standing, install_policy, standing};
pub use look::Looked;
pub use repository::{RemoteRepository, RepositoryError, Resolved};
pub(crate) use steps::load_order;
pub use task::{Desired, InstallError, Installer, Parts, View};
pub use trust::TrustFile;
