//! The controller that serves from a folder, asked by another process on the same machine.

use anyhow::{Context, Result};
use fieldfare_fleet::TenantName;
use fieldfare_proto::v1::operator_client::OperatorClient;
use fieldfare_tls::{
    Endpoint, ExpectedServer, IdentityHandle, OperatorName, Principal, PrivateKey, ServerTrust, TimeSource, TrustDomain,
};
use tonic::transport::Channel;

use crate::authority::Authorities;
use crate::folder::{EndpointsFile, FleetFile, Folder, read};
use crate::init::identity;
use crate::limits::MESSAGE_BYTES_MAX;

/// The operator as whom this machine asks its own controller, by a certificate that it makes for that moment.
const OPERATOR: &str = "local";

/// The controller that serves from this folder. Whoever can read the authority's key may ask it for everything.
///
/// # Errors
/// The folder cannot be read, or nobody answers where its controller listened last.
pub(crate) async fn controller(
    folder: &Folder,
    fleet: &FleetFile,
    clock: &TimeSource,
) -> Result<OperatorClient<Channel>> {
    let path = folder.endpoints();
    let endpoints: EndpointsFile =
        serde_json::from_str(&read(&path)?).with_context(|| format!("reading {}", path.display()))?;
    let authority = Authorities::load(folder)?;
    let principal = Principal::operator(
        TrustDomain::new(fleet.domain.as_str())?,
        TenantName::new(fleet.tenant.as_str())?,
        OperatorName::new(OPERATOR)?,
    );
    let identity = identity(&authority, PrivateKey::generate()?, &principal, &[], clock)?;
    let trust = ServerTrust::by(&identity, ExpectedServer::Controller);
    let handle = IdentityHandle::new(identity);
    let told: Endpoint = endpoints.grpc.parse()?;
    // It may be known to others under a name that means nothing here.
    let here = Endpoint::new("127.0.0.1", told.port())?;
    let link = match fieldfare_tls::connect(&here, Some(&handle), &trust, clock).await {
        Ok(link) => link,
        Err(_) => fieldfare_tls::connect(&told, Some(&handle), &trust, clock).await?,
    };
    Ok(OperatorClient::new(link.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX))
}
