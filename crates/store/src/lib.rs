//! The state store: one contract, redb or etcd behind it.
//!
//! A [`Store`] maps [`Key`]s to bytes. Every [`Commit`] that changes something makes a new [`Revision`] of the whole
//! store, later than all before; its conditions and writes on several keys hold together or not at all. A [`List`]ing
//! shows one revision over all its pages, and a [`Watch`] that starts after that revision tells every later change once and in
//! order, or answers [`WatchError::Compacted`]. Keys put under a [`Lease`] vanish with it.
//!
//! What is acknowledged is on disk. Values are opaque here.
//!
//! The contract says no more than both implementations keep: global revisions (with gaps, since others may share an etcd),
//! transactions of comparisons and writes, watches by prefix from a revision, leases of whole seconds. What etcd
//! cannot compare, a lease's life, it compares through a marker key attached to the lease, outside every [`Prefix`]. What a
//! network adds, the commit whose answer is lost, is not in the contract: each commit leaves a mark in its own transaction, by
//! which its outcome is learnt. Only where etcd answers nothing for [`limits::ETCD_ANSWER_BUDGET`] does a commit end in an error,
//! and then it is not known whether it happened.
//!
//! [`conformance`] (feature `conformance`) is the contract as tests, for each implementation to pass.
//!
//! ```ignore
//! let store = Store::open(&"redb:/var/lib/fieldfare/store.redb".parse()?).await?;
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
mod etcd;
mod key;
pub mod limits;
mod list;
mod location;
mod store;
mod watch;

pub use commit::{Commit, Condition, ConditionFailed, Outcome};
pub use embedded::Embedded;
pub use entry::{Entry, Lease, LeaseId, Revision};
pub use error::{CommitError, CompactError, LeaseError, ListError, OpenError, StoreError, WatchError};
pub use etcd::Etcd;
pub use key::{Key, KeyError, Prefix};
pub use list::{Continuation, List, Listing, Page};
pub use location::{EtcdLocation, Location, LocationError};
pub use store::Store;
pub use watch::{Change, Changes, Watch};
