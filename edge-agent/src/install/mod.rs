//! Installing releases: the shell around [`fieldfare_fleet::install`], which makes every choice.

mod assign;
mod bytes;
mod kept;
mod probes;
mod repository;
mod steps;
mod task;

pub(crate) use bytes::digest;
pub use bytes::{BytesError, Described, Shelf};
pub use kept::install_policy;
pub use repository::{Fetched, RemoteRepository, RepositoryError, Resolved};
pub use task::{Desired, InstallError, Installer, Parts, View};
