//! etcd behind the contract: one transaction for each commit, one range for each page, one stream for each watcher.
//!
//! Absences: no answer of a single server stands for the cluster's; no request is repeated that may happen twice; nothing is
//! known here that etcd does not keep, so that any number of processes share a store.

mod call;
mod commit;
mod connect;
mod follow;
mod identity;
mod layout;
mod lease;
mod read;
mod session;
mod watcher;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use etcd_client::{KvClient, LeaseClient};
use tokio::sync::{Semaphore, watch};

use crate::limits::{ETCD_ANSWER_BUDGET, ETCD_ANSWER_BYTES_MAX, ETCD_COMMITS_MAX, ETCD_OPEN_BUDGET};
use crate::location::EtcdLocation;
use crate::{Location, OpenError, Prefix, Revision, StoreError, WatchError};
use call::{Calls, Fault};
use connect::Connector;
use follow::Source;
use layout::Layout;
use session::Sessions;
pub(crate) use watcher::Watcher;

/// A handle of a store in etcd, behind [`crate::Store::Etcd`].
#[derive(Clone)]
pub struct Etcd(Arc<Shared>);

struct Shared {
    location: EtcdLocation,
    layout: Layout,
    kv: KvClient,
    leases: LeaseClient,
    calls: Calls,
    sessions: Sessions,
    /// One permit for each commit under way.
    commits: Semaphore,
    /// The number of the newest commit.
    marks: AtomicU64,
    source: Source,
    /// Its receivers end with it: the watchers of a store that was dropped.
    closed: watch::Sender<bool>,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Etcd({})", self.0.location)
    }
}

impl Etcd {
    pub(crate) async fn open(location: &EtcdLocation) -> Result<Etcd, OpenError> {
        let place = || Location::Etcd(Box::new(location.clone()));
        let connector = Connector::new(location).await?;
        let client = connector.client().await.map_err(|error| OpenError::Etcd {
            place: place(),
            source: Box::new(Fault::from(error)),
        })?;
        let (closed, closing) = watch::channel(false);
        let layout = Layout::new(&location.prefix);
        let kv = client.kv_client().max_decoding_message_size(ETCD_ANSWER_BYTES_MAX);
        let opening = Calls::new(ETCD_OPEN_BUDGET, closing.clone());
        identity::identify(&opening, &kv, &layout, place).await?;
        Ok(Etcd(Arc::new(Shared {
            location: location.clone(),
            source: Source::new(connector, layout.clone(), closing.clone()),
            layout,
            kv,
            leases: client.lease_client(),
            calls: Calls::new(ETCD_ANSWER_BUDGET, closing),
            sessions: Sessions::default(),
            commits: Semaphore::new(ETCD_COMMITS_MAX),
            marks: AtomicU64::new(0),
            closed,
        })))
    }

    pub(crate) async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watcher, WatchError> {
        Watcher::start(&self.0.calls, self.0.source.clone(), prefix.clone(), after).await
    }

    /// Commits under way end with the attempt that they are at.
    pub(crate) async fn close(self) -> Result<(), StoreError> {
        let first = self
            .0
            .closed
            .send_if_modified(|closed| !std::mem::replace(closed, true));
        if !first {
            return Err(StoreError::Closed);
        }
        let _all = self.0.commits.acquire_many(ETCD_COMMITS_MAX as u32).await;
        self.0.commits.close();
        self.end_session().await;
        Ok(())
    }

    /// A number that no other commit of this handle has.
    fn next_mark(&self) -> u64 {
        self.0.marks.fetch_add(1, Ordering::Relaxed) + 1
    }
}
