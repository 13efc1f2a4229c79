//! A controller in the hands of an attacker: a genuine certificate, the real protocol over real TLS, and whatever a test has it say.

use std::pin::Pin;

use fieldfare_agent::clock;
use fieldfare_proto::PROTOCOL_VERSION;
use fieldfare_proto::v1::device_gateway_server::{DeviceGateway, DeviceGatewayServer};
use fieldfare_proto::v1::gateway_message::Message;
use fieldfare_proto::v1::{
    DesiredModel, DesiredState, DeviceMessage, GatewayMessage, Generation, ObservedModel, RefusalReason,
    RoundInvitation, Welcome, device_message, invitation_reply,
};
use fieldfare_tls::{Acceptor, AcceptorSettings, DenyList, Endpoint, IdentityHandle};
use futures_util::Stream;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::device::PATIENCE;
use crate::fleet::Fleet;
use crate::releases::{MODEL, Release, Releases, VARIANT};
use crate::session::DEPLOYMENT;

type Down = mpsc::Sender<Result<GatewayMessage, Status>>;

#[derive(Clone)]
struct Service {
    artifacts: String,
    session: watch::Sender<Option<Down>>,
    heard: watch::Sender<Vec<RefusalReason>>,
    observed: watch::Sender<ObservedModel>,
}

pub(crate) struct Gateway {
    pub(crate) endpoint: Endpoint,
    session: watch::Receiver<Option<Down>>,
    heard: watch::Receiver<Vec<RefusalReason>>,
    observed: watch::Receiver<ObservedModel>,
}

fn down(message: Message) -> GatewayMessage {
    GatewayMessage { message: Some(message) }
}

#[tonic::async_trait]
impl DeviceGateway for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<GatewayMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<DeviceMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (sender, receiver) = mpsc::channel(16);
        let welcome = Welcome {
            protocol_version: PROTOCOL_VERSION,
            features: Vec::new(),
            session_fence: 1,
            heartbeat_interval_ms: 1000,
            artifact_endpoint: self.artifacts.clone(),
            server_unix_ms: i64::try_from(clock::now().unix_ms()).unwrap(),
        };
        sender.send(Ok(down(Message::Welcome(welcome)))).await.unwrap();
        self.session.send_replace(Some(sender));
        let (heard, observed, mut messages) = (self.heard.clone(), self.observed.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                match message.message {
                    Some(device_message::Message::InvitationReply(reply)) => {
                        if let Some(invitation_reply::Reply::Refused(refused)) = reply.reply {
                            heard.send_modify(|heard| heard.push(refused.reason()));
                        }
                    }
                    Some(device_message::Message::Observed(state)) => {
                        observed.send_replace(state.models.into_iter().next().unwrap_or_default());
                    }
                    _ => {}
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Gateway {
    /// Listens as the fleet's controller, and sends devices to these releases.
    pub(crate) async fn start(fleet: &Fleet, releases: &Releases) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::new("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
        let handle = IdentityHandle::new(fleet.controller());
        let settings = AcceptorSettings::enrolled_only(handle, DenyList::default(), clock::time_source());
        let acceptor = Acceptor::new(listener, settings).unwrap();
        let service = Service {
            artifacts: releases.endpoint.to_string(),
            session: watch::Sender::new(None),
            heard: watch::Sender::new(Vec::new()),
            observed: watch::Sender::new(ObservedModel::default()),
        };
        let (session, heard) = (service.session.subscribe(), service.heard.subscribe());
        let observed = service.observed.subscribe();
        let server = tonic::transport::Server::builder()
            .add_service(DeviceGatewayServer::new(service))
            .serve_with_incoming(acceptor);
        tokio::spawn(async { server.await.unwrap() });
        Self {
            endpoint,
            session,
            heard,
            observed,
        }
    }

    /// Says something to the device, once it is there and takes it.
    pub(crate) async fn say(&self, message: Message) {
        let mut session = self.session.clone();
        let there = timeout(PATIENCE, session.wait_for(Option::is_some)).await;
        let sender = there.expect("a session").unwrap().clone().unwrap();
        let taken = timeout(PATIENCE, sender.send(Ok(down(message)))).await;
        taken.expect("the device takes it").unwrap();
    }

    pub(crate) async fn invite(&self, invitation: RoundInvitation) {
        self.say(Message::Invitation(invitation)).await;
    }

    /// Tells the device to run a release.
    pub(crate) async fn assign(&self, release: &Release, counter: u64) {
        let generation = Some(Generation { epoch: 1, counter });
        let model = DesiredModel {
            deployment: DEPLOYMENT.into(),
            model: MODEL.into(),
            generation,
            manifest_target: release.name.to_string(),
            variant: VARIANT.into(),
        };
        let models = vec![model];
        self.say(Message::Desired(DesiredState { generation, models })).await;
    }

    /// Waits until the device says that it runs a release: it has it for good then.
    pub(crate) async fn is_run(&self, release: &Release) {
        let runs = |model: &ObservedModel| model.running_release == release.text();
        let mut observed = self.observed.clone();
        let run = timeout(PATIENCE, observed.wait_for(runs)).await;
        run.expect("the device runs it").unwrap();
    }

    /// Waits until the device works on an assignment.
    pub(crate) async fn is_heard(&self, counter: u64) {
        let heard = |model: &ObservedModel| model.generation.is_some_and(|generation| generation.counter == counter);
        let mut observed = self.observed.clone();
        let heard = timeout(PATIENCE, observed.wait_for(heard)).await;
        heard.expect("the device hears it").unwrap();
    }

    /// Waits until so many invitations were refused, and gives the reasons that left the device.
    pub(crate) async fn refused(&self, count: usize) -> Vec<RefusalReason> {
        let mut heard = self.heard.clone();
        let refused = timeout(PATIENCE, heard.wait_for(|heard| heard.len() >= count)).await;
        refused.expect("refusals").unwrap().clone()
    }
}
