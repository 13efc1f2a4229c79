//! The state store: one contract, redb behind it.
//!
//! A [`Store`] maps [`Key`]s to bytes. Every [`Commit`] that changes something makes the next [`Revision`] of the whole
//! store; its conditions and writes on several keys hold together or not at all. A [`List`]ing shows one revision over
//! all its pages, and a [`Watch`] that starts after that revision tells every later change once and in order, or answers
//! [`WatchError::Compacted`]. Keys put under a [`Lease`] vanish with it.
//!
//! What is acknowledged is on disk. Values are opaque here.
//!
//! The contract says no more than etcd keeps as well: global revisions, transactions of comparisons and writes,
//! watches by prefix from a revision, leases of whole seconds. What etcd cannot compare, a lease's life, it compares
//! through a marker key attached to the lease, outside every [`Prefix`].
//! [`conformance`] (feature `conformance`) is the contract as tests, for each implementation to pass.
//!
//! ```ignore
//! let store = Store::open(path).await?;
//! let devices = Prefix::new("/v1/acme/devices/")?;
//! let entry = store.get(&devices.key("42")?).await?;
//! let listing = store.list_all(&devices).await?;
//! let mut watch = store.watch(&devices, listing.revision).await?;
//! let changes = watch.next().await?;
//! ```

mod commit;
#[cfg(feature = "conformance")]
pub mod conformance;
mod embedded;
mod entry;
mod error;
mod key;
pub mod limits;
mod list;
mod store;
mod watch;

pub use commit::{Commit, Condition, ConditionFailed, Outcome};
pub use embedded::Embedded;
pub use entry::{Entry, Lease, LeaseId, Revision};
pub use error::{CommitError, CompactError, LeaseError, ListError, OpenError, StoreError, WatchError};
pub use key::{Key, KeyError, Prefix};
pub use list::{Continuation, List, Listing, Page};
pub use store::Store;
pub use watch::{Change, Changes, Watch};
