//! Logs and traces: text or JSON on standard error, and OTLP where an endpoint is given.

use anyhow::{Context, Result};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{LogFormat, Run};

/// Sends what is buffered when it is told to.
#[derive(Debug, Default)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Installs the process's subscriber. Must be called within a tokio runtime when an OTLP endpoint is given.
    pub fn install(options: &Run) -> Result<Self> {
        let filter = EnvFilter::try_new(&options.log).with_context(|| format!("--log {:?}", options.log))?;
        let text = (options.log_format == LogFormat::Text)
            .then(|| tracing_subscriber::fmt::layer().with_writer(std::io::stderr));
        let json = (options.log_format == LogFormat::Json)
            .then(|| tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr));
        let traces = options.otlp_endpoint.as_deref().map(exporter).transpose()?;
        let otlp = traces.as_ref().map(|provider| {
            // The exporter's own calls are left out, or each export would make the next one.
            let spans = EnvFilter::new("info,h2=off,hyper=off,hyper_util=off,tonic=off,tower=off");
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("fieldfare-controller"))
                .with_filter(spans)
        });
        tracing_subscriber::registry()
            .with(otlp)
            .with(filter)
            .with(text)
            .with(json)
            .try_init()?;
        Ok(Self { traces })
    }

    /// Sends what is buffered, and stops.
    pub fn flush(self) {
        if let Some(Err(error)) = self.traces.map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

fn exporter(endpoint: &str) -> Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
    let exporter = exporter.with_context(|| format!("--otlp-endpoint {endpoint:?}"))?;
    let resource = Resource::builder().with_service_name("fieldfare-controller").build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}
