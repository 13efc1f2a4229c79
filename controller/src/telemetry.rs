//! Logs on standard error as text or JSON; traces and metrics by OTLP where an endpoint is given.

use std::io::IsTerminal;
use std::sync::Arc;

use anyhow::{Context, Result};
use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::config::{LogFormat, Run};
use crate::plane::ControlPlane;

const SERVICE: &str = "fieldfare-controller";

/// What is exported besides the log; sends what is buffered when it is told to.
#[derive(Debug, Default)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

impl Telemetry {
    /// Installs the process's subscriber. Must be called within a tokio runtime when an OTLP endpoint is given.
    pub fn install(options: &Run) -> Result<Self> {
        let endpoint = options.otlp_endpoint.as_deref();
        let traces = endpoint.map(traces).transpose()?;
        let metrics = endpoint.map(metrics).transpose()?;
        let otlp = traces.as_ref().map(|provider| {
            // The exporter's own calls are left out, or each export would make the next one.
            let spans = EnvFilter::new("info,h2=off,hyper=off,hyper_util=off,tonic=off,tower=off");
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer(SERVICE))
                .with_filter(spans)
        });
        // The log's filter is its own: how much is logged says nothing about what is traced.
        let filter = EnvFilter::try_new(&options.log).with_context(|| format!("--log {:?}", options.log))?;
        let mut log = fmt::layer().with_writer(std::io::stderr);
        if !std::io::stderr().is_terminal() {
            log.set_ansi(false);
        }
        let log = match options.log_format {
            LogFormat::Text => log.with_filter(filter).boxed(),
            LogFormat::Json => log.json().with_filter(filter).boxed(),
        };
        tracing_subscriber::registry().with(otlp).with(log).try_init()?;
        Ok(Self { traces, metrics })
    }

    /// Exports what a control plane counts, from now on.
    pub fn observe(&self, plane: &Arc<ControlPlane>) {
        if let Some(provider) = &self.metrics {
            crate::metrics::observe(plane, &provider.meter(SERVICE));
        }
    }

    /// Sends what is buffered, and stops.
    pub fn flush(self) {
        if let Some(Err(error)) = self.traces.map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "the last traces were not sent");
        }
        if let Some(Err(error)) = self.metrics.map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "the last metrics were not sent");
        }
    }
}

fn resource() -> Resource {
    Resource::builder().with_service_name(SERVICE).build()
}

fn traces(endpoint: &str) -> Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
    let exporter = exporter.with_context(|| format!("--otlp-endpoint {endpoint:?}"))?;
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter);
    Ok(provider.with_resource(resource()).build())
}

fn metrics(endpoint: &str) -> Result<SdkMeterProvider> {
    let exporter = MetricExporter::builder().with_tonic().with_endpoint(endpoint).build();
    let exporter = exporter.with_context(|| format!("--otlp-endpoint {endpoint:?}"))?;
    let provider = SdkMeterProvider::builder().with_periodic_exporter(exporter);
    Ok(provider.with_resource(resource()).build())
}
