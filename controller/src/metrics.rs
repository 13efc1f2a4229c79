//! Counters and gauges for Prometheus.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What the process counts. Each gauge is set when the page is asked for.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    enrolments: Counter,
    enrolments_refused: Counter,
    sessions_opened: Counter,
    sessions_fenced: Counter,
    rollout_milestones: Family<Milestone, Counter>,
    blob_bytes_in: Counter,
    blob_bytes_out: Counter,
    sessions: Gauge<i64, AtomicI64>,
    devices: Gauge<i64, AtomicI64>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Milestone {
    milestone: String,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("fieldfare"),
            enrolments: Counter::default(),
            enrolments_refused: Counter::default(),
            sessions_opened: Counter::default(),
            sessions_fenced: Counter::default(),
            rollout_milestones: Family::default(),
            blob_bytes_in: Counter::default(),
            blob_bytes_out: Counter::default(),
            sessions: Gauge::default(),
            devices: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "enrolments",
            "Certificates issued at enrolment",
            self.enrolments.clone(),
        );
        registry.register(
            "enrolments_refused",
            "Enrolments that were refused",
            self.enrolments_refused.clone(),
        );
        registry.register(
            "sessions_opened",
            "Device sessions that were opened",
            self.sessions_opened.clone(),
        );
        registry.register(
            "sessions_fenced",
            "Device sessions ended by a newer one",
            self.sessions_fenced.clone(),
        );
        registry.register(
            "rollout_milestones",
            "Milestones of rollouts",
            self.rollout_milestones.clone(),
        );
        registry.register(
            "blob_bytes_received",
            "Bytes of blobs received",
            self.blob_bytes_in.clone(),
        );
        registry.register("blob_bytes_sent", "Bytes of blobs sent", self.blob_bytes_out.clone());
        registry.register("sessions", "Device sessions open now", self.sessions.clone());
        registry.register("devices", "Registered devices", self.devices.clone());
    }

    /// A certificate was issued at enrolment.
    pub fn enrolled(&self) {
        self.enrolments.inc();
    }

    /// An enrolment was refused.
    pub fn enrolment_refused(&self) {
        self.enrolments_refused.inc();
    }

    /// A session was opened.
    pub fn session_opened(&self) {
        self.sessions_opened.inc();
    }

    /// A session was ended by a newer one.
    pub fn session_fenced(&self) {
        self.sessions_fenced.inc();
    }

    /// A rollout reached a milestone.
    pub fn milestone(&self, name: &str) {
        self.rollout_milestones
            .get_or_create(&Milestone {
                milestone: name.to_owned(),
            })
            .inc();
    }

    /// Bytes of a blob arrived.
    pub fn blob_received(&self, bytes: u64) {
        self.blob_bytes_in.inc_by(bytes);
    }

    /// Bytes of a blob were sent.
    pub fn blob_sent(&self, bytes: u64) {
        self.blob_bytes_out.inc_by(bytes);
    }

    /// The page, in the OpenMetrics text format.
    pub fn page(&self, sessions: usize, devices: usize) -> Result<String, std::fmt::Error> {
        self.sessions.set(i64::try_from(sessions).unwrap_or(i64::MAX));
        self.devices.set(i64::try_from(devices).unwrap_or(i64::MAX));
        let mut page = String::new();
        encode(&mut page, &self.registry)?;
        Ok(page)
    }
}
