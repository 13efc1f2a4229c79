//! What every service of the controller shares.

use std::sync::Arc;

use fieldfare_store::Location;
use fieldfare_tls::{DenyList, Endpoint, IdentityHandle, TimeSource};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Access;
use crate::audit::Audit;
use crate::authority::Authorities;
use crate::folder::Folder;
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::presence::Presence;
use crate::records::Records;
use crate::refusal::Refusal;
use crate::repository::ReleaseRepository;
use crate::repository::manifests::Manifests;

/// The control plane of one tenant, as one process has it.
#[derive(Debug)]
pub struct ControlPlane {
    /// Who may call what.
    pub access: Access,
    /// Where records lie.
    pub keys: Keys,
    /// The records in the store.
    pub records: Records,
    /// The records in memory.
    pub mirror: Arc<Mirror>,
    /// The clock.
    pub clock: TimeSource,
    /// What vouches for principals.
    pub authority: Authorities,
    /// Who this process is; it signs tickets.
    pub identity: IdentityHandle,
    /// Who is refused and cut off.
    pub deny: DenyList,
    /// The signed releases, and the blobs.
    pub releases: ReleaseRepository,
    /// Release manifests in memory.
    pub manifests: Manifests,
    /// Who is connected to this process, and since when it was silent.
    pub presence: Presence,
    /// Counters for `/metrics`.
    pub metrics: Metrics,
    /// The audit log.
    pub audit: Audit,
    /// Calls that change something, each of which goes on to its end whether or not its caller waits.
    pub calls: TaskTracker,
    /// Names this process among the replicas, from its start on.
    pub incarnation: String,
    /// Where others reach the gRPC services.
    pub grpc_endpoints: Vec<Endpoint>,
    /// Where others reach the artifact server.
    pub artifact_endpoint: Endpoint,
    /// Where the keys, the artifacts and perhaps the store lie.
    pub folder: Folder,
    /// Which store holds the records.
    pub location: Location,
    /// Ends every stream and task.
    pub shutdown: CancellationToken,
}

impl ControlPlane {
    /// Ends when the mirror shows everything that was committed before this call, so that a caller sees its own writes.
    pub async fn catch_up(&self) -> Result<(), Refusal> {
        self.mirror.reach(self.records.store().revision().await?).await;
        Ok(())
    }

    /// The time now, in milliseconds since 1970.
    pub fn unix_ms(&self) -> i64 {
        crate::clock::unix_ms(self.clock.now())
    }
}
