//! Health and reflection over TLS, as a load balancer and a generic gRPC client use them.

use fieldfare_controller_peers::{Fleet, PATIENCE, refusal};
use prost::Message;
use prost_types::FileDescriptorProto;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

const SERVICES: [&str; 4] = [
    "fieldfare.v1.DeviceGateway",
    "fieldfare.v1.Enrolment",
    "fieldfare.v1.Operator",
    "fieldfare.v1.TrainerGateway",
];

#[tokio::test]
async fn every_service_says_that_it_serves_and_a_stranger_may_ask() {
    let fleet = Fleet::start().await;
    // A load balancer has no certificate of the fleet.
    let mut health = HealthClient::new(fleet.stranger().await);
    let check = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    for service in SERVICES.into_iter().chain([""]) {
        let answer = health.check(check(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let (code, _) = refusal(health.check(check("fieldfare.v1.Nothing")).await);
    assert_eq!(code, Code::NotFound);

    // Whoever watches is told at once, and hears of the end before the connection does.
    let mut watch = health.watch(check("fieldfare.v1.Operator")).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    let last = async {
        let mut last = first.status();
        while let Ok(Some(answer)) = watch.message().await {
            last = answer.status();
        }
        last
    };
    let ((), last) = tokio::join!(fleet.stop(), async {
        tokio::time::timeout(PATIENCE, last).await.unwrap()
    });
    assert_eq!(last, ServingStatus::NotServing);
}

/// One question by reflection.
async fn reflected(channel: Channel, question: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(question),
    };
    let answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(request))
        .await;
    let answer: Option<Result<ServerReflectionResponse, _>> = answers.unwrap().into_inner().next().await;
    answer.unwrap().unwrap().message_response.unwrap()
}

#[tokio::test]
async fn reflection_describes_every_service() {
    let fleet = Fleet::start().await;
    let channel = fleet.channel(&fleet.operator).await;
    let listed = reflected(channel.clone(), MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(listed) = listed else {
        panic!("no list: {listed:?}")
    };
    let names: Vec<&str> = listed.service.iter().map(|service| service.name.as_str()).collect();
    for service in SERVICES {
        assert!(names.contains(&service), "{service} is not in {names:?}");
        let symbol = MessageRequest::FileContainingSymbol(service.to_owned());
        let found = reflected(channel.clone(), symbol).await;
        let MessageResponse::FileDescriptorResponse(files) = found else {
            panic!("{service}: {found:?}")
        };
        let described = files.file_descriptor_proto.iter().any(|bytes| {
            let file = FileDescriptorProto::decode(bytes.as_slice()).unwrap();
            let package = file.package().to_owned();
            let mut services = file.service.iter();
            services.any(|found| format!("{package}.{}", found.name()) == service && !found.method.is_empty())
        });
        assert!(described, "{service}");
    }
    let unknown = MessageRequest::FileContainingSymbol("fieldfare.v1.Nothing".to_owned());
    let refused = tokio::spawn(async move {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(unknown),
        };
        let answers = ServerReflectionClient::new(channel)
            .server_reflection_info(tokio_stream::once(request))
            .await;
        answers.unwrap().into_inner().next().await.unwrap()
    });
    let (code, _) = refusal(refused.await.unwrap());
    assert_eq!(code, Code::NotFound);
    fleet.stop().await;
}
