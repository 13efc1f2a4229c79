//! Health by gRPC: the process and each of its services serve until the process drains.

use fieldfare_proto::v1::device_gateway_server::DeviceGatewayServer;
use fieldfare_proto::v1::enrolment_server::EnrolmentServer;
use fieldfare_proto::v1::operator_server::OperatorServer;
use fieldfare_proto::v1::trainer_gateway_server::TrainerGatewayServer;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::enrolment::EnrolmentService;
use crate::gateway::DeviceGatewayService;
use crate::jobs::TrainerGatewayService;
use crate::operator::OperatorService;

/// The services; the one without a name is the process as a whole.
const SERVICES: [&str; 5] = [
    "",
    EnrolmentServer::<EnrolmentService>::NAME,
    DeviceGatewayServer::<DeviceGatewayService>::NAME,
    OperatorServer::<OperatorService>::NAME,
    TrainerGatewayServer::<TrainerGatewayService>::NAME,
];

/// The health service. When `stop` comes, every watch is told that nothing serves any more, and ends: it would hold up the drain.
pub(super) async fn service(stop: CancellationToken, tasks: &mut JoinSet<()>) -> HealthServer<impl Health> {
    let (mut reporter, service) = tonic_health::server::health_reporter();
    for name in SERVICES {
        reporter.set_service_status(name, ServingStatus::Serving).await;
    }
    tasks.spawn(async move {
        stop.cancelled().await;
        for name in SERVICES {
            reporter.set_service_status(name, ServingStatus::NotServing).await;
            reporter.clear_service_status(name).await;
        }
    });
    service
}
