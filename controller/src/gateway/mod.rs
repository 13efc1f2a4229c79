//! Device sessions: one stream per device, on which desired state goes down and observed state comes up.

mod invitations;
mod observed;
mod session;

use std::sync::Arc;

use fieldfare_proto::v1::device_gateway_server::DeviceGateway;
use fieldfare_proto::v1::{ComeBack, DeviceMessage, GatewayMessage, gateway_message};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::clock::jitter;
use crate::limits::{COME_BACK_FULL_MAX, SESSION_QUEUE, SESSIONS_MAX};
use crate::plane::ControlPlane;

pub use invitations::sign_ticket;
pub(crate) use observed::is_connected;

/// The DeviceGateway service.
#[derive(Clone, Debug)]
pub struct DeviceGatewayService {
    plane: Arc<ControlPlane>,
    room: Arc<Semaphore>,
}

impl DeviceGatewayService {
    /// Serves the devices of this control plane.
    pub fn new(plane: Arc<ControlPlane>) -> Self {
        Self {
            plane,
            room: Arc::new(Semaphore::new(SESSIONS_MAX)),
        }
    }
}

/// Sends a device away for a random part of a time, so that those sent away together come back apart.
fn come_back(most: std::time::Duration, reason: &str) -> GatewayMessage {
    let after_ms = u32::try_from(jitter(most).as_millis()).unwrap_or(u32::MAX);
    let come_back = ComeBack {
        after_ms,
        endpoint: String::new(),
        reason: reason.to_owned(),
    };
    GatewayMessage {
        message: Some(gateway_message::Message::ComeBack(come_back)),
    }
}

#[tonic::async_trait]
impl DeviceGateway for DeviceGatewayService {
    type SessionStream = ReceiverStream<Result<GatewayMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<DeviceMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        // A device that has just enrolled is in the store; here it may take a moment.
        self.plane.catch_up().await?;
        let peer = crate::access::peer(request.extensions())?.clone();
        let device = self.plane.access.device(request.extensions(), &self.plane.mirror)?;
        let (answers, stream) = mpsc::channel(SESSION_QUEUE);
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            // The queue is new and empty.
            let _ = answers.try_send(Ok(come_back(
                COME_BACK_FULL_MAX,
                "this controller has all the sessions that it can hold",
            )));
            return Ok(Response::new(ReceiverStream::new(stream)));
        };
        let plane = Arc::clone(&self.plane);
        let incoming = request.into_inner();
        tokio::spawn(async move {
            let _permit = permit;
            session::serve(plane, peer, device, incoming, answers).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
