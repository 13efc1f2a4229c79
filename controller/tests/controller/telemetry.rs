//! What the real process exports by OTLP, to a receiver that speaks the collector's protocol.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use fieldfare_proto::v1::ListTokensRequest;
use fieldfare_proto::v1::operator_client::OperatorClient;
use fieldfare_tls::{Endpoint, ExpectedServer, Identity, IdentityHandle, ServerTrust};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::metrics::v1::{metric, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use fieldfare_controller_peers::PATIENCE;

/// One export, of either kind.
enum Export {
    Traces(ExportTraceServiceRequest),
    Metrics(ExportMetricsServiceRequest),
}

#[derive(Clone)]
struct Receiver(mpsc::Sender<Export>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.try_send(Export::Traces(request.into_inner())).unwrap();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.0.try_send(Export::Metrics(request.into_inner())).unwrap();
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// A collector, and where it listens.
async fn collector() -> (mpsc::Receiver<Export>, String) {
    let (sender, exports) = mpsc::channel(1024);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let receiver = Receiver(sender);
    let server = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(receiver.clone()))
        .add_service(MetricsServiceServer::new(receiver))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    (exports, endpoint)
}

/// The real process, with a fleet of its own.
struct Process {
    folder: tempfile::TempDir,
    child: Child,
}

impl Process {
    /// Makes a fleet and serves it on free ports; ends when it is ready.
    async fn start(otlp: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().to_str().unwrap();
        let made = Self::command(&format!("init --dir {dir}")).output().await.unwrap();
        assert!(made.status.success(), "{made:?}");
        let ports = ["grpc", "artifact", "metrics"].map(|of| format!("--{of}-listen 127.0.0.1:0"));
        let run = format!("run --dir {dir} --otlp-endpoint {otlp} --log warn {}", ports.join(" "));
        let mut child = Self::command(&run).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.as_mut().unwrap());
        out.read_line(&mut line).await.unwrap();
        assert!(line.starts_with("ready grpc=https://"), "{line:?}");
        Self { folder, child }
    }

    fn command(line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fieldfare-controller"));
        command
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Tells it to stop, and waits until it did.
    async fn stop(mut self) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = ended.expect("it ends in time").unwrap();
        assert!(status.success(), "{status}");
    }
}

/// One call of the first operator.
async fn list_tokens(folder: &Path) {
    let operator = Identity::load(&folder.join("operator")).unwrap().unwrap();
    let endpoints = std::fs::read(folder.join("operator/endpoints.json")).unwrap();
    let endpoints: BTreeMap<String, String> = serde_json::from_slice(&endpoints).unwrap();
    let endpoint: Endpoint = endpoints["grpc"].parse().unwrap();
    let trust = ServerTrust::by(&operator, ExpectedServer::Controller);
    let time = fieldfare_controller::clock::system();
    let link = fieldfare_tls::connect(&endpoint, Some(&IdentityHandle::new(operator)), &trust, &time).await;
    let mut client = OperatorClient::new(link.unwrap().channel());
    client.list_tokens(ListTokensRequest {}).await.unwrap();
}

fn service(resource: Option<&Resource>) -> Option<String> {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    let attributes = &resource?.attributes;
    let name = attributes.iter().find(|attribute| attribute.key == "service.name")?;
    match name.value.as_ref()?.value.as_ref()? {
        Value::StringValue(name) => Some(name.clone()),
        _ => None,
    }
}

/// Names of the spans of our service.
fn spans(request: &ExportTraceServiceRequest) -> Vec<String> {
    let ours = request
        .resource_spans
        .iter()
        .filter(|spans| service(spans.resource.as_ref()).as_deref() == Some("fieldfare-controller"));
    ours.flat_map(|spans| &spans.scope_spans)
        .flat_map(|scope| &scope.spans)
        .map(|span| span.name.clone())
        .collect()
}

/// The metrics of our service that are one number each.
fn numbers(request: &ExportMetricsServiceRequest) -> BTreeMap<String, i64> {
    let ours = request
        .resource_metrics
        .iter()
        .filter(|metrics| service(metrics.resource.as_ref()).as_deref() == Some("fieldfare-controller"));
    let metrics = ours
        .flat_map(|metrics| &metrics.scope_metrics)
        .flat_map(|scope| &scope.metrics);
    let number = |metric: &opentelemetry_proto::tonic::metrics::v1::Metric| {
        let points = match metric.data.as_ref()? {
            metric::Data::Gauge(gauge) => &gauge.data_points,
            metric::Data::Sum(sum) => &sum.data_points,
            _ => return None,
        };
        match points.first()?.value? {
            number_data_point::Value::AsInt(value) => Some((metric.name.clone(), value)),
            number_data_point::Value::AsDouble(_) => None,
        }
    };
    metrics.filter_map(number).collect()
}

#[tokio::test]
async fn traces_and_metrics_reach_a_collector_at_the_latest_when_the_process_stops() {
    let (mut exports, endpoint) = collector().await;
    let process = Process::start(&endpoint).await;
    list_tokens(process.folder.path()).await;
    process.stop().await;
    let (mut seen, mut counted) = (Vec::new(), BTreeMap::new());
    while let Ok(export) = exports.try_recv() {
        match export {
            Export::Traces(request) => seen.extend(spans(&request)),
            Export::Metrics(request) => counted.extend(numbers(&request)),
        }
    }
    assert!(
        seen.contains(&"/fieldfare.v1.Operator/ListTokens".to_owned()),
        "{seen:?}"
    );
    for name in [
        "fieldfare.enrolments",
        "fieldfare.blob_bytes_received",
        "fieldfare.sessions",
        "fieldfare.devices",
    ] {
        assert_eq!(counted.get(name), Some(&0), "{name} in {counted:?}");
    }
}

#[tokio::test]
async fn a_collector_that_is_gone_stops_nothing() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let process = Process::start(&endpoint).await;
    list_tokens(process.folder.path()).await;
    process.stop().await;
}
