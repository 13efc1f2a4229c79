//! Servers for the tests: tonic's health service and an axum router, both telling their caller whom they see.

use std::future::pending;
use std::pin::Pin;

use futures_util::stream::{Stream, StreamExt, once};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::test_fleet::{Clock, Fleet};
use crate::{
    Acceptor, AcceptorSettings, DenyList, Endpoint, ExpectedServer, Identity, IdentityHandle, Link, PeerIdentity,
    ServerTrust, connect,
};

/// What a server says of its caller.
pub(super) fn describe(peer: &PeerIdentity) -> String {
    match peer.principal() {
        Ok(principal) => principal.to_string(),
        Err(error) => error.to_string(),
    }
}

struct WhoAmI;

fn reply() -> HealthCheckResponse {
    HealthCheckResponse { status: 1 }
}

#[tonic::async_trait]
impl Health for WhoAmI {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let peer = request.extensions().get::<PeerIdentity>().unwrap();
        let mut response = Response::new(reply());
        response.metadata_mut().insert("peer", describe(peer).parse().unwrap());
        let binding = format!("{:02x?}", peer.channel_binding().as_bytes());
        response.metadata_mut().insert("binding", binding.parse().unwrap());
        Ok(response)
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// One message, and then silence for ever.
    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(Box::pin(
            once(async { Ok(reply()) }).chain(once(pending())),
        )))
    }
}

/// A running gRPC server; stops with it.
pub(super) struct Running {
    pub(super) endpoint: Endpoint,
    pub(super) counters: std::sync::Arc<crate::HandshakeCounters>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) async fn acceptor(settings: AcceptorSettings) -> Acceptor {
    Acceptor::new(TcpListener::bind("127.0.0.1:0").await.unwrap(), settings).unwrap()
}

pub(super) async fn serve(settings: AcceptorSettings) -> Running {
    let acceptor = acceptor(settings).await;
    let (endpoint, counters) = (acceptor.local_addr().into(), acceptor.counters());
    let server = Server::builder()
        .add_service(HealthServer::new(WhoAmI))
        .serve_with_incoming(acceptor);
    Running {
        endpoint,
        counters,
        task: tokio::spawn(async { server.await.unwrap() }),
    }
}

/// A fleet with a controller, its clock and its deny-list.
pub(super) struct Scene {
    pub(super) fleet: Fleet,
    pub(super) clock: Clock,
    pub(super) deny: DenyList,
}

impl Scene {
    pub(super) fn new() -> Self {
        Self {
            fleet: Fleet::new(),
            clock: Clock::new(),
            deny: DenyList::default(),
        }
    }

    pub(super) fn settings(&self) -> AcceptorSettings {
        let identity = IdentityHandle::new(self.fleet.controller());
        AcceptorSettings::new(identity, self.deny.clone(), self.clock.source())
    }

    pub(super) fn trust(&self) -> ServerTrust {
        ServerTrust::Authorities {
            bundle: self.fleet.bundle(),
            expected: ExpectedServer::Controller,
        }
    }

    pub(super) async fn link(&self, running: &Running, identity: Option<&Identity>) -> Link {
        let handle = identity.cloned().map(IdentityHandle::new);
        connect(&running.endpoint, handle.as_ref(), &self.trust(), &self.clock.source())
            .await
            .unwrap()
    }
}

/// Whom the server sees, and the binding it sees.
pub(super) async fn who_am_i(link: &Link) -> Result<(String, String), Status> {
    let response = HealthClient::new(link.channel())
        .check(HealthCheckRequest::default())
        .await?;
    let text = |key| response.metadata().get(key).unwrap().to_str().unwrap().to_owned();
    Ok((text("peer"), text("binding")))
}
