//! What the controller counts, for `/metrics` and for OTLP.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::plane::ControlPlane;

const PREFIX: &str = "fieldfare";
const SESSIONS: (&str, &str) = ("sessions", "Device sessions open now");
const DEVICES: (&str, &str) = ("devices", "Registered devices");
const MILESTONES: (&str, &str) = ("rollout_milestones", "Milestones of rollouts");

/// What one process counts. The gauges are read when somebody asks.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    enrolments: Counter,
    enrolments_refused: Counter,
    sessions_opened: Counter,
    sessions_fenced: Counter,
    rollout_milestones: Family<Milestone, Counter>,
    /// Milestones that were reached: a family does not tell its members.
    reached: Mutex<BTreeSet<&'static str>>,
    blob_bytes_in: Counter,
    blob_bytes_out: Counter,
    sessions: Gauge<i64, AtomicI64>,
    devices: Gauge<i64, AtomicI64>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Milestone {
    milestone: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix(PREFIX),
            enrolments: Counter::default(),
            enrolments_refused: Counter::default(),
            sessions_opened: Counter::default(),
            sessions_fenced: Counter::default(),
            rollout_milestones: Family::default(),
            reached: Mutex::default(),
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
    /// Every counter without labels, with its name and what it counts.
    fn counters(&self) -> [(&'static str, &'static str, Counter); 6] {
        [
            (
                "enrolments",
                "Certificates issued at enrolment",
                self.enrolments.clone(),
            ),
            (
                "enrolments_refused",
                "Enrolments that were refused",
                self.enrolments_refused.clone(),
            ),
            (
                "sessions_opened",
                "Device sessions that were opened",
                self.sessions_opened.clone(),
            ),
            (
                "sessions_fenced",
                "Device sessions ended by a newer one",
                self.sessions_fenced.clone(),
            ),
            (
                "blob_bytes_received",
                "Bytes of blobs received",
                self.blob_bytes_in.clone(),
            ),
            ("blob_bytes_sent", "Bytes of blobs sent", self.blob_bytes_out.clone()),
        ]
    }

    fn register(&mut self) {
        for (name, help, counter) in self.counters() {
            self.registry.register(name, help, counter);
        }
        self.registry
            .register(MILESTONES.0, MILESTONES.1, self.rollout_milestones.clone());
        self.registry.register(SESSIONS.0, SESSIONS.1, self.sessions.clone());
        self.registry.register(DEVICES.0, DEVICES.1, self.devices.clone());
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
    pub fn milestone(&self, milestone: &'static str) {
        self.rollout_milestones.get_or_create(&Milestone { milestone }).inc();
        self.reached
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(milestone);
    }

    /// How often each milestone was reached.
    fn milestones(&self) -> Vec<(&'static str, u64)> {
        let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |milestone| self.rollout_milestones.get_or_create(&Milestone { milestone }).get();
        reached
            .iter()
            .map(|milestone| (*milestone, count(*milestone)))
            .collect()
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

/// Has a meter read the counters of a control plane whenever it exports.
pub fn observe(plane: &Arc<ControlPlane>, meter: &Meter) {
    let name = |name: &str| format!("{PREFIX}.{name}");
    for (of, help, counter) in plane.metrics.counters() {
        meter
            .u64_observable_counter(name(of))
            .with_description(help)
            .with_callback(move |observer| observer.observe(counter.get(), &[]))
            .build();
    }
    let counted = Arc::clone(plane);
    meter
        .u64_observable_counter(name(MILESTONES.0))
        .with_description(MILESTONES.1)
        .with_callback(move |observer| {
            for (milestone, count) in counted.metrics.milestones() {
                observer.observe(count, &[KeyValue::new("milestone", milestone)]);
            }
        })
        .build();
    let gauge = |(of, help): (&'static str, &'static str), read: fn(&ControlPlane) -> usize| {
        let plane = Arc::clone(plane);
        meter
            .i64_observable_gauge(name(of))
            .with_description(help)
            .with_callback(move |observer| observer.observe(i64::try_from(read(&plane)).unwrap_or(i64::MAX), &[]))
            .build();
    };
    gauge(SESSIONS, |plane| plane.presence.connected());
    gauge(DEVICES, |plane| plane.mirror.read().devices.len());
}
