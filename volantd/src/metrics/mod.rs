//! What Prometheus reads: numbers of the daemon and of each VM, in the `OpenMetrics` text format.
//!
//! What happens (requests, boots) is counted as it happens; everything else is a [`Snapshot`] that a scrape brings along. There are no global
//! registries, and no label holds what a client or a guest chose but the names of VMs, which go with them. docs/metrics.md lists all of it.

mod snapshot;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use common::api::BootTimeline;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::machine::ports::BootSink;

pub use snapshot::{Snapshot, Totals, VmUse};

/// The media type of what [`Metrics::render`] gives (`OpenMetrics` 1.0, "Text Format").
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the buckets for requests, in seconds: most take about a millisecond, long polls and waits up to minutes.
const REQUEST_BUCKETS_S: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0,
];

/// Upper bounds of the buckets for boots, in seconds: some 50 ms with KVM, a minute and more under software emulation.
const BOOT_BUCKETS_S: [f64; 15] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// The parts of a boot, as the label `phase` has them.
pub const BOOT_PHASES: [&str; 5] = ["vmm", "kernel", "pid1", "workload", "ready"];

/// The methods that are told apart; a client may send any word as its method, and each would be a series of its own.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Which requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct RequestLabels {
    route: String,
    method: &'static str,
    status: &'static str,
}

impl EncodeLabelSet for RequestLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        [
            ("route", self.route.as_str()),
            ("method", self.method),
            ("status", self.status),
        ]
        .encode(encoder)
    }
}

/// Which durations are in one histogram.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct RouteLabels {
    route: String,
    method: &'static str,
}

impl EncodeLabelSet for RouteLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        [("route", self.route.as_str()), ("method", self.method)].encode(encoder)
    }
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Everything that is counted as it happens.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Histograms<RouteLabels>,
    open_streams: Gauge,
    boots: Histograms<[(&'static str, &'static str); 1]>,
}

impl Default for Metrics {
    fn default() -> Self {
        let requests = Family::<RequestLabels, Counter>::default();
        let durations: Histograms<RouteLabels> =
            Family::new_with_constructor(|| Histogram::new(REQUEST_BUCKETS_S));
        let open_streams = Gauge::default();
        let boots: Histograms<_> = Family::new_with_constructor(|| Histogram::new(BOOT_BUCKETS_S));
        let mut registry = Registry::default();
        registry.register(
            "volant_api_requests",
            "API requests by route template, method and class of status",
            requests.clone(),
        );
        registry.register_with_unit(
            "volant_api_request_duration",
            "Time from an API request to the head of its answer",
            Unit::Seconds,
            durations.clone(),
        );
        registry.register(
            "volant_api_open_streams",
            "Answers that may stay open and are: events, followed logs, sessions, copies, what is passed on to guests",
            open_streams.clone(),
        );
        registry.register_with_unit(
            "volant_boot_phase",
            "Time from the request for a start to each phase of the boot, for boots that became ready",
            Unit::Seconds,
            boots.clone(),
        );
        Self {
            registry,
            requests,
            durations,
            open_streams,
            boots,
        }
    }
}

impl Metrics {
    /// Counts an answered request. `route` is a template, never a path.
    pub fn request(&self, route: &str, method: &str, status: u16, took: Duration) {
        let method = METHODS
            .into_iter()
            .find(|known| *known == method)
            .unwrap_or("other");
        let status = match status {
            100..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        let labels = RequestLabels {
            route: route.to_owned(),
            method,
            status,
        };
        self.requests.get_or_create(&labels).inc();
        let RequestLabels { route, method, .. } = labels;
        self.durations
            .get_or_create(&RouteLabels { route, method })
            .observe(took.as_secs_f64());
    }

    /// Everything, with what `snapshot` says of the present.
    ///
    /// # Errors
    /// Only where a value cannot be written as text, which is a bug.
    pub fn render(&self, snapshot: Snapshot) -> Result<String, fmt::Error> {
        let mut present = Registry::default();
        present.register_collector(Box::new(snapshot));
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        encode_registry(&mut text, &present)?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}

impl BootSink for Metrics {
    fn booted(&self, boot: &BootTimeline) {
        let reached_ms = [
            boot.vmm_ms,
            boot.kernel_ms,
            boot.pid1_ms,
            boot.workload_ms,
            boot.ready_ms,
        ];
        for (phase, reached_ms) in BOOT_PHASES.into_iter().zip(reached_ms) {
            if let Some(ms) = reached_ms {
                let histogram = self.boots.get_or_create(&[("phase", phase)]);
                histogram.observe(ms / 1000.0);
            }
        }
    }
}

/// A stream that is open; counted until it is dropped.
#[derive(Debug)]
pub struct OpenStream(Arc<Metrics>);

impl OpenStream {
    /// Counts a stream.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        metrics.open_streams.inc();
        Self(metrics)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open_streams.dec();
    }
}
